"""One case of a `SagaLab` under way: the real engine and a real journal in virtual time, with a worker that dies when it is
told to."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from seawall.saga import store
from seawall.saga.context import Context
from seawall.saga.definition import Definition, Saga, Step
from seawall.saga.errors import Stop
from seawall.saga.journals.sqlite import SqliteJournal
from seawall.saga.lease import Fence
from seawall.saga.plan import TERMINAL
from seawall.saga.port import Op, Row, Verb
from seawall.saga.run import Runner
from seawall.saga.sagas import Sagas
from seawall.testing.clock import VirtualClock
from seawall.testing.saga_case import Case, must_succeed

MOST_CALLS: Final = 300
THREAD_CHECKS: Final = 10_000  # of a millisecond and more each
LONGEST_LEASE: Final = 1e9
ID: Final = "lab"


class LabFault(Exception):
    """What a `SagaLab` raises in a step whose outcome is to be unknown."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call of a step ("do"), an undo or a probe. how: "entered", "ended", "late", or the error it raised."""

    verb: str
    step: str
    saga: str
    key: str
    fence: Fence
    how: str


@dataclass(slots=True)
class Ran:
    """What a case came to. commits: until it ended. rows: the saga's, then those of its inner sagas. problem: why it was cut
    off."""

    commits: int = 0
    rows: list[Row] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    problem: str | None = None
    errors: list[str] = field(default_factory=list)


class Stage:
    """Runs one case. Its `before` and `after` are the committer's hooks, where workers die."""

    def __init__(self, case: Case, pool: ThreadPoolExecutor) -> None:
        self.case = case
        self.ran = Ran()
        self.pool = pool
        self.dead = False
        self.lock = threading.Lock()
        self.threads = 0
        self._live = False
        self._task: asyncio.Task[None] | None = None
        self._late: list[Callable[[], Any]] = []
        self._faulted: set[str] = set()
        self._wrapped: dict[str, Definition] = {}

    # --- dying

    def before(self, ops: list[Op]) -> None:  # noqa: ARG002  # answers to the port
        """About to commit."""
        if self._live:
            self._stop_if_dead()
            self.ran.commits += 1
            self._die_at("b")

    def after(self, ops: list[Op]) -> None:  # noqa: ARG002  # answers to the port
        """Committed, and nobody knows yet."""
        if self._live:
            self._die_at("a")

    def _die_at(self, side: str) -> None:
        if (self.ran.commits, side) in self.case.crashes:
            self._die()

    def _die(self) -> None:
        self.dead = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        raise Stop

    def _stop_if_dead(self) -> None:
        if self.dead:
            raise Stop
        if len(self.ran.calls) > MOST_CALLS:
            self.ran.problem = f"it does not come to an end: more than {MOST_CALLS} calls of steps and undos"
            self._die()

    # --- the definition, with every function watched

    def watched(self, definition: Definition) -> Definition:
        """The definition with each step's functions behind this stage."""
        if definition.hash not in self._wrapped:
            steps = {name: self._watch(step) for name, step in definition.steps.items()}
            self._wrapped[definition.hash] = dataclasses.replace(definition, steps=steps)
        return self._wrapped[definition.hash]

    def _watch(self, step: Step[Any]) -> Step[Any]:
        found = copy.copy(step)
        if step.kind == "step":
            found.fn = self._around("do", step, step.fn)
            found.undo_fn = self._around("undo", step, step.undo_fn)
            found.probe_fn = self._around("probe", step, step.probe_fn)
        return found

    def _around(self, verb: str, step: Step[Any], fn: Callable[..., Any] | None) -> Any:
        if fn is None:
            return None
        if inspect.iscoroutinefunction(fn):

            async def later(saga: Any, ctx: Context, *args: Any) -> Any:
                found: list[Any] = []
                with _Call(self, verb, step, ctx, lambda frozen: fn(saga, frozen, *args)) as call:
                    found = [await fn(saga, ctx, *args) for _ in range(call.times)]
                return found[0]

            return later

        def now(saga: Any, ctx: Context, *args: Any) -> Any:
            found: list[Any] = []
            with _Call(self, verb, step, ctx, lambda frozen: fn(saga, frozen, *args)) as call:
                found = [fn(saga, ctx, *args) for _ in range(call.times)]
            return found[0]

        return now

    def enter(self, verb: str, step: Step[Any], ctx: Context, again: Callable[[Context], Any]) -> tuple[int, Exception | None]:
        """How often to call, and what to raise afterwards. Raises what the case has for before."""
        self._stop_if_dead()
        self.note(verb, step, ctx, "entered")
        how = self._how(verb, step)
        if how == "rejected" or (how == "turned" and self._repeated()):
            raise _made(step.options.rejects[0])
        if how == "late":
            frozen = dataclasses.replace(ctx)
            self._late.append(lambda: again(frozen))
        if how in ("unknown", "late"):
            raise LabFault(f"{how} by the lab")
        once = verb == "probe" or step.options.tx or (verb == "do" and bool(step.traits.get("at_most_once")))
        return 2 if self.case.twice and not once else 1, LabFault("lost by the lab") if how == "lost" else None

    def _repeated(self) -> bool:
        """Whether the last call was made before, by whichever owner."""
        last = self.ran.calls[-1]
        return any((call.verb, call.key, call.how) == (last.verb, last.key, last.how) for call in self.ran.calls[:-1])

    def _how(self, verb: str, step: Step[Any]) -> str | None:
        name = {"do": step.name, "undo": f"undo:{step.name}"}.get(verb, "")
        how = self.case.fault(name)
        if how is None or (name in self._faulted and (verb == "undo" or must_succeed(step))):
            return None
        self._faulted.add(name)
        return how

    def note(self, verb: str, step: Step[Any], ctx: Context, how: str) -> None:
        """Write down a call."""
        self.ran.calls.append(Called(verb, step.name, ctx.saga_id, ctx.undoes or ctx.key, ctx.fence, how))

    # --- lives

    async def run(self, sagas: LabSagas, saga: type[Saga[Any, Any]], value: Any, signals: dict[str, Any]) -> Ran:
        """Start the saga and run workers, one life after another, until it has ended."""
        await sagas.clock.asleep(0.0)  # from here on the loop lives in virtual time
        asyncio.get_running_loop().set_exception_handler(_quiet)
        self._live = True
        lives = 0
        while True:
            lives += 1
            sagas.live(f"lab-{lives}")
            self.dead = False
            try:
                await self._life(sagas, saga, value, signals)
                break
            except Stop:
                sagas.die()
                await self._threads_end()
                if self.ran.problem is not None:
                    break
        self._live = False
        for late in self._late:
            await self._arrive(late)
        self.ran.rows = await sagas.read(_rows)
        return self.ran

    async def _threads_end(self) -> None:
        """A thread cannot be killed, so the next life begins when the calls of the last one are over."""
        for _ in range(THREAD_CHECKS):
            with self.lock:
                if not self.threads:
                    return
            await asyncio.sleep(0)
            time.sleep(0.001)
        self.ran.problem = "a plain step did not end after its worker had died"

    async def _life(self, sagas: LabSagas, saga: type[Saga[Any, Any]], value: Any, signals: dict[str, Any]) -> None:
        await sagas.start(saga, value, id=ID)
        for name, payload in signals.items():
            await sagas.signal(ID, name, payload, signal_id=name)
        while True:
            rows = await sagas.committer.send(Verb(lambda tx: store.claim(tx, sagas.worker_id, sagas.hashes, 50)))
            for row in rows:
                await self._one(Runner(sagas, row))
            if not rows and not await self._idle(sagas):
                return

    async def _idle(self, sagas: LabSagas) -> bool:
        """Wait for the next moment at which something is due; False when nothing ever is."""
        found = await sagas.read(lambda tx: tx.execute("SELECT min(wake_at), max(status='stuck') FROM saga"))
        moment, stuck = found[0]
        if moment is None or stuck:
            return False
        await sagas.clock.asleep(max(0.0, moment - sagas.clock.wall()))
        return True

    async def _one(self, runner: Runner) -> None:
        self._task = task = asyncio.get_running_loop().create_task(runner.run())
        await asyncio.wait([task])
        self._task = None
        branches = list(runner.busy.values())
        if branches:
            await asyncio.wait(branches)
        if self.dead:
            raise Stop
        if not task.cancelled() and (error := task.exception()) is not None:
            self.ran.errors.append(f"{type(error).__name__}: {error}")
            raise error

    async def _arrive(self, late: Callable[[], Any]) -> None:
        """The request that was late comes now; a participant that refuses it does right."""
        try:
            value = late()
            if inspect.isawaitable(value):
                await value
        except Exception as error:
            self.ran.errors.append(f"the late request was refused: {type(error).__name__}: {error}")


class _Call:
    """What stands around one call of a user's function."""

    def __init__(self, stage: Stage, verb: str, step: Step[Any], ctx: Context, again: Callable[[Context], Any]) -> None:
        self.stage, self.verb, self.step, self.ctx = stage, verb, step, ctx
        self.again = again
        self.times = 1
        self.after: Exception | None = None

    def __enter__(self) -> _Call:
        self.times, self.after = self.stage.enter(self.verb, self.step, self.ctx, self.again)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.stage.note(self.verb, self.step, self.ctx, "ended")
        elif isinstance(error, Exception):
            self.stage.note(self.verb, self.step, self.ctx, f"{type(error).__name__}: {error}"[:200])
        if error is None and self.after is not None:
            raise self.after


class _LabJournal(SqliteJournal):
    """A journal whose tx steps meet the hooks too."""

    hooks: Any = None

    def in_transaction(self, fn: Any, append: Any, guard: Any, limit: float) -> Any:
        """Run a tx step, with a death right before or right after its commit."""

        def written(value: Any) -> Any:
            op = append(value)
            self.hooks.before([op])
            return op

        result = super().in_transaction(fn, written, guard, limit)
        self.hooks.after([guard])
        return result


class LabSagas(Sagas):
    """The real thing without a worker's polling: the stage claims and runs."""

    def __init__(self, path: str, sagas: list[Saga[Any, Any]], stage: Stage, clock: VirtualClock) -> None:
        super().__init__(f"sqlite:///{path}", sagas, worker=False, clock=clock, hooks=stage, inline=True)
        self.journal = self.committer.journal = journal = _LabJournal(path, clock=clock)
        journal.hooks = stage
        self._stage = stage

    def definition(self, hash: str) -> tuple[Definition, Any]:
        """The watched definition."""
        definition, saga = super().definition(hash)
        return self._stage.watched(definition), saga

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Plain steps run in the lab's threads."""
        stage, life = self._stage, self.worker_id

        def work() -> Any:
            with stage.lock:
                if stage.dead or life != self.worker_id:
                    raise Stop  # it was still in line when its worker died
                stage.threads += 1
            try:
                return fn(*args)
            finally:
                with stage.lock:
                    stage.threads -= 1

        return asyncio.get_running_loop().run_in_executor(stage.pool, work)

    def emit(self, kind: str, row: Row | None, **data: Any) -> None:
        """Nobody is to be told of a case: the outcome says it all."""

    def live(self, worker: str) -> None:
        """Be a worker of this name."""
        self.worker_id = worker
        self.journal.register(worker, LONGEST_LEASE, self.hashes)

    def die(self) -> None:
        """Let go of the lock that says that the worker lives, and of nothing else, as the system does for a dead process."""
        assert isinstance(self.journal, SqliteJournal)
        self.journal._alive.end()


def _rows(tx: Any) -> list[Row]:
    ids = [found[0] for found in tx.execute("SELECT id FROM saga ORDER BY parent IS NOT NULL, created")]
    return [store.find(tx, saga) for saga in ids]


def _made(kind: type[BaseException]) -> BaseException:
    """An error of a type that we know nothing of: with a message where it takes one."""
    try:
        return kind("rejected by the lab")
    except TypeError:
        return kind.__new__(kind)


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A death is no news."""
    if not isinstance(context.get("exception"), Stop):
        loop.default_exception_handler(context)


def ended(row: Row) -> bool:
    """Whether a saga came to an end of its own."""
    return row.status in TERMINAL
