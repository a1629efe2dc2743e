"""One saga in memory: asks the rules what comes next, lets `act` do it, and writes down how it ended. One append at a time."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from seawall.saga import store
from seawall.saga.act import Act
from seawall.saga.context import Context
from seawall.saga.errors import LeaseLost, SagaError
from seawall.saga.host import Host, persist
from seawall.saga.lease import Fence
from seawall.saga.plan import Decision, Do, Facts, Record, Undo, decide, fold, must_sync, possibly_started
from seawall.saga.port import Append, Row, Verb
from seawall.saga.waits import Postponed

PARK: Final = 1.0  # seconds of waiting from which a saga leaves the memory
NO_END: Final = float("inf")


class Runner:
    """Runs one saga until it ends, waits for long, is stuck, or is lost to another owner."""

    def __init__(self, host: Host, row: Row) -> None:
        self.host = host
        self.row = row
        self.facts = Facts()
        self.results: dict[str, Any] = {}
        self.started: set[str] = set()
        self.busy: dict[str, asyncio.Task[None]] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.alerted: set[str] = set()
        self.locked = False
        self.left = False
        self.current: str | None = None
        self.nudged = asyncio.Event()
        self.signals: dict[str, str | None] = {}
        self.stamp = self.safe = 0
        self._drafts: list[Record] = []
        self._writing = asyncio.Lock()
        self._problem: BaseException | None = None
        self._sent: list[Record] = []
        self._after = self.facts
        self._ending: Append | None = None

    # --- beginning

    def load(self) -> None:
        """Read the journal. Raises SagaError when it does not fit the definition."""
        row = self.row
        self.definition, self.saga = self.host.definition(row.hash)
        self.graph = self.definition.graph
        self.facts = fold(row.records)
        self.input = self.host.codec.read(row.input, self.definition.input_type, f"the input of {row.name} {row.user_id}")
        strange = {r.step for r in row.records if r.step} - set(self.graph.by_name)
        if strange:
            raise SagaError(f"definition_mismatch: the journal knows {', '.join(sorted(strange))}, the definition does not")
        for name, record in self.facts.done.items():
            if record.outcome == "ok":
                self.results[name] = self.read_result(name, record.result)
        self.notes = json.loads(row.notes) if row.notes else {}
        self._reopen()
        self.alerted = {name for name, note in self.notes.items() if note.get("alert")}
        self.locked = any(step.options.locks for step in self.definition.steps.values())
        if row.epoch > 1 or row.before is not None:
            if row.before is None:
                self.started = set(possibly_started(self.graph, self.facts, self.host.committer.durability))
            else:
                self.started = set(json.loads(row.before))
        steps = self.definition.steps  # a tx step without its record has not happened: they are one commit
        self.started = {name for name in self.started if name not in steps or not steps[name].options.tx}

    def read_result(self, step: str, text: str | None) -> Any:
        """A step's result, as its type says."""
        return self.host.codec.read(text, self.definition.result_types.get(step, Any), f"{self.row.name}.{step}'s result")

    def result_of(self, step: str) -> Any:
        """What `ctx.result` gives."""
        if step not in self.results:
            raise SagaError(f"{self.row.name}: step {step!r} has no result here: it has not passed, so name it in after=")
        return self.results[step]

    def context(self, step: str, round_: int, *, undo: bool = False, doubtful: bool = False) -> Context:
        """What a step is told."""
        key = f"{self.row.id}.{step}.{round_}"
        fence = Fence(self.host.journal.timeline, self.row.epoch)
        return Context(
            self.row.user_id, self.row.id, self.row.name, step, f"{key}.undo" if undo else key, fence, 1, doubtful,
            key if undo else None, self.result_of, issued=self.host.clock.wall(),
        )  # fmt: skip

    # --- the loop

    async def run(self) -> None:
        """Go on until there is nothing more to do here."""
        try:
            try:
                self.load()
            except (SagaError, ValueError, LookupError, TypeError) as error:
                await self.stop(str(error) if "mismatch" in str(error) else f"definition_mismatch: {error}")
                return
            if any(node.kind == "signal" for node in self.graph.nodes):
                self.signals = await self.host.read(lambda tx: store.signals(tx, self.row.id))
            while not await self._turn():
                pass
        except LeaseLost as error:
            self.host.emit("saga.fenced", self.row, reason=str(error))
        finally:
            for task in self.busy.values():
                task.cancel()

    async def _turn(self) -> bool:
        """One look at what comes next; whether the saga leaves this worker."""
        if self._problem is not None:
            raise self._problem
        if self.left:
            return True
        if self.host.closing and not self.busy:
            await self.shut()
            return True
        if self.nudged.is_set():
            await self.look()
        await self._check_deadline()
        decision = self.decide()
        if decision.finish is not None:
            await self._commit([], finish=decision)
            return True
        if decision.stuck is not None and self.busy:
            await self._wait_busy(NO_END)
            return False
        if decision.stuck is not None:
            await self.stop(decision.stuck)
            return True
        if decision.turn is not None:
            await self.record("", "turn", decision.turn)
            return False
        waits: list[float] = []
        ready = [action for action in decision.actions if not self._postponed(action, waits)]
        if len(ready) == 1 and not self.busy and len(decision.actions) == 1:
            self.current = ready[0].step
            await self._act(ready[0])
            self.current = None
            return False
        for action in ready:
            self._spawn(action)
        if self.busy:
            await self._wait_busy(min(waits, default=NO_END))
            return False
        if ready:
            return False
        return await self._rest(min(waits, default=NO_END))

    def decide(self) -> Decision:
        """What the rules say now."""
        return decide(self.graph, self.facts, frozenset(self.started), frozenset(self.busy))

    def _postponed(self, action: Do | Undo, waits: list[float]) -> bool:
        """Whether an action has to wait; how long goes into `waits`."""
        note = self.notes.get(_note(action))
        if note is None or "until" not in note:
            return False
        left = NO_END if note["until"] is None else note["until"] - self.host.now()
        if left > 0:
            waits.append(left)
        return left > 0

    def _spawn(self, action: Do | Undo) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(action))
        self.busy[action.step] = task
        task.add_done_callback(lambda _: self.busy.pop(action.step, None))

    async def _guarded(self, action: Do | Undo) -> None:
        try:
            await self._act(action)
        except Exception as error:  # handed to the loop, which raises it
            self._problem = error

    async def _act(self, action: Do | Undo) -> None:
        """Do one thing; a wait that it asks for is noted."""
        key = _note(action)
        try:
            await Act(self, action).run()
            self.notes.pop(key, None)
            self.alerted.discard(key)
        except Postponed as wait:
            self.notes[key] = {**self.notes.get(key, {}), "until": wait.until, "why": wait.why, "outside": wait.outside}

    async def _wait_busy(self, seconds: float) -> None:
        nudge = asyncio.ensure_future(self.nudged.wait())
        limit = None if seconds == NO_END else seconds
        try:
            await asyncio.wait({*self.busy.values(), nudge}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nudge.cancel()
        await asyncio.sleep(0)

    async def _rest(self, seconds: float) -> bool:
        """Nothing runs and everything waits: here when it is short, else outside; whether the saga left."""
        if seconds <= PARK:
            await self.host.clock.asleep(seconds)
            return False
        if self.row.deadline is not None and not self.facts.whole:
            seconds = min(seconds, max(0.0, self.row.deadline - self.host.now()))
        status = self._status(self.facts)
        status = status if status != "running" else "waiting"
        op = self._append([], status)
        op.wake, op.release, op.touched = None if seconds == NO_END else seconds, True, json.dumps(sorted(self.started))
        op.notes, op.error, op.edge = self._notes(), self._alert(), True
        await self._send(op)
        self.row.status = status
        self.host.emit("saga.parked", self.row, seconds=seconds)
        if status == "stuck":
            self.row.error = self._alert()
            self.host.ended(self.row)
        return True

    async def look(self) -> None:
        """See what came from outside: signals, freed locks, ended children."""
        self.nudged.clear()
        row = self.row
        await self.host.committer.send(Verb(lambda tx: store.notice(tx, row.id, row.epoch), edge=False))
        self.signals = await self.host.read(lambda tx: store.signals(tx, row.id))
        self._reopen()

    def _reopen(self) -> None:
        """Whatever waits for something from outside may look whether it came."""
        for note in self.notes.values():
            if note.get("outside"):
                note["until"] = 0.0

    async def _check_deadline(self) -> None:
        row = self.row
        if row.deadline is None or self.facts.whole or self.facts.backward or self.host.now() < row.deadline:
            return
        pivot = self.graph.pivot
        if pivot is None or not self.facts.passed(pivot.name):
            await self.record("", "turn", "backward", error="the saga's deadline passed")

    # --- writing

    async def record(
        self, step: str, phase: str, outcome: str, *, round_: int = 0, attempt: int = 1, result: str | None = None,
        error: str | None = None, began: float = 0.0,
    ) -> None:  # fmt: skip
        """Write one line and wait until it is safe."""
        line = Record(0, step, phase, outcome, round_, attempt, result, error, began, self.host.now())  # type: ignore[arg-type]
        await self._commit([line])

    async def _commit(self, lines: list[Record], finish: Decision | None = None) -> None:
        """Lines of branches that end while another append is under way are joined into the next one."""
        self._drafts += lines
        async with self._writing:
            if lines and not any(line is draft for line in lines for draft in self._drafts):
                return
            await self._send(self.append_of(self._drafts, finish))
            self._drafts = self._drafts[len(self._sent) :]
            self.settle()

    def append_of(self, drafts: list[Record], finish: Decision | None = None) -> Append:
        """The append for some lines, with the saga's end if these lines are the last."""
        self._sent = [line.numbered(self.facts.last + n) for n, line in enumerate(drafts, 1)]
        trial = self.facts.plus(self._sent)
        self._after = trial
        if finish is None:
            written = {line.step for line in self._sent}
            finish = decide(self.graph, trial, frozenset(self.started - written), set(self.busy) - written)
        op = self._append(self._sent, self._status(trial))
        op.notes = self._notes()
        op.error = self._alert()
        op.edge = any(self._is_edge(line) for line in self._sent)
        op.must_sync = must_sync(self.graph, self.facts, trial, self._sent)
        self._ending = op if finish.finish is not None else None
        if finish.finish is not None:
            self._end(op, finish.finish, trial)
        return op

    def settle(self) -> None:
        """What was written is safe now: the facts say so too."""
        self.facts = self._after
        self.safe = self.stamp
        for line in self._sent:
            if line.phase in ("do", "undo"):
                self.started.discard(line.step)
            if line.phase == "turn":
                self.host.emit("saga.turned", self.row, to=line.outcome, reason=line.error)
            elif line.phase != "intent":
                self.host.emit(f"saga.step_{line.phase}", self.row, step=line.step, outcome=line.outcome, error=line.error)
        if self._ending is not None:
            self.left = True
            self.row.status, self.row.output, self.row.error = self._ending.status, self._ending.output, self._ending.error
            self.host.emit(f"saga.{self.row.status}", self.row, cause=self.row.error)
            self.host.ended(self.row)

    def _end(self, op: Append, status: str, trial: Facts) -> None:
        if status == "completed":
            try:
                op.output = self._output()
            except Exception as error:  # the user's own function, or what it returned
                op.status, op.error, op.wake, op.release = "stuck", f"output: {type(error).__name__}: {error}", None, True
                return
        op.status, op.wake, op.release, op.edge = status, None, True, True
        op.error = trial.cause if status != "completed" else None
        op.ends = self.locked or self.row.parent is not None

    def _output(self) -> str | None:
        definition = self.definition
        value = self.results.get(definition.last)
        if definition.has_output:
            value = self.saga.output(self.context("output", 0), self.input)
        elif definition.output_type is type(None):
            value = None
        return self.host.codec.write(value, f"the output of {self.row.name}")

    async def stop(self, reason: str) -> None:
        """Nobody but a human can go on."""
        op = self._append([], "stuck")
        op.wake, op.release, op.touched = None, True, json.dumps(sorted(self.started))
        op.error, op.notes, op.edge = reason, self._notes(), True
        await self._send(op)
        self.row.status, self.row.error = "stuck", reason
        self.host.emit("saga.stuck", self.row, reason=reason)
        self.host.ended(self.row)

    async def _send(self, op: Append) -> None:
        await persist(self.host, self.row, op)
        self.safe = op.stamp

    def _append(self, lines: list[Record], status: str) -> Append:
        self.stamp += 1
        return Append(self.row.id, self.row.owner or "", self.row.epoch, self.stamp, self.safe, lines, status)

    def _is_edge(self, line: Record) -> bool:
        node = self.graph.by_name.get(line.step)
        return node is None or node.pivot or line.phase not in ("do", "undo")

    def _status(self, facts: Facts) -> str:
        if self.alerted:
            return "stuck"
        over = self.graph.pivot is not None and facts.passed(self.graph.pivot.name)
        return "compensating" if facts.backward and not over else "running"

    def _notes(self) -> str | None:
        return json.dumps(self.notes) if self.notes else None

    def _alert(self) -> str | None:
        if not self.alerted:
            return None
        key = sorted(self.alerted)[0]
        note = self.notes.get(key, {})
        return f"{key} has failed {note.get('n')} times and goes on trying: {note.get('error')}"

    async def shut(self) -> None:
        """Give the saga back at a clean end of this worker."""
        touched = json.dumps(sorted(self.started | set(self.busy) | ({self.current} if self.current else set())))
        op = self._append([], self._status(self.facts))
        op.release, op.touched, op.notes = True, touched, self._notes()
        await self.host.committer.send(op)


def _note(action: Do | Undo) -> str:
    return f"{action.step}.undo" if isinstance(action, Undo) else action.step
