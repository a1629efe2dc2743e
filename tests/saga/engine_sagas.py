"""Sagas that the conformance suite runs on every engine, over the ledger."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ledger import Ledger

import seawall as sw
from seawall.saga import NOT_DONE, Context, Done, NotDone, Saga, Unknown, sleep, step, wait_signal


@dataclass
class Plan:
    """What to do. fails: the step that fails, "" = none. how: "refuse" (rejected) or "break" (unknown). times: how often."""

    fails: str = ""
    how: str = "refuse"
    times: int = 1_000_000
    slow: float = 0.0


class Refused(Exception):
    """Nothing happened."""


class Broken(ConnectionError):
    """Nobody knows whether it happened."""


class _Base(Saga):  # type: ignore[type-arg]
    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def make(self, ctx: Context, plan: Plan) -> None:
        """Take effect, unless it is refused; breaking comes after the effect, as a lost answer does."""
        if plan.fails == ctx.step and plan.how == "refuse":
            raise Refused(ctx.step)
        self.ledger.did(ctx)
        asked = self.ledger.rows(f"SELECT COUNT(*) FROM asked WHERE key='{ctx.key}' AND verb='do'")[0][0]
        if plan.fails == ctx.step and asked <= plan.times:
            raise Broken(ctx.step)


class Trip(_Base, Saga[Plan, str]):
    """Two branches that join, then a pivot and a step that must succeed."""

    name = "trip"

    @step(rejects=Refused, retry=sw.Retry(2, backoff=sw.Backoff(base=0.01)))
    async def plane(self, ctx: Context, plan: Plan) -> int:
        await asyncio.sleep(plan.slow)
        self.make(ctx, plan)
        return 100

    @plane.undo
    async def no_plane(self, ctx: Context, plan: Plan, cost: int | Unknown) -> None:
        self.ledger.undid(ctx)

    @step(rejects=Refused)
    def hotel(self, ctx: Context, plan: Plan) -> int:
        self.make(ctx, plan)
        return 20

    @hotel.undo
    def no_hotel(self, ctx: Context, plan: Plan, cost: int | Unknown) -> None:
        self.ledger.undid(ctx)

    @step(after=(plane, hotel), pivot=True, rejects=Refused, retry=sw.Retry(2, backoff=sw.Backoff(base=0.01)))
    async def pay(self, ctx: Context, plan: Plan) -> int:
        self.make(ctx, plan)
        return ctx.result(self.plane) + ctx.result(self.hotel)

    @step(after=pay, retriable=True, retry=sw.Retry(2, backoff=sw.Backoff(base=0.01)))
    async def tell(self, ctx: Context, plan: Plan) -> None:
        self.make(ctx, plan)

    def output(self, ctx: Context, plan: Plan) -> str:
        return f"paid {ctx.result(self.pay)}"


class Approval(_Base, Saga[Plan, str]):
    """Reserves, waits for a human, sleeps a moment, then books."""

    name = "approval"

    @step(rejects=Refused)
    async def reserve(self, ctx: Context, plan: Plan) -> None:
        self.make(ctx, plan)

    @reserve.undo
    async def release(self, ctx: Context, plan: Plan, result: Unknown | None) -> None:
        self.ledger.undid(ctx)

    word = wait_signal("approved", str, after=reserve)
    nap = sleep(0.2, after=word)

    @step(after=nap, undo="none")
    async def book(self, ctx: Context, plan: Plan) -> str:
        return f"booked by {ctx.result(self.word)}"


class Impatient(_Base, Saga[Plan, None]):
    """Waits for a signal for a moment only."""

    name = "impatient"

    @step(rejects=Refused)
    async def reserve(self, ctx: Context, plan: Plan) -> None:
        self.make(ctx, plan)

    @reserve.undo
    async def release(self, ctx: Context, plan: Plan, result: Unknown | None) -> None:
        self.ledger.undid(ctx)

    word = wait_signal("approved", str, after=reserve, timeout=0.3)


class Hurried(_Base, Saga[Plan, None]):
    """Has a deadline that its second step can never meet."""

    name = "hurried"
    deadline = 0.6

    @step(rejects=Refused)
    async def reserve(self, ctx: Context, plan: Plan) -> None:
        self.make(ctx, plan)

    @reserve.undo
    async def release(self, ctx: Context, plan: Plan, result: Unknown | None) -> None:
        self.ledger.undid(ctx)

    word = wait_signal("approved", str, after=reserve)


class OnceOnly(_Base, Saga[Plan, str]):
    """A step that is never repeated blindly; a probe can tell when `probed`."""

    name = "once-only"

    @step(rejects=Refused)
    async def reserve(self, ctx: Context, plan: Plan) -> None:
        self.make(ctx, plan)

    @reserve.undo
    async def release(self, ctx: Context, plan: Plan, result: Unknown | None) -> None:
        self.ledger.undid(ctx)

    @step(after=reserve, at_most_once=True, rejects=Refused)
    async def wire(self, ctx: Context, plan: Plan) -> str:
        self.make(ctx, plan)
        await asyncio.sleep(plan.slow)
        return "wired"

    @wire.undo
    async def recall(self, ctx: Context, plan: Plan, result: str | Unknown) -> None:
        self.ledger.undid(ctx)

    @wire.probe
    async def wired(self, ctx: Context, plan: Plan) -> Done[str] | NotDone:
        found = self.ledger.rows(f"SELECT state FROM effect WHERE key='{ctx.key}'")
        return Done("probed") if found == [("done",)] else NOT_DONE


class Stubborn(_Base, Saga[Plan, str]):
    """A step whose undo fails for as long as the ledger says, and tells a human after two attempts."""

    name = "stubborn"

    @step(rejects=Refused)
    async def reserve(self, ctx: Context, plan: Plan) -> None:
        self.make(ctx, plan)

    @reserve.undo(retry=sw.Retry(2, backoff=sw.Backoff(base=0.01)), alert_after=2)
    async def release(self, ctx: Context, plan: Plan, result: Unknown | None) -> None:
        raise Broken("release")

    @reserve.alternate
    async def by_hand(self, ctx: Context, plan: Plan, result: Unknown | None) -> None:
        self.ledger.undid(ctx)

    @step(after=reserve, rejects=Refused, undo="none")
    async def check(self, ctx: Context, plan: Plan) -> str:
        self.make(ctx, plan)
        return "checked"


ALL = (Trip, Approval, Impatient, Hurried, OnceOnly, Stubborn)
