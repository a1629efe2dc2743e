"""The lab passes what is right, and finds each of many sagas and engines that are wrong on purpose."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import seawall as sw
from seawall.saga import Context, Done, NotDone, Saga, Unknown, act, run, step, wait_signal
from seawall.saga import plan as rules
from seawall.saga import sleep as saga_sleep
from seawall.saga.plan import Decision, Undo
from seawall.testing import Effects, LabFailure, SagaLab
from seawall.testing.saga_case import Case


class OutOfStock(Exception):
    """Nothing happened."""


class Order(Saga[str, str]):
    """A right saga: every effect goes by its key. The input "poor" is rejected at its pivot."""

    name = "order"

    def __init__(self) -> None:
        self.world: Any = Effects()

    @step(rejects=OutOfStock)
    def reserve(self, ctx: Context, order: str) -> int:
        self.world.do(ctx)
        return 7

    @reserve.undo
    def release(self, ctx: Context, order: str, reserved: int | Unknown) -> None:
        self.world.undo(ctx)

    @step(after=reserve, rejects=OutOfStock, retry=sw.Retry(2))
    async def quote(self, ctx: Context, order: str) -> str:
        self.world.do(ctx)
        return f"{ctx.result(self.reserve)} of {order}"

    @quote.undo
    async def withdraw(self, ctx: Context, order: str, quoted: str | Unknown) -> None:
        self.world.undo(ctx)

    @step(after=quote, pivot=True, rejects=OutOfStock)
    def charge(self, ctx: Context, order: str) -> str:
        if order == "poor":
            raise OutOfStock(order)
        self.world.do(ctx)
        return f"paid for {ctx.result(self.quote)}"

    @step(after=charge, retriable=True)
    async def ship(self, ctx: Context, order: str) -> None:
        self.world.do(ctx)

    def output(self, ctx: Context, order: str) -> str:
        return ctx.result(self.charge)


class Counts:
    """A world without keys."""

    def __init__(self) -> None:
        self.stock = 10

    def effects(self) -> int:
        return self.stock


class Two(Saga[str, str]):
    """One step with an undo, and one that may be rejected; how they treat the world is for its subclasses."""

    name = "two"

    def __init__(self) -> None:
        self.world: Any = Effects()
        self.counts = Counts()

    def take(self, ctx: Context) -> None:
        self.world.do(ctx)

    def give(self, ctx: Context, taken: Any) -> None:
        self.world.undo(ctx)

    def pay(self, ctx: Context) -> None:
        self.world.do(ctx)

    @step(rejects=OutOfStock)
    def first(self, ctx: Context, order: str) -> int:
        self.take(ctx)
        return 1

    @first.undo
    def back(self, ctx: Context, order: str, taken: int | Unknown) -> None:
        self.give(ctx, taken)

    @step(after=first, rejects=OutOfStock, pivot=True)
    async def last(self, ctx: Context, order: str) -> str:
        self.pay(ctx)
        return "done"


def test_a_right_saga_passes_hundreds_of_cases_in_seconds(saga_lab: type[SagaLab]) -> None:
    """A lab that complains of what is right, or takes minutes, is switched off."""
    report = saga_lab(Order()).explore("rich", "poor")
    assert report.cases > 400
    assert report.seconds < 300  # some 3 on an idle machine; a lab that waited in real time would take days
    assert set(report.ends) == {"completed", "compensated", "failed"}
    print(report.cases, "cases in", round(report.seconds, 1), "s:", dict(report.ends))


class _NoUndoTwice(Two):
    def __init__(self) -> None:
        super().__init__()
        self.taken: set[str] = set()

    def take(self, ctx: Context) -> None:
        if ctx.key not in self.taken:
            self.taken.add(ctx.key)
            self.counts.stock -= 1

    def give(self, ctx: Context, taken: Any) -> None:
        self.counts.stock += ctx.undoes in self.taken
        self.taken |= {ctx.undoes or ""}


class _NoKey(Two):
    def take(self, ctx: Context) -> None:
        self.counts.stock -= 1

    def give(self, ctx: Context, taken: Any) -> None:
        if not isinstance(taken, Unknown):
            self.counts.stock += 1


class _Lies(Two):
    def take(self, ctx: Context) -> None:
        super().take(ctx)
        raise OutOfStock("after all")


class _UndoDoesNothing(Two):
    def give(self, ctx: Context, taken: Any) -> None:
        pass


class _UndoCannotStandUnknown(Two):
    def give(self, ctx: Context, taken: Any) -> None:
        if isinstance(taken, Unknown):
            raise TypeError("which one?")
        super().give(ctx, taken)


class _UndoIgnoresUnknown(Two):
    def give(self, ctx: Context, taken: Any) -> None:
        if not isinstance(taken, Unknown):
            super().give(ctx, taken)


class _NoTombstone(Two):
    """A participant that honours keys but forgets an undo that came first."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, int] = {}

    def take(self, ctx: Context) -> None:
        if ctx.key not in self.taken:
            self.taken[ctx.key] = 1
            self.counts.stock -= 1

    def give(self, ctx: Context, taken: Any) -> None:
        if self.taken.get(ctx.undoes or "") == 1:
            self.taken[ctx.undoes or ""] = 0
            self.counts.stock += 1


class _SagaIdAsKey(Two):
    """Two effects under one key of the user's own: the second is taken for a repetition of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def take(self, ctx: Context) -> None:
        self.calls += 1
        self.world.do(replace(ctx, key=f"{ctx.id}-{self.calls}"))

    def give(self, ctx: Context, taken: Any) -> None:
        self.world.undo(replace(ctx, undoes=f"{ctx.id}-1"))


class _PivotPaysTwice(Two):
    def pay(self, ctx: Context) -> None:
        self.counts.stock -= 1


class _NothingToUndo(Saga[str, str]):
    """A step that says that there is nothing to take back, and that is not true."""

    name = "nothing-to-undo"

    def __init__(self) -> None:
        self.world = Effects()

    @step(undo="none")
    def look(self, ctx: Context, order: str) -> None:
        self.world.do(ctx)

    @step(after=look, rejects=OutOfStock, pivot=True)
    def pay(self, ctx: Context, order: str) -> str:
        return "paid"


class _LyingProbe(Two):
    name = "lying-probe"

    @step(rejects=OutOfStock)
    def first(self, ctx: Context, order: str) -> int:
        self.take(ctx)
        return 1

    @first.undo
    def back(self, ctx: Context, order: str, taken: int | Unknown) -> None:
        self.give(ctx, taken)

    @first.probe
    def ask(self, ctx: Context, order: str) -> NotDone:
        return NotDone()

    @step(after=first, rejects=OutOfStock, pivot=True)
    async def last(self, ctx: Context, order: str) -> str:
        return "done"


WRONG_SAGAS: dict[type[Saga[Any, Any]], str] = {
    _NoUndoTwice: "taken back",
    _NoKey: "it",
    _Lies: "taken back",
    _UndoDoesNothing: "taken back",
    _UndoCannotStandUnknown: "end",
    _UndoIgnoresUnknown: "taken back",
    _NoTombstone: "taken back",
    _SagaIdAsKey: "it",
    _PivotPaysTwice: "it completed",
    _NothingToUndo: "taken back",
    _LyingProbe: "taken back",
}


@pytest.mark.parametrize("wrong", WRONG_SAGAS, ids=lambda kind: kind.__name__)
def test_each_wrong_saga_is_found_and_its_case_can_be_replayed(wrong: type[Saga[Any, Any]]) -> None:
    """These are the mistakes that people make; a lab that misses one gives false comfort."""
    lab = SagaLab(wrong(), mixed=0)
    with pytest.raises(LabFailure, match="cases are wrong") as told:
        lab.explore("x")
    first = told.value.report.wrong[0]
    assert f'lab.replay("{first.case}")' in str(told.value)
    assert any(WRONG_SAGAS[wrong] in problem for outcome in told.value.report.wrong for problem in outcome.problems)
    again = SagaLab(wrong()).replay(first.case, "x")
    assert again.problems == first.problems
    assert again.case == first.case


# --- engines that are wrong


def _forgets_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rules._armed
    monkeypatch.setattr(
        rules, "_armed", lambda node, facts, started: honest(node, facts, started) and (
            node.name not in facts.done or facts.done[node.name].outcome == "ok"
        ),
    )  # fmt: skip


def _forgets_what_may_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "possibly_started", lambda *_: frozenset())


def _another_key_for_each_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = run.Runner.context

    def context(self: Any, name: str, round_: int, **how: Any) -> Context:
        found = honest(self, name, round_, **how)
        return replace(found, key=f"{found.key}.{self.row.epoch}", undoes=found.undoes and f"{found.undoes}.{self.row.epoch}")

    monkeypatch.setattr(run.Runner, "context", context)


def _undoes_in_the_order_of_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rules.decide

    def decide(graph: Any, facts: Any, started: Any = frozenset(), busy: Any = frozenset()) -> Decision:
        found = honest(graph, facts, started, busy)
        undos = [action for action in found.actions if isinstance(action, Undo)]
        if undos and not facts.undos:
            first = next((node.name for node in graph.nodes if node.undo and facts.passed(node.name)), undos[0].step)
            if first == undos[0].step:
                return found
            return replace(found, actions=(Undo(first, 0, facts.done[first]),))
        return found

    monkeypatch.setattr(run, "decide", decide)


def _takes_a_rejection_in_doubt_for_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = act.Act._judge

    def judge(self: Any, error: Exception, before: bool, attempt: int, repeats: Any, *, undo: bool) -> str | None:
        found = honest(self, error, before, attempt, repeats, undo=undo)
        return "rejected" if found == "unknown" else found

    monkeypatch.setattr(act.Act, "_judge", judge)


def _says_that_it_is_done_after_the_first_undo(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rules.decide

    def decide(graph: Any, facts: Any, started: Any = frozenset(), busy: Any = frozenset()) -> Decision:
        found = honest(graph, facts, started, busy)
        return Decision(finish="compensated", backward=True) if facts.undos and found.actions else found

    monkeypatch.setattr(run, "decide", decide)


def _goes_back_behind_the_pivot(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = rules.decide

    def decide(graph: Any, facts: Any, started: Any = frozenset(), busy: Any = frozenset()) -> Decision:
        if graph.pivot is not None and facts.passed(graph.pivot.name) and started:
            return rules._backward(graph, facts, started, busy)
        return honest(graph, facts, started, busy)

    monkeypatch.setattr(run, "decide", decide)


def _gives_every_owner_the_same_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = run.Runner.context

    def context(self: Any, name: str, round_: int, **how: Any) -> Context:
        found = honest(self, name, round_, **how)
        return replace(found, fence=found.fence._replace(epoch=100 - found.fence.epoch))

    monkeypatch.setattr(run.Runner, "context", context)


WRONG_ENGINES = [
    _forgets_unknown, _forgets_what_may_have_started, _another_key_for_each_attempt, _undoes_in_the_order_of_doing,
    _takes_a_rejection_in_doubt_for_proof, _says_that_it_is_done_after_the_first_undo, _goes_back_behind_the_pivot,
    _gives_every_owner_the_same_fence,
]  # fmt: skip


@pytest.mark.parametrize("spoil", WRONG_ENGINES, ids=lambda fn: fn.__name__.strip("_"))
def test_each_wrong_engine_is_found(spoil: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab tests our own engine too; each of these mistakes would lose money without a word."""
    spoil(monkeypatch)
    with pytest.raises(LabFailure) as told:
        SagaLab(Order(), mixed=0).explore("rich")
    print(str(told.value).splitlines()[:3])


# --- what else a saga can have


class Many(Saga[str, str]):
    """Branches side by side, a wait, a signal, a transaction's step, a probe."""

    name = "many"

    def __init__(self) -> None:
        self.world = Effects()

    @step(rejects=OutOfStock)
    async def left(self, ctx: Context, order: str) -> int:
        await asyncio.sleep(0.5)
        self.world.do(ctx)
        return 1

    @left.undo
    async def unleft(self, ctx: Context, order: str, taken: int | Unknown) -> None:
        self.world.undo(ctx)

    @left.probe
    def was_left(self, ctx: Context, order: str) -> Done[int] | Unknown:
        return Done(1) if self.world.effects().get("left") else Unknown("it may still be on its way")

    @step(rejects=OutOfStock, timeout="10s")
    def right(self, ctx: Context, order: str) -> int:
        self.world.do(ctx)
        return 2

    @right.undo
    def unright(self, ctx: Context, order: str, taken: int | Unknown) -> None:
        self.world.undo(ctx)

    pause = saga_sleep("2d", after=(left, right))
    approved = wait_signal("approved", bool, timeout="3d", after=pause)

    @step(after=approved, tx=True)
    def book(self, ctx: Context, order: str) -> None:
        ctx.tx.execute("CREATE TABLE IF NOT EXISTS booked (id TEXT PRIMARY KEY)")
        ctx.tx.execute("INSERT INTO booked VALUES (?)", (ctx.id,))

    @step(after=book, pivot=True, rejects=OutOfStock)
    def pay(self, ctx: Context, order: str) -> str:
        self.world.do(ctx)
        return "paid"


def test_branches_waits_signals_and_transactions_pass_in_virtual_time() -> None:
    """Two days of waiting must take no time, and a branch that dies with the worker is taken back too."""
    report = SagaLab(Many(), signals={"approved": True}).explore("x")
    assert report.cases > 200
    assert set(report.ends) >= {"completed", "compensated"}


def test_without_its_signal_the_saga_is_taken_back_and_the_outcome_tells_why() -> None:
    """A replay shows what happened: calls, journal, state."""
    outcome = SagaLab(Many()).replay("input=0", "x")
    assert outcome.status == "compensated"
    assert outcome.problems == ()
    assert Counter(call.verb for call in outcome.calls if call.how == "ended") == {"do": 2, "undo": 2}
    assert any("SignalTimeout" in (record.error or "") for record in outcome.records)


class Once(Two):
    """A step that must never be repeated blindly, and nobody who could be asked."""

    name = "once"

    @step(rejects=OutOfStock, at_most_once=True)
    def first(self, ctx: Context, order: str) -> int:
        self.take(ctx)
        return 1

    @first.undo
    def back(self, ctx: Context, order: str, taken: int | Unknown) -> None:
        self.give(ctx, taken)

    @step(after=first, rejects=OutOfStock, pivot=True)
    def last(self, ctx: Context, order: str) -> str:
        return "done"


def test_a_step_that_is_not_repeated_blindly_may_end_stuck_but_never_twice() -> None:
    """To ask a human is the promise of at_most_once, so the lab accepts it, and only it."""
    report = SagaLab(Once()).explore("x")
    assert report.ends["stuck"] > 0
    assert report.ends["completed"] > 0


def test_a_lab_says_what_it_cannot_read() -> None:
    """A typo in a case's name must not run another case."""
    lab = SagaLab(Two())
    with pytest.raises(ValueError, match="a case reads like"):
        lab.replay("reserve=gone")
    with pytest.raises(ValueError, match="only 1 inputs were given"):
        lab.replay("input=3", "x")
    with pytest.raises(TypeError, match="saga must be an instance"):
        SagaLab(Two)
    with pytest.raises(ValueError, match="mixed must be"):
        SagaLab(Two(), mixed=-1)


@pytest.mark.parametrize("text", ["input=0", "input=2 undo:first=lost crash=3b,5a twice", "input=0 first=late last=rejected"])
def test_a_case_survives_being_written_and_read(text: str) -> None:
    """What is printed must be what is replayed."""
    assert str(Case.parse(text)) == text
