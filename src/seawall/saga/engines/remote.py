"""One attempt at a step, on a worker that knows nothing else of the saga: `act` does it and judges it, as on a journal; what it
would have written is the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from seawall.core.clock import Clock
from seawall.saga.act import Act
from seawall.saga.codec import Codec
from seawall.saga.context import Context
from seawall.saga.definition import Definition
from seawall.saga.errors import SagaError
from seawall.saga.lease import Fence
from seawall.saga.plan import Decision, Do, Facts, Graph, Record, Undo
from seawall.saga.port import Row
from seawall.saga.waits import Postponed


class Bench(Protocol):
    """What an attempt needs of the process it runs in."""

    clock: Clock
    codec: Codec

    def now(self) -> float:
        """The process's moment."""
        ...

    def emit(self, kind: str, row: Row | None, **data: Any) -> None:
        """Tell what happened."""
        ...

    def in_thread(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run a plain step."""
        ...


class Remote:
    """Stands where the runner stands when a journal is ours. Lines are collected, not committed."""

    def __init__(self, host: Bench, definition: Definition, saga: Any, request: dict[str, Any]) -> None:
        self.host = host
        self.definition = definition
        self.graph: Graph = definition.graph
        self.saga = saga
        self.request = request
        self.row = _row(definition, request)
        self.facts = Facts()
        self.lines: list[tuple[Any, ...]] = []
        self.signals: dict[str, str | None] = {}
        self.results: dict[str, Any] = {}
        note: dict[str, Any] = request.get("note") or {}
        key = request["step"] + (".undo" if request["verb"] == "undo" else "")
        self.key = key
        self.notes: dict[str, dict[str, Any]] = {key: note} if note else {}
        self.alerted = {key} if note.get("alert") else set()
        self.started = {request["step"]} if request.get("started") else set()
        self.input = host.codec.read(request["input"], definition.input_type, f"the input of {self.row.name} {self.row.user_id}")
        for name, text in request["results"].items():
            self.results[name] = self.read_result(name, text)

    def read_result(self, step: str, text: str | None) -> Any:
        """A step's result, as its type says."""
        return self.host.codec.read(text, self.definition.result_types.get(step, Any), f"{self.row.name}.{step}'s result")

    def result_of(self, step: str) -> Any:
        """What `ctx.result` gives."""
        if step not in self.results:
            raise SagaError(f"{self.row.name}: step {step!r} has no result here: it has not passed, so name it in after=")
        return self.results[step]

    def context(self, step: str, round_: int, *, undo: bool = False, doubtful: bool = False) -> Context:
        """What a step is told. The fence grows with every attempt that was lost and with every operator's word."""
        key = f"{self.row.id}.{step}.{round_}"
        return Context(
            self.row.user_id, self.row.id, self.row.name, step, f"{key}.undo" if undo else key, Fence(0, self.row.epoch), 1,
            doubtful, key if undo else None, self.result_of,
        )  # fmt: skip

    def decide(self) -> Decision:
        """Other branches are the interpreter's business."""
        return Decision()

    async def record(
        self, step: str, phase: str, outcome: str, *, round_: int = 0, attempt: int = 1, result: str | None = None,
        error: str | None = None, began: float = 0.0,
    ) -> None:  # fmt: skip
        """A line for the answer."""
        self.lines.append((phase, outcome, attempt, result, error, began, self.host.now()))


async def perform(host: Bench, definition: Definition, saga: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request of the interpreter; what it answers is plain data."""
    try:
        remote = Remote(host, definition, saga, request)
    except (SagaError, ValueError, LookupError, TypeError) as error:
        return {"stuck": f"definition_mismatch: {error}"}
    if request["verb"] == "output":
        return {"output": output_of(remote)}
    answer: dict[str, Any] = {}
    try:
        await Act(cast(Any, remote), _action(request)).run()
    except Postponed as wait:
        answer["wait"] = None if wait.until is None else max(0.0, wait.until - host.now())
        remote.notes.setdefault(remote.key, {})["why"] = wait.why
    answer["lines"] = remote.lines
    if not remote.lines:
        answer |= {"started": request["step"] in remote.started, "note": remote.notes.get(remote.key)}
    elif request.get("ends") and remote.lines[-1][:2] == ("do", "ok"):
        answer["output"] = output_of(remote)
    return answer


def output_of(remote: Remote) -> dict[str, Any]:
    """The saga's output as text, or why there is none."""
    try:
        value = remote.saga.output(remote.context("output", 0), remote.input)
        return {"text": remote.host.codec.write(value, f"the output of {remote.row.name}")}
    except Exception as error:  # the user's own function, or what it returned
        return {"error": f"{type(error).__name__}: {error}"}


def _action(request: dict[str, Any]) -> Do | Undo:
    step, round_ = request["step"], request["round"]
    if request["verb"] == "do":
        return Do(step, round_, request["doubtful"], request["ask"])
    taken = request["taken"]
    record = None if taken is None else Record(1, step, "do", taken[0], round_, 1, taken[1], taken[2])
    return Undo(step, round_, record, request["alternate"])


def _row(definition: Definition, request: dict[str, Any]) -> Row:
    return Row(
        id=request["uid"], name=definition.name, version=definition.version, hash=definition.hash, user_id=request["id"],
        input=request["input"], status="running", epoch=request["epoch"], owner=None, wake_at=None, deadline=None, parent=None,
        notes=None, takeovers=0, cancel=None, output=None, error=None, created=0.0, updated=0.0,
    )  # fmt: skip
