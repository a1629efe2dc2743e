"""`Sagas` on an engine: the same front, and a refusal by name for what the engine lacks."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.events import Sinks
from seawall.saga.codec import LARGEST, Cipher, Codec
from seawall.saga.definition import Definition, Saga
from seawall.saga.engines import engine_class, port
from seawall.saga.errors import DefinitionError, InputChanged, ResultTimeout, SagaError
from seawall.saga.handle import Handle
from seawall.saga.operate import Word
from seawall.saga.port import Row, Start, Started
from seawall.saga.sagas import Sagas
from seawall.saga.starting import SagasSnapshot

Out = TypeVar("Out")


class EngineSagas(Sagas):
    """What `Sagas(url, ...)` is when the URL names an engine of others. Its parameters are those of `Sagas`; lease is the time
    without a sign of life after which an attempt is given to another worker. Further options go to the engine.

    Raises NotOffered for a saga or a setting that needs what the engine lacks.
    """

    def __init__(
        self, url: str, sagas: Iterable[Saga[Any, Any]] = (), *, worker: bool = True, lease: float | str = 10.0,
        poll: float | str = 0.5, running: int = 100, threads: int = 16, grace: float | str = 10.0, largest: int = LARGEST,
        cipher: Cipher | None = None, name: str = "worker", queue: int = 10_000, clock: Clock | None = None,
        durability: Any = "strict", hooks: Any = None, inline: bool = False, archive_after: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        self.clock = clocks.resolve(clock)
        self.codec = Codec(largest=largest, cipher=cipher)
        self.name = name
        self.worker_id = ""
        self.closing = False
        self.lease = units.seconds("lease", lease, above=0.5)
        self.poll, self.grace = units.seconds("poll", poll), units.seconds("grace", grace, zero=True)
        self.running, self.threads = units.whole("running", running), units.whole("threads", threads)
        units.whole("queue", queue)
        self._by_hash: dict[str, tuple[Definition, Saga[Any, Any]]] = {}
        self._sinks = Sinks()
        self.is_worker = worker
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self.engine: port.Engine = engine_class(url)(self, url, **options)
        settings = {"durability": durability, "hooks": hooks, "inline": inline, "archive_after": archive_after}
        port.check_settings(self.engine.name, self.engine.capabilities, largest, self.engine.largest, settings)
        for saga in sagas:
            self._declare(saga)
        self.hashes = list(self._by_hash)
        self.uses_locks = False

    def _declare(self, saga: Saga[Any, Any]) -> None:
        definition = getattr(saga, "definition", None)
        if isinstance(saga, type) or definition is None:
            raise DefinitionError(f"sagas must be instances of Saga classes with steps, such as PlaceOrder(stock); got {saga!r}")
        for known, _ in self._by_hash.values():
            if (known.name, known.version) == (definition.name, definition.version):
                raise DefinitionError(
                    f"{known.name} version {known.version} is given twice; give the changed one another version"
                )
        port.check(self.engine.name, self.engine.capabilities, definition)
        self._by_hash[definition.hash] = (definition, saga)

    # --- opening and closing

    async def __aenter__(self) -> EngineSagas:
        await self.engine.open()
        if self.is_worker and self._by_hash:
            self._pool = concurrent.futures.ThreadPoolExecutor(self.threads, "saga-step")
            try:
                await self.engine.run_worker()
            except BaseException:
                await self.engine.close()
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing = True
        try:
            await self.engine.close()
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=False)

    def __enter__(self) -> NoReturn:
        raise port.refuse(self.engine.name, "sync", "with Sagas(...)")

    def abandon(self) -> NoReturn:
        """There is no worker of ours to abandon."""
        raise port.refuse(self.engine.name, "hooks", "abandon()")

    # --- starting and asking

    async def start(
        self, saga: Any, input: Any, *, id: str | None = None, tx: Any = None, tags: dict[str, str] | None = None
    ) -> Handle[Any]:
        """Start a saga, or find the one that was started with this id; see `Sagas.start`. Raises NotOffered for `tx`."""
        op = self._start_of(saga, input, id, tags)
        if tx is not None:
            raise port.refuse(self.engine.name, "tx_start", f"start({op.name!r}, tx=...)")
        definition = self.definition_of(saga)
        port.check(self.engine.name, self.engine.capabilities, definition)
        found = await self.engine.start(op, port.brief_of(op, definition, self.lease, self.clock.wall()))
        return self._handle(op, found)

    def start_sync(self, saga: Any, input: Any, **_: Any) -> NoReturn:
        """An engine's client needs a loop."""
        raise port.refuse(self.engine.name, "sync", "start_sync")

    def _handle(self, op: Start, found: Started) -> Handle[Any]:
        if not found.new and found.input_hash != op.input_hash:
            raise InputChanged(
                f"{op.name} {op.user_id} was started with another input; an id belongs to one input, "
                "so use another id for this one"
            )
        return EngineHandle(self, found.id, op.user_id, op.name, new=found.new)

    async def handle(self, id: str, *, name: str | None = None) -> Handle[Any]:
        """The saga of this id. Raises UnknownSaga."""
        row = await self.engine.find(id, name)
        return EngineHandle(self, row.id, row.user_id, row.name)

    async def signal(self, id: str, name: str, payload: Any = None, *, signal_id: str | None = None) -> bool:
        """Send a signal to the saga of this id; see `Handle.signal`."""
        text = self.codec.write(payload, f"the payload of signal {name}")
        row = await self.engine.find(id, None)
        return await self.engine.signal(row.id, name, text, signal_id)

    async def operate(self, id: str, word: Word, *, name: str | None = None) -> Row:
        """Carry out an operator's word on the saga of this id; see `seawall.saga.operate`. Raises NotAllowed or UnknownSaga."""
        return await self._operate(await self.engine.find(id, name), word)

    async def _operate(self, row: Row, word: Word) -> Row:
        wanted = None
        if word.verb == "move":
            if "moves" not in self.engine.capabilities:
                raise port.refuse(self.engine.name, "moves", f"{row.name} {row.user_id}")
            found = [d for d, _ in self._by_hash.values() if d.name == row.name and str(d.version) == str(word.value)]
            wanted = found[0] if found else None
        return await self.engine.operate(row, word, wanted)

    async def list(self, *, name: str | None = None, statuses: Iterable[str] = (), limit: int = 100) -> list[Row]:
        """The newest sagas, without their journals. name, statuses: only these; default all. limit: at most so many."""
        return await self.engine.list(name, statuses, units.whole("limit", limit))

    async def health(self) -> port.Health:
        """Whether the engine answers."""
        return await self.engine.health()

    async def archive(self, older_than: float | str, *, limit: int = 1000) -> NoReturn:
        """How long ended sagas are kept is the engine's own setting."""
        raise port.refuse(self.engine.name, "archive", "archive()")

    def open(self, name: str, *, id: str, **_: Any) -> NoReturn:
        """Sagas whose steps are only known as they go need a journal of ours."""
        raise port.refuse(self.engine.name, "dynamic", f"open({name!r})")

    # --- for the engine

    def now(self) -> float:
        """This process's moment, in seconds since 1970."""
        return self.clock.wall()

    def given(self) -> Iterable[tuple[Definition, Saga[Any, Any]]]:
        """The definitions and instances that this process runs."""
        return tuple(self._by_hash.values())

    async def read(self, run: Callable[[Any], Any]) -> NoReturn:
        """There is no database of ours to read."""
        raise SagaError(f"{self.engine.name} keeps its own records; ask sagas.list() or handle.status()")

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a plain step."""
        return asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    def kick(self) -> None:
        """The engine itself hands out work."""

    def runs(self, saga: str) -> bool:
        """Where a saga runs is the engine's business."""
        return False

    def snapshot(self) -> SagasSnapshot:
        """What it holds now; the engine counts the rest."""
        figures = {name: 0 for name in SagasSnapshot.__dataclass_fields__ if name not in ("kind", "name", "worker")}
        return SagasSnapshot(kind=self.engine.name, name=self.name, worker=self.worker_id or None, **figures)


class EngineHandle(Handle[Out]):
    """A saga on an engine, as its starter sees it."""

    _sagas: EngineSagas

    async def result(self, timeout: float | str | None = None) -> Out:
        """The saga's output, once it has completed; see `Handle.result`."""
        limit = None if timeout is None else units.seconds("timeout", timeout)
        try:
            row = await asyncio.wait_for(self._sagas.engine.end(self.saga_id), limit)
        except TimeoutError:
            raise ResultTimeout(
                f"{self.name} {self.id} has not ended within {limit:g} s; ask again, or see why it waits"
            ) from None
        return self._out(row)

    def result_sync(self, timeout: float | str | None = None) -> NoReturn:
        """An engine's client needs a loop."""
        raise port.refuse(self._sagas.engine.name, "sync", "result_sync")

    async def row(self) -> Row:
        """The saga as it stands, with its records where the engine can tell them."""
        return await self._sagas.engine.find(self.id, self.name)

    async def status(self) -> str:
        """Its status now."""
        return (await self.row()).status

    async def signal(self, name: str, payload: Any = None, *, id: str | None = None) -> bool:
        """Send a signal, kept until a `wait_signal` step asks for it; see `Handle.signal`."""
        text = self._sagas.codec.write(payload, f"the payload of signal {name}")
        return await self._sagas.engine.signal(self.saga_id, name, text, id)

    async def cancel(self, reason: str, *, actor: str = "caller") -> None:
        """Take the saga back. Raises NotAllowed when it has ended or has passed its pivot."""
        await self._sagas._operate(await self.row(), Word("cancel", actor, reason))
