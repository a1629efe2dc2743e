"""Doing one thing of a saga: a step, its undo, a wait, an inner saga. What it raises is judged here, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from seawall.core.context import deadline
from seawall.core.errors import Rejected
from seawall.core.outcome import DefaultClassifier, Repeat, hint
from seawall.saga import store, waits
from seawall.saga.context import Context, Done, NotDone, Unknown
from seawall.saga.definition import Repeats, Step
from seawall.saga.errors import (
    DefinitionError,
    JournalError,
    LeaseLost,
    LockHeld,
    NotSerialisable,
    PayloadTooLarge,
    VersionChanged,
    WrongResult,
)
from seawall.saga.plan import Do, Undo
from seawall.saga.port import Append, Verb
from seawall.saga.waits import Postponed

if TYPE_CHECKING:
    from seawall.saga.run import Runner

SHORT: Final = 1.0  # seconds of a pause between attempts that are spent here; longer ones are written down
REFUSED: Final = 1.0  # seconds to wait when a policy refused and did not say how long
_CLASSIFIER: Final = DefaultClassifier()


class Act:
    """One action under way."""

    def __init__(self, runner: Runner, action: Do | Undo) -> None:
        self.runner = runner
        self.action = action
        self.host = runner.host
        self.step: Step[Any] = runner.definition.steps[action.step]
        self.name = action.step
        self.began = runner.host.now()

    async def run(self) -> None:
        """Do it and write down how it ended. Raises Postponed, LeaseLost."""
        if isinstance(self.action, Undo):
            await (waits.undo_child(self) if self.step.kind == "saga" else self._undo(self.action))
        elif self.step.kind != "step":
            await waits.KINDS[self.step.kind](self)
        else:
            await self._do(self.action)

    # --- a step

    async def _do(self, action: Do) -> None:
        runner, step = self.runner, self.step
        if action.intend:
            await runner.record(self.name, "intent", "intended", round_=action.round)
        context = runner.context(self.name, action.round, doubtful=action.doubtful)
        if action.ask and await self._asked(context):
            return
        if step.options.locks is not None and not await self._lock():
            return
        if step.options.expect_version is not None and not await self._version(context):
            return
        if step.options.tx:
            await self._transact(context)
            return
        await self._attempts(context, step.fn, (runner.input,), step.options.repeats, step.options.timeout)

    async def _attempts(
        self, context: Context, fn: Callable[..., Any] | None, args: tuple[Any, ...], repeats: Repeats, timeout: float | None
    ) -> None:
        """Attempt until an outcome can be written; a long pause leaves by Postponed."""
        runner, undo = self.runner, isinstance(self.action, Undo)
        key = f"{self.name}.undo" if undo else self.name
        note = runner.notes.setdefault(key, {"n": 0})
        previous: float | None = None
        while True:
            note["n"] = context.attempt = note.get("n", 0) + 1
            entered = [False]
            before = self.name in runner.started or self.action.doubtful
            try:
                value = await self._call(fn, context, args, timeout, entered, through=None if undo else self.step.options.through)
                text, found = (None, None) if undo else self._written(value)
            except Rejected as refusal:
                note["n"] -= 1
                if entered[0] and not undo:
                    runner.started.add(self.name)
                self._postpone(refusal)
            except Exception as error:
                outcome = self._judge(error, before, note["n"], repeats, undo=undo)
                note["error"] = f"{type(error).__name__}: {error}"[:500]
                if outcome is not None:
                    await self.ended(outcome, context.attempt, error=note["error"])
                    return
                if not undo:
                    runner.started.add(self.name)
                previous = await self._pause(repeats, note, previous, error, key)
                if not undo and runner.facts.backward and runner.decide().backward:
                    return  # another branch failed meanwhile: this step counts as possibly started
            else:
                if not undo:
                    runner.results[self.name] = found
                await self.ended("ok", context.attempt, result=text)
                return

    async def ended(self, outcome: str, attempt: int, *, result: str | None = None, error: str | None = None) -> None:
        """Write down how it ended."""
        runner, undo = self.runner, isinstance(self.action, Undo)
        runner.notes.pop(f"{self.name}.undo" if undo else self.name, None)
        runner.alerted.discard(f"{self.name}.undo" if undo else self.name)
        await runner.record(
            self.name, "undo" if undo else "do", outcome, round_=self.action.round, attempt=attempt, result=result, error=error,
            began=self.began,
        )  # fmt: skip

    def _judge(self, error: Exception, before: bool, attempt: int, repeats: Repeats, *, undo: bool) -> str | None:  # noqa: FBT001
        """The outcome of an attempt that raised, or None for another attempt. before: it may have been started earlier."""
        if undo:
            return None
        node = self.runner.graph.by_name[self.name]
        if isinstance(error, (self.step.options.rejects or ())) and not node.retriable:
            return "unknown" if before and not (node.pivot and not node.undo) else "rejected"
        if node.at_most_once or (isinstance(error, WrongResult) and not repeats.forever):
            return "unknown"
        if repeats.forever:
            return None
        return None if attempt < repeats.rule.attempts and worth(error, repeats.on) else "unknown"

    async def _pause(self, repeats: Repeats, note: dict[str, Any], previous: float | None, error: Exception, key: str) -> float:
        """Wait before the next attempt; tells when there were too many."""
        runner, clock = self.runner, self.host.clock
        wait = repeats.rule.wait(note["n"], clock.random.random(), previous, hint(error))
        if repeats.forever and note["n"] >= repeats.alert_after and key not in runner.alerted:
            note["alert"] = True
            runner.alerted.add(key)
            self.host.emit(
                "saga.alert", runner.row, step=self.name, attempts=note["n"], error=note["error"], undo=key != self.name
            )
            raise Postponed(self.host.now() + max(wait, SHORT * 1.01), f"{key} failed {note['n']} times")
        self.host.emit("saga.attempt_failed", runner.row, step=self.name, attempt=note["n"], error=note["error"], wait=wait)
        if wait > SHORT:
            raise Postponed(self.host.now() + wait, f"attempt {note['n']} failed: {note['error']}")
        await clock.asleep(wait)
        return wait

    def _postpone(self, refusal: Rejected) -> None:
        """A policy refused: that burns no attempt, and the saga waits where waiting costs nothing."""
        wait = REFUSED if refusal.retry_after is None else min(max(refusal.retry_after, 0.01), 3600.0)
        raise Postponed(self.host.now() + wait, f"refused by {refusal.policy}: {refusal}") from refusal

    async def _call(
        self, fn: Any, context: Context, args: tuple[Any, ...], timeout: float | None, entered: list[bool], *, through: Any = None
    ) -> Any:
        """One attempt: async functions here, plain ones in a thread."""
        saga = self.runner.saga
        if inspect.iscoroutinefunction(fn):

            async def attempt() -> Any:
                entered[0] = True
                return await fn(saga, context, *args)

            whole = attempt() if through is None else through.acall(attempt)
            if timeout is None:
                return await whole
            with deadline(timeout), _named(self.name, timeout):
                async with asyncio.timeout(timeout):
                    return await whole

        def attempt_in_thread() -> Any:
            entered[0] = True
            return fn(saga, context, *args)

        work = attempt_in_thread if through is None else functools.partial(through.call, attempt_in_thread)
        if timeout is None:
            value = await self.host.in_thread(contextvars.copy_context().run, work)
        else:
            with deadline(timeout):
                carried = contextvars.copy_context()
            with _named(self.name, timeout):
                value = await asyncio.wait_for(self.host.in_thread(carried.run, work), timeout)
        return await value if inspect.isawaitable(value) else value

    def _written(self, value: Any) -> tuple[str | None, Any]:
        """The result's text, and what it will be read as. Raises WrongResult when the step returned what it must not."""
        what = f"the result of {self.runner.row.name}.{self.name}"
        try:
            text = self.host.codec.write(value, what)
            wanted = self.runner.definition.result_types[self.name]
            if text is None and wanted in (None, type(None), Any):
                return None, None
            return text, self.host.codec.read(text if text is not None else "null", wanted, what)
        except (NotSerialisable, PayloadTooLarge) as error:
            raise WrongResult(f"{error}; the step took effect, so mend its result or its annotation") from error

    # --- what stands before a step

    async def _asked(self, context: Context) -> bool:
        """Ask the probe about a step in doubt; whether that settled it."""
        answer = await self._probe(context)
        if isinstance(answer, Done):
            text, self.runner.results[self.name] = self._written(answer.result)
            await self.ended("ok", 1, result=text)
            return True
        node = self.runner.graph.by_name[self.name]
        if isinstance(answer, NotDone):
            self.runner.started.discard(self.name)
        elif node.at_most_once:
            raise Postponed(self.host.now() + 5.0, f"the probe of {self.name} does not know yet")
        return False

    async def _probe(self, context: Context) -> Any:
        """A probe's answer; one that raises does not know."""
        try:
            return await self._call(self.step.probe_fn, context, (self.runner.input,), self.step.options.timeout, [False])
        except Exception as error:
            self.host.emit("saga.probe_failed", self.runner.row, step=self.name, error=error)
            return Unknown(f"{type(error).__name__}: {error}")

    async def _lock(self) -> bool:
        """Take the semantic locks; False when the step was written down as rejected."""
        runner, options = self.runner, self.step.options
        assert options.locks is not None
        wanted = list(options.locks(runner.input))
        until = self.host.clock.monotonic() + options.lock_wait
        while True:
            verb = Verb(
                lambda tx: store.take_locks(tx, runner.row.id, runner.row.epoch, wanted, waits=options.on_lock != "fail"),
                locks=True,
            )
            held = await self.host.committer.send(verb)
            if not held:
                return True
            if options.on_lock == "stash":
                raise Postponed(None, f"lock {', '.join(held)} is held by another saga", outside=True)
            if options.on_lock == "fail" or self.host.clock.monotonic() >= until:
                await self.ended("rejected", 1, error=f"{LockHeld.__name__}: {', '.join(held)} is held by another saga")
                return False
            await self.host.clock.asleep(0.1)

    async def _version(self, context: Context) -> bool:
        """Read again what the saga stands on; False when it changed, which is written down as rejected."""
        check = self.step.options.expect_version
        found = await self._call(check, context, (self.runner.input,), self.step.options.timeout, [False])
        if not isinstance(found, tuple) or len(found) != 2:
            raise DefinitionError(f"{self.name}: expect_version must return a pair (expected, found); got {found!r}")
        if found[0] == found[1]:
            return True
        error = f"{VersionChanged.__name__}: expected {found[0]!r}, found {found[1]!r}"
        await self.ended("unknown" if self.name in self.runner.started else "rejected", 1, error=error)
        return False

    async def _transact(self, context: Context) -> None:
        """A tx step: its rows and its record commit together, so whatever it raises proves that nothing happened."""
        runner, step, repeats = self.runner, self.step, self.step.options.repeats
        note = runner.notes.setdefault(self.name, {"n": 0})
        while True:
            note["n"] = context.attempt = note.get("n", 0) + 1
            try:
                async with runner._writing:
                    await self.host.in_thread(self._in_transaction, context, step)
                    runner.settle()
                runner.notes.pop(self.name, None)
                return
            except LeaseLost:
                raise
            except JournalError as error:
                raise Postponed(self.host.now() + SHORT, f"the journal: {error}") from error
            except Exception as error:
                if self.host.journal.retryable(error):
                    note["n"] -= 1
                    raise Postponed(self.host.now() + SHORT, f"the database: {error}") from error
                note["error"] = f"{type(error).__name__}: {error}"[:500]
                again = repeats.forever or (note["n"] < repeats.rule.attempts and worth(error, repeats.on))
                if isinstance(error, step.options.rejects or ()) or not again:
                    await self.ended("rejected", note["n"], error=note["error"])
                    return
                await self._pause(repeats, note, None, error, self.name)

    def _in_transaction(self, context: Context, step: Step[Any]) -> None:
        from seawall.saga.plan import Record

        runner, row = self.runner, self.runner.row

        def body(tx: Any) -> Any:
            context.transaction = tx
            return step.fn(runner.saga, context, runner.input)  # type: ignore[misc]

        def append(value: Any) -> Append:
            text, runner.results[self.name] = self._written(value)
            now = self.host.now()
            line = Record(0, self.name, "do", "ok", self.action.round, context.attempt, text, None, self.began, now)
            return runner.append_of([line])

        guard = Append(row.id, self.host.worker_id, row.epoch, runner.stamp + 1, runner.safe, [], row.status)
        self.host.journal.in_transaction(body, append, guard, step.options.tx_limit)

    # --- taking back

    async def _undo(self, action: Undo) -> None:
        runner, step = self.runner, self.step
        context = runner.context(self.name, action.round, undo=True, doubtful=action.doubtful)
        record = action.record
        taken: Any = Unknown("it may have been started" if record is None else record.error or record.outcome)
        if record is not None and record.outcome == "ok":
            taken = runner.read_result(self.name, record.result)
        elif step.probe_fn is not None:
            asked = runner.context(self.name, action.round, doubtful=True)
            answer = await self._probe(asked)
            if isinstance(answer, NotDone):
                await self.ended("ok", 0, error="the probe says that it never happened")
                return
            taken = answer.result if isinstance(answer, Done) else taken
        fn = step.undo_fn if action.alternate is None else step.alternates[action.alternate]
        await self._attempts(context, fn, (runner.input, taken), step.undo_repeats, step.undo_timeout)


@contextlib.contextmanager
def _named(step: str, limit: float) -> Iterator[None]:
    """Say which limit a bare TimeoutError was of."""
    try:
        yield
    except TimeoutError as error:
        if error.args:
            raise
        raise TimeoutError(f"{step} took longer than its {limit:g} s") from error


def worth(error: Exception, on: Any) -> bool:
    """Whether an error is worth another attempt: as the user's Retry says, else what the classifier does not call permanent."""
    if on is None:
        return _CLASSIFIER.error(error).repeat is not Repeat.NEVER
    if isinstance(on, (type, tuple)):
        return isinstance(error, on)
    return bool(on(error))
