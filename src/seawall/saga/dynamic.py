"""Sagas whose steps are only known as they go: a block that calls `do`, with every step keyed by its name and occurrence.

Nothing runs the block for you: after a crash it is opened again with the same id, its finished steps return what they returned
then, and it goes on. When the block ends with an error, all that it did is taken back.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from seawall.core import units
from seawall.core.outcome import hint
from seawall.policies.retry import RetryRule
from seawall.saga import store
from seawall.saga.act import worth
from seawall.saga.context import Context, Unknown
from seawall.saga.definition import FOREVER, ONCE, hash_of, wish
from seawall.saga.errors import InputChanged, LeaseLost, SagaCompensated, SagaError, SagaStuck
from seawall.saga.lease import Fence
from seawall.saga.plan import TERMINAL, Graph, Record
from seawall.saga.port import Append, Row, Start, Tx, Verb

if TYPE_CHECKING:
    from seawall.pipeline.retry import Retry
    from seawall.saga.sagas import Sagas

R = TypeVar("R")
MOST_STEPS: Final = 10_000


class _Undo:
    """What takes one step back, as this run of the block knows it."""

    def __init__(self, key: str, step: str, args: tuple[Any, ...], fn: Callable[..., Any] | None, result: Any) -> None:
        self.key = key
        self.step = step
        self.args = args
        self.fn = fn
        self.result = result


class Open:
    """One dynamic saga; made by `sagas.open(name, id=...)` and entered with `async with`.

    Raises SagaCompensated when it was taken back before, SagaStuck when it is stuck, LeaseLost while another process has it open.
    """

    def __init__(self, sagas: Sagas, name: str, user_id: str) -> None:
        self._sagas = sagas
        self.name = name
        self.id = user_id
        self._row: Row | None = None
        self._lines: dict[tuple[str, str], Record] = {}
        self._seq = 0
        self._stamp = 0
        self._counts: dict[str, int] = {}
        self._undos: list[_Undo] = []
        self._hash = hash_of(name, 0, Graph(()))

    async def __aenter__(self) -> Open:
        sagas = self._sagas
        if not sagas.worker_id:
            raise SagaError("sagas.open needs a worker: open the Sagas without worker=False")
        start = Start(uuid.uuid4().hex, self.name, 0, self._hash, self.id, "dynamic", None, None, owner=sagas.worker_id)
        found = await sagas.committer.send(start)
        worker = sagas.worker_id
        self._row = await sagas.committer.send(Verb(lambda tx: _take(tx, found.id, worker, new=found.new)))
        assert self._row is not None
        if self._row.status in TERMINAL and self._row.status != "completed":
            raise SagaCompensated(
                f"{self.name} {self.id} was taken back: {self._row.error}", id=self.id, name=self.name, status=self._row.status,
                cause=self._row.error,
            )  # fmt: skip
        for record in self._row.records:
            self._lines[record.step, record.phase] = record
        self._seq = len(self._row.records)
        return self

    async def do(
        self, name: str, fn: Callable[..., Awaitable[R] | R], *args: Any, undo: Callable[..., Any] | None = None,
        rejects: tuple[type[Exception], ...] | type[Exception] = (), retry: Retry | None = None,
        timeout: float | str | None = None, wants: Any = Any,
    ) -> R:  # fmt: skip
        """Run one step, or return what it returned before the crash.

        fn: called with (ctx, *args), sync functions in a thread. undo: called with (ctx, *args, result), repeated until it
        succeeds; the result may be `Unknown`. rejects: errors that prove that nothing happened. retry, timeout: as in `@step`.
        wants: the type to read the result as after a restart; default Any = plain data.
        Raises what the step raises; SagaStuck when the block went another way than before the crash.
        """
        count = self._counts[name] = self._counts.get(name, 0) + 1
        if len(self._undos) >= MOST_STEPS:
            raise SagaError(f"{self.name} {self.id} has {MOST_STEPS} steps; split it")
        key = f"{name}#{count}"
        print_ = self._sagas.codec.fingerprint(list(args), f"the arguments of {self.name}.{key}")
        before, intent = self._lines.get((key, "do")), self._lines.get((key, "intent"))
        if intent is None:
            if any(line.seq > 0 and (line.step not in self._seen) for line in self._lines.values()):
                await self._mismatch(f"{key} comes where other steps came before the restart")
            await self._append(key, "intent", print_)
        elif intent.outcome != print_:
            await self._mismatch(f"{key} had other arguments before the restart")
        self._seen_add(key)
        if before is not None and before.outcome == "ok":
            value = self._sagas.codec.read(before.result, wants, f"the result of {self.name}.{key}")
            self._undos.append(_Undo(key, name, args, undo, value))
            return value  # type: ignore[no-any-return]
        self._undos.append(_Undo(key, name, args, undo, Unknown("it may have been started")))
        kinds = rejects if isinstance(rejects, tuple) else (rejects,)
        value = await self._attempt(key, fn, args, kinds, retry, timeout, doubtful=intent is not None)
        text = self._sagas.codec.write(value, f"the result of {self.name}.{key}")
        await self._append(key, "do", "ok", result=text)
        self._undos[-1].result = value
        return value  # type: ignore[no-any-return]

    @property
    def _seen(self) -> set[str]:
        return {f"{name}#{n}" for name, count in self._counts.items() for n in range(1, count + 1)}

    def _seen_add(self, key: str) -> None:
        """Counted in `_counts` already; the lines of this step are no surprise any more."""
        if (key, "intent") in self._lines and len(self._lines) > 2 * MOST_STEPS:
            raise SagaError(f"{self.name} {self.id} has more than {MOST_STEPS} steps")

    async def _attempt(
        self, key: str, fn: Callable[..., Any], args: tuple[Any, ...], rejects: tuple[type[Exception], ...], retry: Retry | None,
        timeout: float | str | None, *, doubtful: bool,
    ) -> Any:  # fmt: skip
        rule: RetryRule = ONCE if retry is None else retry.rule
        limit = None if timeout is None else units.seconds("timeout", timeout)
        attempt = 0
        while True:
            attempt += 1
            context = self._context(key, attempt)
            try:
                return await self._call(fn, context, args, limit)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"[:500]
                if rejects and isinstance(error, rejects):
                    proof = not doubtful and attempt == 1
                    await self._append(key, "do", "rejected" if proof else "unknown", error=said)
                    if proof:
                        self._undos.pop()
                    raise
                if attempt >= rule.attempts or not worth(error, None if retry is None else wish(retry)):
                    await self._append(key, "do", "unknown", error=said)
                    raise
                pause = rule.wait(attempt, self._sagas.clock.random.random(), None, hint(error))
                await self._sagas.clock.asleep(pause)

    def _context(self, key: str, attempt: int, *, undo: bool = False) -> Context:
        assert self._row is not None
        own = f"{self._row.id}.{key}"
        fence = Fence(self._sagas.journal.timeline, self._row.epoch)
        return Context(
            self.id, self._row.id, self.name, key, f"{own}.undo" if undo else own, fence, attempt, undoes=own if undo else None
        )

    async def _call(self, fn: Callable[..., Any], context: Context, args: tuple[Any, ...], limit: float | None) -> Any:
        async with asyncio.timeout(limit):
            if inspect.iscoroutinefunction(fn):
                return await fn(context, *args)
            value = await self._sagas.in_thread(fn, context, *args)
            return await value if inspect.isawaitable(value) else value

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._row is None or self._row.status in (*TERMINAL, "stuck"):
            return
        if error is None:
            await self._append("", "", "", status="completed")
        elif isinstance(error, (LeaseLost, SagaStuck)) or not isinstance(error, Exception):
            return  # the process ends, or the saga is another's: it is opened again with its id
        else:
            await self._back(error)

    async def _back(self, error: Exception) -> None:
        """Take back all that was done, in reverse; every undo is repeated until it succeeds."""
        cause = f"{type(error).__name__}: {error}"[:500]
        if ("", "turn") not in self._lines:
            await self._append("", "turn", "backward", error=cause, status="compensating")
        for undo in reversed(self._undos):
            if undo.fn is not None and (undo.key, "undo") not in self._lines:
                await self._take_back(undo)
                await self._append(undo.key, "undo", "ok", status="compensating")
        await self._append("", "", "", status="compensated", error=cause)
        error.add_note(f"{self.name} {self.id} was taken back")

    async def _take_back(self, undo: _Undo) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                assert undo.fn is not None
                await self._call(undo.fn, self._context(undo.key, attempt, undo=True), (*undo.args, undo.result), None)
            except Exception as error:
                if attempt == 10:
                    self._sagas.emit("saga.alert", self._row, step=undo.key, attempts=attempt, error=repr(error), undo=True)
                await self._sagas.clock.asleep(FOREVER.wait(attempt, self._sagas.clock.random.random(), None, hint(error)))
            else:
                return

    async def _mismatch(self, why: str) -> None:
        await self._append("", "", "", status="stuck", error=f"definition_mismatch: {why}")
        raise SagaStuck(
            f"{self.name} {self.id} is stuck: definition_mismatch: {why}", id=self.id, name=self.name, status="stuck", cause=why
        )

    async def _append(
        self, step: str, phase: str, outcome: str, *, result: str | None = None, error: str | None = None, status: str = "running"
    ) -> None:
        row, now = self._row, self._sagas.clock.wall()
        assert row is not None
        lines = []
        if phase:
            lines = [Record(self._seq + 1, step, phase, outcome, 0, 1, result, error, now, now)]  # type: ignore[arg-type]
        self._stamp += 1
        ended = status in (*TERMINAL, "stuck")
        await self._sagas.committer.send(
            Append(
                row.id, self._sagas.worker_id, row.epoch, self._stamp, lines, status, wake=None, release=ended,
                error=error if ended else None, edge=True, ends=ended,
            )
        )  # fmt: skip
        row.status = status
        for line in lines:
            self._seq += 1
            self._lines[step, phase] = line


def _take(tx: Tx, saga: str, worker: str, *, new: bool) -> Row:
    """The saga as ours. Raises LeaseLost while somebody who lives has it, InputChanged when it is none of this kind."""
    row = store.find(tx, saga)
    if row.input_hash != "dynamic":
        raise InputChanged(f"{row.name} {row.user_id} is a saga with a definition; start it, do not open it")
    if row.status in TERMINAL:
        return row
    if not new and row.owner is not None and row.owner in tx.living():
        raise LeaseLost(f"{row.name} {row.user_id} is open elsewhere, in worker {row.owner}")
    if not new:
        tx.execute("UPDATE saga SET owner=?, epoch=epoch+1, stamp=0 WHERE id=?", (worker, row.id))
        row.epoch += 1
    tx.execute("UPDATE saga SET wake_at=NULL, status='running', error=NULL WHERE id=?", (row.id,))
    row.owner, row.status = worker, "running"
    return row
