"""Sagas whose steps are only known as they go: a block that calls `do`, with every step keyed by its name and occurrence.

Nothing runs the block for you: after a crash it is opened again with the same id, its finished steps return what they returned
then, and it goes on. When the block ends with an error, all that it did is taken back.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from seawall.core import units
from seawall.core.outcome import hint
from seawall.policies.retry import RetryRule
from seawall.saga import store
from seawall.saga.act import worth
from seawall.saga.context import Context, Unknown
from seawall.saga.definition import FOREVER, ONCE, hash_of, wish
from seawall.saga.errors import InputChanged, JournalError, LeaseLost, SagaCompensated, SagaError, SagaStuck, StepFailed
from seawall.saga.host import persist
from seawall.saga.lease import Fence
from seawall.saga.operate import DYNAMIC
from seawall.saga.plan import TERMINAL, Graph, Record
from seawall.saga.port import Append, Row, Start, Tx, Verb

if TYPE_CHECKING:
    from seawall.pipeline.retry import Retry
    from seawall.saga.sagas import Sagas

R = TypeVar("R")
MOST_STEPS: Final = 10_000
ALERT_AFTER: Final = 10


@dataclass(slots=True)
class _Came:
    """One step that the block came to in this process. key: its name and occurrence. result: what its undo is given."""

    key: str
    args: tuple[Any, ...]
    undo: Callable[..., Any] | None
    result: Any


class Open:
    """One dynamic saga; made by `sagas.open(name, id=...)` and entered with `async with`.

    Entering raises SagaCompensated when it was taken back before, and LeaseLost while it is open elsewhere. Leaving without an
    error completes it; leaving with one takes back what was done and lets the error go on; a cancelled block stays as it is, to
    be opened again.
    """

    def __init__(self, sagas: Sagas, name: str, user_id: str, *, ordered: bool = True) -> None:
        self._sagas = sagas
        self.name = name
        self.id = user_id
        self._ordered = ordered
        self._row: Row
        self._old: set[str] = set()
        self._lines: dict[tuple[str, str], Record] = {}
        self._came: dict[str, _Came] = {}
        self._counts: dict[str, int] = {}
        self._stamp = self._safe = 0
        self._seq = 0
        self._busy: str | None = None
        self._writing = asyncio.Lock()

    # --- entering

    async def __aenter__(self) -> Open:
        sagas = self._sagas
        if not sagas.worker_id:
            raise SagaError("sagas.open needs a worker: open the Sagas without worker=False")
        start = Start(
            uuid.uuid4().hex, self.name, 0, hash_of(self.name, 0, Graph(())), self.id, DYNAMIC, None, None, owner=sagas.worker_id
        )
        found = await sagas.committer.send(start)
        worker, here = sagas.worker_id, sagas.opened
        self._row = row = await sagas.committer.send(Verb(lambda tx: _take(tx, found.id, worker, here, new=found.new)))
        if row.status in TERMINAL and row.status != "completed":
            raise self._taken_back(row.error)
        sagas.opened.add(row.id)
        self._lines = {(record.step, record.phase): record for record in row.records}
        self._old = {step for step, phase in self._lines if phase == "intent"}
        self._seq = len(row.records)
        return self

    def _taken_back(self, cause: str | None) -> SagaCompensated:
        told = f"{self.name} {self.id} was taken back: {cause}"
        return SagaCompensated(told, id=self.id, name=self.name, status=self._row.status, cause=cause)

    # --- steps

    @overload
    async def do(
        self, name: str, fn: Callable[..., Awaitable[R]], *args: Any, undo: Callable[..., Any] | None = None,
        rejects: tuple[type[Exception], ...] | type[Exception] = (), retry: Retry | None = None,
        timeout: float | str | None = None, wants: Any = Any,
    ) -> R: ...  # fmt: skip
    @overload
    async def do(
        self, name: str, fn: Callable[..., R], *args: Any, undo: Callable[..., Any] | None = None,
        rejects: tuple[type[Exception], ...] | type[Exception] = (), retry: Retry | None = None,
        timeout: float | str | None = None, wants: Any = Any,
    ) -> R: ...  # fmt: skip

    async def do(
        self, name: str, fn: Callable[..., Any], *args: Any, undo: Callable[..., Any] | None = None,
        rejects: tuple[type[Exception], ...] | type[Exception] = (), retry: Retry | None = None,
        timeout: float | str | None = None, wants: Any = Any,
    ) -> Any:  # fmt: skip
        """Run one step, or return what it returned before the crash.

        fn: called with (ctx, *args), sync functions in a thread. undo: called with (ctx, *args, result), repeated until it
        succeeds; the result may be `Unknown`. rejects: errors that prove that nothing happened. retry, timeout: as in `@step`.
        wants: the type to read the result as after a restart; default Any = plain data.
        Raises what the step raises; StepFailed when it failed before a restart; SagaStuck when the block went another way than
        before the restart; SagaCompensated when the saga was going back then.
        """
        if self._ordered and self._busy is not None:
            raise SagaError(
                f"{self.name}: {name} begins while {self._busy} runs; for steps side by side use open(..., ordered=False)"
            )
        self._busy = name
        try:
            came = await self._come(name, args, undo)
            before = self._lines.get((came.key, "do"))
            if before is not None and before.outcome == "ok":
                came.result = self._sagas.codec.read(before.result, wants, f"the result of {self.name}.{came.key}")
                return came.result
            if ("", "turn") in self._lines:
                raise self._taken_back(self._lines["", "turn"].error)
            if before is not None:
                raise StepFailed(f"{self.name}.{came.key} failed before the restart: {before.error}")
            kinds = rejects if isinstance(rejects, tuple) else (rejects,)
            limit = None if timeout is None else units.seconds("timeout", timeout)
            return await self._attempt(came, fn, kinds, retry, limit)
        finally:
            self._busy = None

    async def _come(self, name: str, args: tuple[Any, ...], undo: Callable[..., Any] | None) -> _Came:
        """Come to a step: it is the one that was here before the restart, or a new one, whose intent is written first."""
        if len(self._came) >= MOST_STEPS:
            raise SagaError(f"{self.name} {self.id} has {MOST_STEPS} steps; split it")
        count = self._counts[name] = self._counts.get(name, 0) + 1
        key = f"{name}#{count}"
        fingerprint = self._sagas.codec.fingerprint(list(args), f"the arguments of {self.name}.{key}")
        intent = self._lines.get((key, "intent"))
        if intent is None:
            if self._row.status == "completed":
                raise SagaError(f"{self.name} {self.id} has completed, without a step {key}")
            if missing := self._old - set(self._came) if self._ordered else None:
                await self._mismatch(f"{key} comes where {', '.join(sorted(missing))} came before the restart")
            if ("", "turn") in self._lines:
                raise self._taken_back(self._lines["", "turn"].error)
            await self._append(key, "intent", fingerprint)
        elif intent.outcome != fingerprint:
            await self._mismatch(f"{key} had other arguments before the restart")
        before = self._lines.get((key, "do"))
        proof = before is not None and before.outcome == "rejected"
        came = self._came[key] = _Came(key, args, None if proof else undo, Unknown("it may have been started"))
        return came

    async def _attempt(
        self, came: _Came, fn: Callable[..., Any], rejects: tuple[type[Exception], ...], retry: Retry | None, limit: float | None
    ) -> Any:
        rule: RetryRule = ONCE if retry is None else retry.rule
        doubtful = came.key in self._old
        attempt = 0
        while True:
            attempt += 1
            try:
                value = await self._call(fn, self._context(came.key, attempt, doubtful=doubtful), came.args, limit)
                text = self._sagas.codec.write(value, f"the result of {self.name}.{came.key}")
            except Exception as error:
                said = f"{type(error).__name__}: {error}"[:500]
                rejected = isinstance(error, rejects or ())
                if not rejected and attempt < rule.attempts and worth(error, None if retry is None else wish(retry)):
                    pause = rule.wait(attempt, self._sagas.clock.random.random(), None, hint(error))
                    await self._sagas.clock.asleep(pause)
                    continue
                proof = rejected and not doubtful and attempt == 1
                await self._append(came.key, "do", "rejected" if proof else "unknown", error=said)
                came.undo = None if proof else came.undo
                raise
            await self._append(came.key, "do", "ok", result=text)
            came.result = value
            return value

    def _context(self, key: str, attempt: int, *, doubtful: bool = False, undo: bool = False) -> Context:
        own = f"{self._row.id}.{key}"
        fence = Fence(self._sagas.journal.timeline, self._row.epoch)
        return Context(
            self.id, self._row.id, self.name, key, f"{own}.undo" if undo else own, fence, attempt, doubtful, own if undo else None
        )

    async def _call(self, fn: Callable[..., Any], context: Context, args: tuple[Any, ...], limit: float | None) -> Any:
        async with asyncio.timeout(limit):
            if inspect.iscoroutinefunction(fn):
                return await fn(context, *args)
            value = await self._sagas.in_thread(fn, context, *args)
            return await value if inspect.isawaitable(value) else value

    # --- leaving

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._row.status in (*TERMINAL, "stuck") or isinstance(error, LeaseLost):
                return
            if error is not None and not isinstance(error, Exception):
                await self._leave_open()
            elif missing := self._old - set(self._came):
                await self._mismatch(f"the block ended without {', '.join(sorted(missing))}, which came before the restart")
            elif error is not None or ("", "turn") in self._lines:
                await self._back(error)
            else:
                await self._append("", "", "", status="completed")
        finally:
            self._sagas.opened.discard(self._row.id)

    async def _leave_open(self) -> None:
        """The block was cut off: give the saga back, so that it can be opened again at once."""
        try:
            await asyncio.shield(self._append("", "", "", release=True))
        except (LeaseLost, JournalError) as error:
            self._sagas.emit("saga.fenced", self._row, reason=str(error))

    async def _back(self, error: Exception | None) -> None:
        """Take back all that was done, in reverse; every undo is repeated until it succeeds."""
        known = self._lines.get(("", "turn"))
        cause = known.error if known is not None else f"{type(error).__name__}: {error}"[:500]
        if known is None:
            await self._append("", "turn", "backward", error=cause, status="compensating")
        for came in reversed(self._came.values()):
            if came.undo is not None and (came.key, "undo") not in self._lines:
                await self._take_back(came, came.undo)
                await self._append(came.key, "undo", "ok", status="compensating")
        await self._append("", "", "", status="compensated", error=cause)
        if known is not None and not isinstance(error, SagaCompensated):
            raise self._taken_back(cause) from error
        if error is not None:
            error.add_note(f"{self.name} {self.id} was taken back")

    async def _take_back(self, came: _Came, undo: Callable[..., Any]) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                await self._call(undo, self._context(came.key, attempt, undo=True), (*came.args, came.result), None)
            except Exception as error:
                if attempt == ALERT_AFTER:
                    said = f"{came.key}.undo has failed {attempt} times and goes on trying: {type(error).__name__}: {error}"[:500]
                    self._sagas.emit("saga.alert", self._row, step=came.key, attempts=attempt, error=said, undo=True)
                    await self._append("", "", "", status="stuck", error=said, release=False)
                await self._sagas.clock.asleep(FOREVER.wait(attempt, self._sagas.clock.random.random(), None, hint(error)))
            else:
                return

    async def _mismatch(self, why: str) -> None:
        """Nobody can tell what this block would do to what the other one did, so it ends here, and is seen."""
        await self._append("", "", "", status="stuck", error=f"definition_mismatch: {why}")
        told = f"{self.name} {self.id} is stuck: definition_mismatch: {why}"
        raise SagaStuck(told, id=self.id, name=self.name, status="stuck", cause=why)

    async def _append(
        self, step: str, phase: str, outcome: str, *, result: str | None = None, error: str | None = None,
        status: str = "running", release: bool | None = None,
    ) -> None:  # fmt: skip
        """Write one line, or none, and the saga's state. What ends or is stuck is given back, unless `release` says otherwise."""
        row, now = self._row, self._sagas.now()
        ends = status in TERMINAL
        async with self._writing:
            lines = []
            if phase:
                lines = [Record(self._seq + 1, step, phase, outcome, 0, 1, result, error, now, now)]  # type: ignore[arg-type]
            self._stamp += 1
            free = ends or status == "stuck" if release is None else release
            op = Append(
                row.id, row.owner or "", row.epoch, self._stamp, self._safe, lines, status, wake=None, release=free, edge=True,
                ends=ends,
            )  # fmt: skip
            op.error = error if ends or status == "stuck" else None
            await persist(self._sagas, row, op)
            self._safe = op.stamp
            row.status = status
            for line in lines:
                self._seq += 1
                self._lines[step, phase] = line


def _take(tx: Tx, saga: str, worker: str, here: set[str], *, new: bool) -> Row:
    """The saga as ours. here: what is open in this process. Raises LeaseLost while somebody who lives has it, InputChanged when
    it is none of this kind."""
    row = store.find(tx, saga)
    if row.input_hash != DYNAMIC:
        raise InputChanged(f"{row.name} {row.user_id} is a saga with a definition; start it, do not open it")
    if row.status in TERMINAL:
        return row
    ours = row.owner == worker and row.id not in here
    if row.owner is not None and not ours and row.owner in tx.living():
        raise LeaseLost(f"{row.name} {row.user_id} is open elsewhere, in worker {row.owner}")
    if not (new and ours):
        row.epoch += 1
    status = "compensating" if any(record.phase == "turn" for record in row.records) else "running"
    tx.execute(
        "UPDATE saga SET owner=?, epoch=?, stamp=0, wake_at=NULL, status=?, error=NULL WHERE id=?",
        (worker, row.epoch, status, row.id),
    )
    row.owner, row.status = worker, status
    return row
