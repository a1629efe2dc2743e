"""One saga on somebody else's engine: the rules of `plan` are asked what comes next, the engine's own means carry it out.

It holds nothing but data, draws nothing and looks at no clock but the engine's, so an engine that replays it gets the same again.
What it is told of a step is what `remote` answered, which engines keep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from seawall.saga.definition import graph_of
from seawall.saga.engines import words
from seawall.saga.plan import Do, Facts, Graph, Record, Undo, decide, fold

PARK: Final = 1.0  # seconds of waiting from which a saga counts as waiting
CRASHES: Final = 3  # attempts in a row that were lost with their worker before a human must look
NO_END: Final = float("inf")
KEPT: Final = 200  # answers to operators' words, and ids of signals, that are remembered
_graphs: dict[str, Graph] = {}


class Lost(Exception):  # nobody's mistake: the worker went away
    """An attempt's end was never told. crashed: its worker went silent; else it was closed, or the attempt was cancelled."""

    def __init__(self, why: str, *, crashed: bool) -> None:
        super().__init__(why)
        self.crashed = crashed


class Runtime(Protocol):
    """What an engine lends. waves: all steps that run together must have ended before the next ones begin."""

    waves: bool

    def now(self) -> float:
        """The engine's moment, the same in a replay."""
        ...

    async def act(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have `remote.perform` answer a request on some worker. Raises Lost."""
        ...

    async def wait(self, changed: Callable[[], bool], seconds: float | None) -> None:
        """Until `changed()`, or for so long; None = without end."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> Any:
        """Run something beside."""
        ...

    def full(self) -> bool:
        """Whether the history is so long that the saga should go on in a new one."""
        ...

    async def tell(self, status: str, error: str | None) -> None:
        """Make a status visible to those who list sagas."""
        ...


def graph_for(text: str) -> Graph:
    """A graph from its text, made once."""
    found = _graphs.get(text)
    if found is None:
        found = graph_of(text)
        if len(_graphs) < 10_000:
            _graphs[text] = found
    return found


class Interpreter:
    """Runs one saga to its end. brief: what `brief_of` made, with the state of the run before, if there was one."""

    def __init__(self, brief: dict[str, Any], runtime: Runtime) -> None:
        self.brief = brief
        self.runtime = runtime
        self.graph = graph_for(brief["graph"])
        state = brief.get("state") or {}
        self.records = [Record(*line) for line in state.get("records", ())]
        self.facts: Facts = fold(self.records)
        self.started: set[str] = set(state.get("started", ()))
        self.notes: dict[str, dict[str, Any]] = state.get("notes", {})
        self.signals: dict[str, str | None] = state.get("signals", {})
        self.seen: list[str] = state.get("seen", [])
        self.answers: dict[str, str | None] = state.get("answers", {})
        self.mail: list[dict[str, Any]] = state.get("mail", [])
        self.epoch: int = state.get("epoch", 1)
        self.crashes: int = state.get("crashes", 0)
        self.output: dict[str, Any] = state.get("output", {})
        self.halted: str | None = state.get("halted")
        self.told: str = state.get("told", "running")
        self.busy: dict[str, Any] = {}
        self.moved: dict[str, Any] | None = None
        self.ended: str | None = None
        self._changed = False
        self._waiting = False

    def state(self) -> dict[str, Any]:
        """All that another run needs to go on."""
        lines = [list(_line(record)) for record in self.records]
        return {
            "records": lines, "started": sorted(self.started), "notes": self.notes, "signals": self.signals, "seen": self.seen,
            "answers": self.answers, "mail": self.mail, "epoch": self.epoch, "crashes": self.crashes, "output": self.output,
            "halted": self.halted, "told": self.told,
        }  # fmt: skip

    # --- from outside

    def take_signal(self, name: str, payload: str | None, key: str | None) -> None:
        """A signal came; the first of a name is the one that counts, and a key counts once."""
        if key is not None and key in self.seen:
            return
        if key is not None:
            self.seen = [*self.seen[1 - KEPT :], key]
        self.signals.setdefault(name, payload)
        self._changed = True

    def take_word(self, word: dict[str, Any]) -> None:
        """An operator's word came; it is carried out at the next turn."""
        self.mail.append(word)
        self._changed = True

    def look(self) -> dict[str, Any]:
        """How it stands, for those who ask."""
        status, error = self.status()
        return {
            "status": status, "error": error, "records": [list(_line(record)) for record in self.records], "notes": self.notes,
            "epoch": self.epoch, "answers": self.answers, "signals": sorted(self.signals), "output": self.output.get("text"),
            "busy": sorted(self.busy), "graph": self.brief["graph"], "deadline": self.brief["deadline"],
        }  # fmt: skip

    def status(self) -> tuple[str, str | None]:
        """Its status and what is wrong, in the words of the journals."""
        if self.ended is not None:
            return self.ended, self.facts.cause if self.ended != "completed" else None
        alert = words.alert(self.notes)
        if self.halted is not None or alert is not None:
            return "stuck", self.halted or alert
        pivot = self.graph.pivot
        if self.facts.backward and not (pivot is not None and self.facts.passed(pivot.name)):
            return "compensating", self.facts.cause
        return "waiting" if self._waiting else "running", None

    # --- the loop

    async def run(self) -> dict[str, Any]:
        """Go on until the saga has ended, moved, or filled the engine's history. Gives "status" with "output" or "error", or
        "state" to go on with."""
        while True:
            self._changed = False
            self._open_mail()
            self._check_deadline()
            if not self.busy and (self.moved is not None or self.runtime.full()):
                return {"status": "moved", "state": self.state(), "plan": self.moved}
            decision = decide(self.graph, self.facts, frozenset(self.started), set(self.busy))
            if decision.finish is not None and self.halted is None:
                if decision.finish != "completed" or await self._has_output():
                    return await self._finish(decision.finish)
                continue
            if decision.turn is not None:
                self.record("", "turn", decision.turn)
                continue
            if decision.stuck is not None:
                self.halted = self.halted or decision.stuck
            await self._begin_and_wait(list(decision.actions))

    async def _begin_and_wait(self, actions: list[Do | Undo]) -> None:
        """Begin what may begin, then wait until something has changed."""
        delays: list[float] = []
        ready = [] if self.halted is not None else [action for action in actions if not self._postponed(action, delays)]
        if self.runtime.full() or self.moved is not None or (self.runtime.waves and self.busy):
            ready = []
        self._waiting = not ready and not self.busy and min(delays, default=PARK * 2) > PARK
        for action in ready:
            self._begin(action, alone=len(ready) == 1 and not self.busy)
        await self._tell()
        if self._changed:
            return
        seconds = min([*delays, self._deadline_left()])
        await self.runtime.wait(lambda: self._changed, None if seconds == NO_END else seconds)

    def _begin(self, action: Do | Undo, *, alone: bool) -> None:
        kind = self.graph.by_name[action.step].kind
        if kind in ("sleep", "signal"):
            self._await(action, kind)
            return
        if isinstance(action, Do) and action.intend:
            self.record(action.step, "intent", "intended", round_=action.round)
        self.busy[action.step] = None
        self.busy[action.step] = self.runtime.spawn(self._act(action, self._request(action, alone=alone)))

    async def _act(self, action: Do | Undo, request: dict[str, Any]) -> None:
        key = _note(action)
        try:
            answer = await self.runtime.act(request)
        except Lost as lost:
            self._lost(action, lost)
        else:
            self._take(action, key, answer)
        finally:
            self.busy.pop(action.step, None)
            self._changed = True

    def _take(self, action: Do | Undo, key: str, answer: dict[str, Any]) -> None:
        """What an attempt said of its end, or of when to come back."""
        if answer.get("stuck"):
            self.halted = answer["stuck"]
            return
        self.crashes = 0
        for phase, outcome, attempt, result, error, began, ended in answer["lines"]:
            self.record(
                action.step,
                phase,
                outcome,
                round_=action.round,
                attempt=attempt,
                result=result,
                error=error,
                began=began,
                ended=ended,
            )
        if answer["lines"]:
            self.started.discard(action.step)
            self.notes.pop(key, None)
            self.output = answer.get("output") or self.output
            return
        if isinstance(action, Do):
            (self.started.add if answer["started"] else self.started.discard)(action.step)
        note = dict(answer["note"] or {})
        wait = answer.get("wait")
        if wait is not None:
            note["until"] = self.runtime.now() + wait
        if note:
            self.notes[key] = note

    def _lost(self, action: Do | Undo, lost: Lost) -> None:
        if isinstance(action, Do):
            self.started.add(action.step)
        self.epoch += 1
        self.crashes += lost.crashed
        if self.crashes >= CRASHES:
            self.halted = f"crash_loop: {self.crashes} workers in a row went silent at {_note(action)}: {lost}"

    def _postponed(self, action: Do | Undo, delays: list[float]) -> bool:
        until = self.notes.get(_note(action), {}).get("until", 0.0)
        left = NO_END if until is None else until - self.runtime.now()
        if left > 0:
            delays.append(left)
        return left > 0

    # --- what needs nobody else

    def _await(self, action: Do | Undo, kind: str) -> None:
        """Sleeps and signals: the engine's own timer and mailbox."""
        name, now, plan = action.step, self.runtime.now(), self.brief["waits"][action.step]
        self._changed = True
        if kind == "signal" and plan["signal"] in self.signals:
            self.record(name, "do", "ok", round_=action.round, result=self.signals[plan["signal"]])
            return
        if name not in self.facts.intents and plan["length"] is not None:
            self.record(name, "intent", "waits", round_=action.round, result=json.dumps(now + plan["length"]))
        intent = self.facts.intents.get(name)
        until = None if intent is None else float(json.loads(intent.result or "0"))
        if until is not None and now >= until:
            late = f"SignalTimeout: {plan['signal']} did not come in time"
            outcome = "rejected" if kind == "signal" else "ok"
            self.record(name, "do", outcome, round_=action.round, error=late if kind == "signal" else None)
            self.notes.pop(name, None)
            return
        self.notes[name] = {
            "until": until,
            "outside": kind == "signal",
            "why": f"signal {plan['signal']}" if plan["signal"] else "sleeps",
        }

    def _deadline_left(self) -> float:
        """Seconds until the deadline turns the saga; without end when it cannot any more, or something is busy."""
        deadline, pivot = self.brief["deadline"], self.graph.pivot
        if deadline is None or self.facts.backward or self.busy or (pivot is not None and self.facts.passed(pivot.name)):
            return NO_END
        return float(deadline) - self.runtime.now()

    def _check_deadline(self) -> None:
        if self._deadline_left() <= 0:
            self.record("", "turn", "backward", error="the saga's deadline passed")

    def _open_mail(self) -> None:
        """Carry out operators' words; let what waits for something from outside look again."""
        for name, plan in self.brief["waits"].items():
            if plan["signal"] in self.signals and name in self.notes:
                self.notes[name]["until"] = 0.0
        mail, self.mail = self.mail, []
        for word in mail:
            if word["token"] in self.answers:
                continue
            self.answers = dict([*self.answers.items()][1 - KEPT :])
            self.answers[word["token"]] = words.carry_out(self, word)

    async def _tell(self) -> None:
        """Make it visible from outside when a human is needed, and when no longer."""
        status, error = self.status()
        told = "stuck" if status == "stuck" else "running"
        if told != self.told:
            self.told = told
            await self.runtime.tell(told, error)

    # --- the end

    async def _has_output(self) -> bool:
        """Whether the output is known; asks for it, unless the last step's attempt brought it along."""
        if self.brief["output"] != "function":
            last = self.facts.done.get(self.brief["last"]) if self.brief["output"] == "last" else None
            self.output = {"text": None if last is None else last.result}
        if not self.output:
            request = {**self._base(), "verb": "output", "step": "output", "results": self._results(None)}
            try:
                self.output = (await self.runtime.act(request)).get("output") or {"error": "the worker gave none"}
            except Lost:
                return False
        if "error" in self.output:
            self.halted, self.output = f"output: {self.output['error']}", {}
        return self.halted is None

    async def _finish(self, status: str) -> dict[str, Any]:
        self.ended = status
        cause = self.facts.cause if status != "completed" else None
        if status != "completed":
            await self.runtime.tell(status, cause)
        return {"status": status, "output": self.output.get("text") if status == "completed" else None, "error": cause}

    # --- writing and asking

    def record(
        self, step: str, phase: Any, outcome: str, *, round_: int | None = None, attempt: int = 1, result: str | None = None,
        error: str | None = None, began: float = 0.0, ended: float | None = None,
    ) -> None:  # fmt: skip
        """One line of the saga's journal; the engine keeps it."""
        round_ = self.facts.round(step) if round_ is None else round_
        now = self.runtime.now() if ended is None else ended
        line = Record(self.facts.last + 1, step, phase, outcome, round_, attempt, result, error, began or now, now)
        self.records.append(line)
        self.facts.add(line)

    def _base(self) -> dict[str, Any]:
        brief = self.brief
        return {key: brief[key] for key in ("uid", "id", "name", "input")} | {"epoch": self.epoch, "round": 0}

    def _results(self, wanted: frozenset[str] | None) -> dict[str, str | None]:
        return {
            name: record.result
            for name, record in self.facts.done.items()
            if record.outcome == "ok" and (wanted is None or name in wanted)
        }

    def _request(self, action: Do | Undo, *, alone: bool) -> dict[str, Any]:
        """What an attempt is told; small, because engines keep it."""
        note = self.notes.get(_note(action))
        request = self._base() | {
            "step": action.step,
            "round": action.round,
            "verb": "undo" if isinstance(action, Undo) else "do",
        }
        if note:
            request["note"] = {key: value for key, value in note.items() if key != "until"}
        if isinstance(action, Undo):
            record = action.record
            request |= {
                "taken": None if record is None else [record.outcome, record.result, record.error],
                "alternate": action.alternate,
            }
            request["results"] = self._results(self.graph.ancestors[action.step])
            return request
        request |= {"doubtful": action.doubtful, "ask": action.ask, "started": action.step in self.started}
        ends = alone and self.brief["output"] == "function" and all(
            self.facts.passed(node.name) for node in self.graph.nodes if node.name != action.step
        )  # fmt: skip
        request |= {"ends": ends, "results": self._results(None if ends else self.graph.ancestors[action.step])}
        return request


def _note(action: Do | Undo) -> str:
    return f"{action.step}.undo" if isinstance(action, Undo) else action.step


def _line(record: Record) -> tuple[Any, ...]:
    return (
        record.seq, record.step, record.phase, record.outcome, record.round, record.attempt, record.result, record.error,
        record.started, record.ended,
    )  # fmt: skip
