"""The front of the room: a journal, the sagas that run by it, and a worker if this process is one."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import uuid
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.events import Event, Sink, Sinks, everywhere
from seawall.core.runtime import refuse_under_loop
from seawall.saga import operate, store
from seawall.saga.codec import LARGEST, Cipher, Codec
from seawall.saga.commit import Committer
from seawall.saga.definition import Definition, Saga
from seawall.saga.driver import adriver_of, driver_of
from seawall.saga.engines import sagas_class
from seawall.saga.errors import DefinitionError, InputChanged, UnknownSaga
from seawall.saga.handle import Handle
from seawall.saga.journals import open_journal
from seawall.saga.plan import Durability
from seawall.saga.port import Hooks, Row, Start, Started, Verb
from seawall.saga.starting import SagasSnapshot, check_id, is_local, tags_text
from seawall.saga.worker import Worker

if TYPE_CHECKING:
    from seawall.saga.dynamic import Open

In = TypeVar("In")
Out = TypeVar("Out")
log = logging.getLogger("seawall.saga")


class Sagas:
    """A journal and the sagas that run by it: `async with Sagas("sqlite:///orders.db", [PlaceOrder(stock)]) as sagas`.

    url: "sqlite:///file" (four slashes for an absolute path) or "postgresql://…". sagas: instances of `Saga` classes, of any
    versions.
    worker: whether this process runs sagas, or only starts and asks. Default True.
    durability: "strict" (default) syncs every commit; "edges" syncs starts, pivots, intents, ends and operators' words, so that a
        power cut may repeat the last steps with the same keys; "relaxed" syncs claims, operators' words, and what must be safe
        before a pivot or an at_most_once step, so that a power cut may also lose the latest starts. A crash of this process alone
        loses nothing in any of them.
    lease: seconds, >= 0.5, after which a frozen worker's sagas are taken over. Default 10. poll: seconds between looks for work.
        Default 0.5. running: sagas in memory at once, >= 1. Default 100. threads: for plain functions. Default 16.
    grace: seconds that steps get to end when it is closed. Default 10. archive_after: seconds (or "90d") after its last change
        that a worker moves an ended saga into the archive table, where its id is free again; default None = never.
    largest: bytes of one payload. Default 1 MiB. cipher: hides every payload. name: of this worker in the journal.
    queue: operations that may wait for the journal before `start` raises Overloaded. Default 10 000. Further options go to the
    journal.

    Raises JournalError when it is opened and the database cannot be used; ValueError or TypeError for a parameter out of range.
    """

    def __new__(cls, url: str, *_: Any, **__: Any) -> Sagas:
        """On an engine's URL it is another class with the same front."""
        return super().__new__((sagas_class(url) or cls) if cls is Sagas else cls)

    def __init__(
        self, url: str, sagas: Iterable[Saga[Any, Any]] = (), *, worker: bool = True, durability: Durability = "strict",
        lease: float | str = 10.0, poll: float | str = 0.5, running: int = 100, threads: int = 16, grace: float | str = 10.0,
        archive_after: float | str | None = None,
        largest: int = LARGEST, cipher: Cipher | None = None, name: str = "worker", queue: int = 10_000,
        clock: Clock | None = None, hooks: Hooks | None = None, inline: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.clock = clocks.resolve(clock)
        self.codec = Codec(largest=largest, cipher=cipher)
        units.one_of("durability", durability, ("strict", "edges", "relaxed"))
        self.journal = open_journal(url, clock, **options)
        self.committer = Committer(
            self.journal, durability=durability, most=units.whole("queue", queue), hooks=hooks, inline=inline
        )
        self.name = name
        self.worker_id = ""
        self.closing = False
        self.opened: set[str] = set()
        self._by_hash: dict[str, tuple[Definition, Saga[Any, Any]]] = {}
        self._waiters: dict[str, list[asyncio.Future[Any]]] = {}
        self._sinks = Sinks()
        self._settings: dict[str, Any] = {
            "running": units.whole("running", running), "threads": units.whole("threads", threads),
            "lease": units.seconds("lease", lease, above=0.5), "poll": units.seconds("poll", poll),
            "grace": units.seconds("grace", grace, zero=True),
            "archive_after": None if archive_after is None else units.seconds("archive_after", archive_after),
        }  # fmt: skip
        self.is_worker = worker
        self._worker: Worker | None = None
        for saga in sagas:
            self._declare(saga)
        self.hashes = list(self._by_hash)
        self.uses_locks = any(
            step.options.locks for definition, _ in self._by_hash.values() for step in definition.steps.values()
        )

    def _declare(self, saga: Saga[Any, Any]) -> None:
        definition = getattr(saga, "definition", None)
        if isinstance(saga, type) or definition is None:
            raise DefinitionError(f"sagas must be instances of Saga classes with steps, such as PlaceOrder(stock); got {saga!r}")
        for known, _ in self._by_hash.values():
            if (known.name, known.version) == (definition.name, definition.version):
                raise DefinitionError(
                    f"{known.name} version {known.version} is given twice; give the changed one another version"
                )
        if any(step.options.tx for step in definition.steps.values()) and "tx" not in self.journal.capabilities:
            raise DefinitionError(f"{definition.name} has a tx=True step, and this journal cannot run one")
        self._by_hash[definition.hash] = (definition, saga)

    # --- opening and closing

    async def __aenter__(self) -> Sagas:
        await asyncio.to_thread(self._open)
        if self.is_worker:
            self._worker = Worker(self, **self._settings)
            try:
                await self._worker.open()
            except BaseException:
                self.committer.close()
                self.journal.close()
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._worker is not None:
                await self._worker.close()
        finally:
            await asyncio.to_thread(self._close)

    def __enter__(self) -> Sagas:
        refuse_under_loop("with Sagas(...)", "async with Sagas(...)")
        if self.is_worker:
            raise ValueError("a worker needs an event loop: write `async with Sagas(...)`, or worker=False to start and ask only")
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def _open(self) -> None:
        self.journal.open()
        self.committer.open()
        rows = [(d.hash, d.name, d.version, d.as_json()) for d, _ in self._by_hash.values()]
        if rows:
            self.committer.send_sync(Verb(lambda tx: store.declare(tx, rows)))

    def _close(self) -> None:
        self.committer.close()
        self.journal.close()

    def abandon(self) -> None:
        """For tests of crashes: stop at once, as kill -9 would."""
        if self._worker is not None:
            self._worker.abandon()

    # --- starting and asking

    async def start(
        self,
        saga: type[Saga[In, Out]] | str,
        input: In,
        *,
        id: str | None = None,
        tx: Any = None,
        tags: dict[str, str] | None = None,
    ) -> Handle[Out]:
        """Start a saga, or find the one that was started with this id.

        saga: its class, or its name (the newest version given here). input: what its steps get. id: 1 to 200 characters, unique
        per name; default a random one. tx: the caller's own connection to the journal's database: the saga then starts when that
        transaction commits. tags: up to 20 pairs of text to find it by.
        When this returns, the saga survives a crash (with tx: when the transaction has committed).
        Raises InputChanged when the id was used with another input; UnknownSaga, NotSerialisable, PayloadTooLarge, Overloaded,
        JournalError, and then nothing was started.
        """
        op = self._start_of(saga, input, id, tags)
        if tx is not None:
            found = await self._start_in(tx, op)
            return self._handle(op, found)
        worker = self._worker
        if worker is not None and worker.has_room and op.hash in self._by_hash:
            op.owner = worker.id
        found = await self.committer.send(op)
        if found.new and op.owner is not None and worker is not None:
            worker.run(self._row_of(op))
        elif found.new:
            self.kick()
        return self._handle(op, found)

    async def _start_in(self, tx: Any, op: Start) -> Started:
        tx = await adriver_of(tx)
        if inspect.iscoroutinefunction(getattr(tx, "execute", None)):
            return await self.journal.astart_in(tx, op)
        return self.journal.start_in(tx, op) if is_local(tx) else await asyncio.to_thread(self.journal.start_in, tx, op)

    def start_sync(
        self, saga: type[Saga[In, Out]] | str, input: In, *, id: str | None = None, tx: Any = None,
        tags: dict[str, str] | None = None,
    ) -> Handle[Out]:  # fmt: skip
        """The same for a thread without a loop."""
        refuse_under_loop("sagas.start_sync", "sagas.start")
        op = self._start_of(saga, input, id, tags)
        found = self.journal.start_in(driver_of(tx), op) if tx is not None else self.committer.send_sync(op)
        return self._handle(op, found)

    def _start_of(self, saga: Any, value: Any, user_id: str | None, tags: dict[str, str] | None) -> Start:
        definition = self.definition_of(saga)
        user_id = uuid.uuid4().hex if user_id is None else user_id
        check_id(user_id)
        what = f"the input of {definition.name} {user_id}"
        text = self.codec.write(value, what)
        self.codec.read(text, definition.input_type, what)
        return Start(
            uuid.uuid4().hex, definition.name, definition.version, definition.hash, user_id,
            self.codec.fingerprint(value, what), text, definition.deadline, tags=tags_text(tags),
        )  # fmt: skip

    def _row_of(self, op: Start) -> Row:
        now = self.now()
        deadline = None if op.deadline is None else now + op.deadline
        return Row(
            id=op.id, name=op.name, version=op.version, hash=op.hash, user_id=op.user_id, input=op.input, status="running",
            epoch=1, owner=op.owner, wake_at=now, deadline=deadline, parent=op.parent, notes=None, takeovers=0, cancel=None,
            output=None, error=None, created=now, updated=now,
        )  # fmt: skip

    def _handle(self, op: Start, found: Started) -> Handle[Any]:
        if not found.new and found.input_hash != op.input_hash:
            raise InputChanged(
                f"{op.name} {op.user_id} was started with another input; an id belongs to one input, "
                "so use another id for this one"
            )
        return Handle(self, found.id, op.user_id, op.name, new=found.new)

    async def handle(self, id: str, *, name: str | None = None) -> Handle[Any]:
        """The saga of this id. Raises UnknownSaga."""
        row: Row = await self.read(lambda tx: store.find(tx, id, name))
        return Handle(self, row.id, row.user_id, row.name)

    async def signal(self, id: str, name: str, payload: Any = None, *, signal_id: str | None = None) -> bool:
        """Send a signal to the saga of this id; see `Handle.signal`."""
        text = self.codec.write(payload, f"the payload of signal {name}")
        key = signal_id or uuid.uuid4().hex
        fresh = await self.committer.send(Verb(lambda tx: store.send_signal(tx, id, name, text, key))) or signal_id is None
        if self._worker is not None:
            row: Row = await self.read(lambda tx: store.find(tx, id))
            self._worker._nudge(row.id)
        return bool(fresh)

    async def operate(self, id: str, word: operate.Word, *, name: str | None = None) -> Row:
        """Carry out an operator's word on the saga of this id; see `seawall.saga.operate`. Raises NotAllowed or UnknownSaga."""
        token = uuid.uuid4().hex
        row: Row = await self.committer.send(Verb(lambda tx: operate.apply(tx, id, word, name, token)))
        self.taken(row.id)
        return row

    async def archive(self, older_than: float | str, *, limit: int = 1000) -> int:
        """Move up to `limit` ended sagas whose last change is older than `older_than` into the archive table; how many.

        An archived id can be started again.
        """
        age, most = units.seconds("older_than", older_than, zero=True), units.whole("limit", limit)
        return int(await self.committer.send(Verb(lambda tx: store.archive(tx, age, most), edge=False)))

    def open(self, name: str, *, id: str, ordered: bool = True) -> Open:
        """A saga whose steps are only known as it goes: `async with sagas.open("trip", id=...) as s: await s.do(...)`.

        name: 1 to 100 characters. id: 1 to 200 characters, unique per name; the same one opens it again after a crash. ordered:
        whether its steps come one after the other, so that a block that goes another way after a crash is found at its first
        step; default True. With False, steps with different names may run side by side, and it is found at the block's end.
        """
        if not isinstance(name, str) or not 1 <= len(name) <= 100:
            raise ValueError(f"name must be text of 1 to 100 characters; got {name!r:.150}")
        check_id(id)
        from seawall.saga.dynamic import Open

        return Open(self, name, id, ordered=ordered)

    # --- for the rest of the room

    def definition_of(self, saga: Any) -> Definition:
        """The definition of a class, or of a name's newest version here. Raises UnknownSaga or DefinitionError."""
        if isinstance(saga, str):
            found = sorted((d for d, _ in self._by_hash.values() if d.name == saga), key=lambda d: d.version)
            if not found:
                names = ", ".join(sorted({d.name for d, _ in self._by_hash.values()})) or "none"
                raise UnknownSaga(f"no saga {saga!r} was given to this Sagas; those that were: {names}")
            return found[-1]
        definition: Definition | None = getattr(saga, "definition", None)
        if definition is None:
            raise DefinitionError(f"saga must be a Saga class with steps, or its name; got {saga!r}")
        if self.is_worker and definition.hash not in self._by_hash:
            raise UnknownSaga(f"{definition.name} version {definition.version} was not given to this Sagas; give it an instance")
        return definition

    child_of = definition_of

    def definition(self, hash: str) -> tuple[Definition, Any]:
        """A definition and its instance by the hash in a saga's row."""
        return self._by_hash[hash]

    def output_of(self, row: Row) -> Any:
        """What a completed saga returned."""
        found = self._by_hash.get(row.hash)
        wanted = found[0].output_type if found is not None else Any
        return self.codec.read(row.output, wanted, f"the output of {row.name} {row.user_id}")

    async def read(self, run: Callable[[Any], Any]) -> Any:
        """Run queries outside the loop's thread."""
        if self.committer._inline:
            return self.journal.read(run)
        return await asyncio.get_running_loop().run_in_executor(None, self.journal.read, run)

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a plain step."""
        assert self._worker is not None
        return self._worker.in_thread(fn, *args)

    def now(self) -> float:
        """The journal's moment, in seconds since 1970."""
        return self.clock.wall() + self.journal.skew

    def kick(self) -> None:
        """Look for work now."""
        if self._worker is not None:
            self._worker.kick()

    def runs(self, saga: str) -> bool:
        """Whether a saga is in this process's memory."""
        return self._worker is not None and saga in self._worker.runners

    def taken(self, saga: str) -> None:
        """A human's word took a saga out of its owner's hands: if that was us, let go of it now."""
        if self._worker is not None and saga in self._worker.runners:
            self._worker.runners[saga][1].cancel()
        self.kick()

    def waiter(self, saga: str) -> asyncio.Future[Any]:
        """A future that ends with the saga's row, or with None when it is worth another look."""
        made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(saga, []).append(made)
        return made

    def no_waiter(self, saga: str, waiter: asyncio.Future[Any]) -> None:
        """Nobody waits on it any more."""
        waiting = self._waiters.get(saga)
        if waiting is not None:
            with contextlib.suppress(ValueError):
                waiting.remove(waiter)
            if not waiting:
                del self._waiters[saga]

    def ended(self, row: Row) -> None:
        """A saga ended or is stuck: tell who waits."""
        for waiter in self._waiters.pop(row.id, ()):
            if not waiter.done():
                waiter.set_result(row)

    def look_again(self, saga: str) -> None:
        """Something happened to a saga elsewhere."""
        for waiter in self._waiters.pop(saga, ()):
            if not waiter.done():
                waiter.set_result(None)

    # --- telling

    def subscribe(self, sink: Sink) -> Callable[[], None]:
        """Hand every event of these sagas to `sink`; the result ends that."""
        return self._sinks.add(sink)

    def emit(self, kind: str, row: Row | None, **data: Any) -> None:
        """Tell what happened; what needs a human is logged too."""
        if kind in ("saga.stuck", "saga.alert", "saga.failed_inside"):
            log.error("%s %s %s: %s", kind, row and row.name, row and row.user_id, data)
        if kind == "saga.fenced" and self._worker is not None:
            self._worker.fenced += 1
        if not (self._sinks or everywhere):
            return
        whose = {} if row is None else {"id": row.user_id, "saga": row.id}
        event = Event(kind, row.name if row is not None else self.name, self.clock.monotonic(), None, {**whose, **data})
        self._sinks.emit(event)
        everywhere.emit(event)

    def snapshot(self) -> SagasSnapshot:
        """What it holds now."""
        figures, worker = self.committer.figures, self._worker
        return SagasSnapshot(
            "sagas", self.name, self.worker_id or None, len(worker.runners) if worker else 0, worker.taken_over if worker else 0,
            worker.fenced if worker else 0, worker.rejoined if worker else 0, figures.batches,
            figures.ops, figures.resent, figures.longest,
        )  # fmt: skip
