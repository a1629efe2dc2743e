"""Sagas whose steps are only known as they go, over crashes, errors and changed code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import seawall as sw
from seawall.saga import Context, InputChanged, LeaseLost, SagaCompensated, SagaError, Sagas, SagaStuck, Unknown
from seawall.saga.errors import StepFailed
from seawall.saga.operate import NotAllowed, Word

Conduct = Callable[..., Sagas]
FAST = sw.Backoff(base=0.001, cap=0.01)


class Full(Exception):
    """Nothing was booked."""


class Agency:
    """Books and cancels, and remembers in what order. breaks: what to raise, by name."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.keys: dict[str, set[str]] = {}
        self.breaks: dict[str, Exception] = {}
        self.doubts: list[bool] = []

    async def book(self, ctx: Context, what: str) -> str:
        self.told.append(f"book {what}")
        self.keys.setdefault(what, set()).add(ctx.key)
        self.doubts.append(ctx.doubtful)
        if what in self.breaks:
            raise self.breaks[what]
        return f"<{what}>"

    def cancel(self, ctx: Context, what: str, booked: str | Unknown) -> None:
        assert ctx.undoes in self.keys[what]
        self.told.append(f"cancel {booked if isinstance(booked, str) else f'maybe {what}'}")


async def trip(sagas: Sagas, agency: Agency, *names: str, after: Any = None, **options: Any) -> list[str]:
    """One block: book each, under its own step."""
    async with sagas.open("trip", id="t", **options) as s:
        booked = [await s.do(name, agency.book, name, undo=agency.cancel, rejects=Full) for name in names]
        if after is not None:
            await after()
        return booked


def test_a_block_that_crashed_is_opened_again_and_goes_on_where_it_was(conduct: Conduct) -> None:
    """What was done returns what it returned; what was under way runs again with its key and knows that it is in doubt."""
    agency, hung = Agency(), asyncio.Event()

    async def crash_in_hotel(sagas: Sagas) -> None:
        async def hang(ctx: Context, what: str) -> str:
            await agency.book(ctx, what)
            hung.set()
            await asyncio.sleep(60)
            return "never"

        async with sagas.open("trip", id="t") as s:
            assert await s.do("car", agency.book, "car", undo=agency.cancel) == "<car>"
            await s.do("hotel", hang, "hotel", undo=agency.cancel)

    async def main() -> None:
        dead = conduct()
        await dead.__aenter__()
        block = asyncio.create_task(crash_in_hotel(dead))
        await asyncio.wait_for(hung.wait(), 20)
        async with conduct() as other:
            with pytest.raises(LeaseLost, match="trip t is open elsewhere"):
                await trip(other, agency, "car", "hotel")
            dead.abandon()
            dead.journal.leave()
            assert await trip(other, agency, "car", "hotel", "train") == ["<car>", "<hotel>", "<train>"]
            assert agency.told == ["book car", "book hotel", "book hotel", "book train"]
            assert agency.doubts == [False, False, True, False]
            assert [len(keys) for keys in agency.keys.values()] == [1, 1, 1]
            assert await trip(other, agency, "car", "hotel", "train") == ["<car>", "<hotel>", "<train>"]
            assert len(agency.told) == 4
            with pytest.raises(SagaError, match="has completed, without a step boat#1"):
                await trip(other, agency, "car", "hotel", "train", "boat")
            assert await (await other.handle("t")).status() == "completed"
            block.cancel()
            with pytest.raises((asyncio.CancelledError, LeaseLost)):
                await block
        dead._close()

    asyncio.run(main())


def test_an_error_takes_back_what_was_done_in_reverse_and_goes_on(conduct: Conduct) -> None:
    """All or nothing, and the caller sees its own error; a later open learns that it was taken back."""
    agency = Agency()
    agency.breaks["boat"] = OSError("who knows")

    async def main() -> None:
        async with conduct() as sagas:
            with pytest.raises(OSError, match="who knows") as told:
                await trip(sagas, agency, "car", "hotel", "boat")
            assert told.value.__notes__ == ["trip t was taken back"]
            with pytest.raises(SagaCompensated, match="OSError: who knows"):
                await trip(sagas, agency, "car")

    asyncio.run(main())
    booked = ["book car", "book hotel", "book boat"]
    assert agency.told == [*booked, "cancel maybe boat", "cancel <hotel>", "cancel <car>"]


def test_a_rejection_proves_nothing_when_an_earlier_attempt_may_have_been_made(conduct: Conduct) -> None:
    """First try rejected: nothing to undo. Tried again after a timeout: nobody knows, so its undo runs."""
    agency = Agency()
    agency.breaks["hotel"] = Full("no room")

    async def late(ctx: Context, what: str) -> str:
        if ctx.attempt == 1:
            raise OSError("lost")
        return await agency.book(ctx, what)

    async def main() -> None:
        async with conduct() as sagas:
            with pytest.raises(Full):
                await trip(sagas, agency, "car", "hotel")
            assert agency.told == ["book car", "book hotel", "cancel <car>"]
            agency.told.clear()
            with pytest.raises(Full):
                async with sagas.open("trip", id="u") as s:
                    retry = sw.Retry(3, on=OSError, backoff=FAST)
                    await s.do("hotel", late, "hotel", undo=agency.cancel, rejects=Full, retry=retry)
            assert agency.told == ["book hotel", "cancel maybe hotel"]

    asyncio.run(main())


async def cut_off(sagas: Sagas, agency: Agency, *names: str) -> None:
    """A block whose process goes away after its last step."""
    with pytest.raises(asyncio.CancelledError):
        await trip(sagas, agency, *names, after=_cancelled)


async def _cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["boat", "car"], "boat#1 comes where car#1, hotel#1 came before the restart"),
        (["car"], "the block ended without hotel#1, which came before the restart"),
    ],
)
def test_a_block_that_goes_another_way_after_a_restart_is_stuck_and_seen(conduct: Conduct, names: list[str], why: str) -> None:
    """Whoever changed the code meanwhile must not lose a booking that the new code never mentions."""
    agency = Agency()

    async def main() -> None:
        async with conduct() as sagas:
            await cut_off(sagas, agency, "car", "hotel")
            with pytest.raises(SagaStuck, match=f"definition_mismatch: {why}"):
                await trip(sagas, agency, *names)
            handle = await sagas.handle("t")
            assert await handle.status() == "stuck"
            assert agency.told == ["book car", "book hotel"]
            assert await trip(sagas, agency, "car", "hotel") == ["<car>", "<hotel>"]  # the old code takes it to its end
            assert await handle.status() == "completed"

    asyncio.run(main())


def test_other_arguments_after_a_restart_are_a_mismatch_too(conduct: Conduct) -> None:
    """The same step with other arguments is another step; its old result would be a lie."""
    agency = Agency()

    async def main() -> None:
        async with conduct() as sagas:
            await cut_off(sagas, agency, "car")
            with pytest.raises(SagaStuck, match="car#1 had other arguments before the restart"):
                async with sagas.open("trip", id="t") as s:
                    await s.do("car", agency.book, "bigger car", undo=agency.cancel)

    asyncio.run(main())
    assert agency.told == ["book car"]


def test_a_block_that_crashed_while_it_went_back_goes_on_going_back(conduct: Conduct) -> None:
    """Half taken back is the worst state of all; the next open must finish that, and start nothing new."""
    agency, halfway = Agency(), asyncio.Event()
    agency.breaks["boat"] = Full("sunk")

    async def stuck_undo(ctx: Context, what: str, booked: str | Unknown) -> None:
        halfway.set()
        await asyncio.sleep(60)

    async def block(sagas: Sagas, undo: Any) -> None:
        async with sagas.open("trip", id="t") as s:
            await s.do("car", agency.book, "car", undo=undo)
            await s.do("hotel", agency.book, "hotel", undo=agency.cancel)
            await s.do("boat", agency.book, "boat", rejects=Full)
            await s.do("never", agency.book, "never")

    async def main() -> None:
        dead = conduct()
        await dead.__aenter__()
        first = asyncio.create_task(block(dead, stuck_undo))
        await asyncio.wait_for(halfway.wait(), 20)
        dead.abandon()
        dead.journal.leave()
        async with conduct() as sagas:
            with pytest.raises(SagaCompensated, match="Full: sunk"):
                await block(sagas, agency.cancel)
        assert agency.told == ["book car", "book hotel", "book boat", "cancel <hotel>", "cancel <car>"]
        first.cancel()
        await asyncio.wait([first])
        dead._close()

    asyncio.run(main())


def test_a_step_that_failed_before_a_restart_fails_again_the_same_way(conduct: Conduct) -> None:
    """A block that caught the failure and went another way must go that way again."""
    agency = Agency()
    agency.breaks["boat"] = Full("sunk")

    async def main() -> None:
        async with conduct() as sagas:
            for round_ in (1, 2):
                try:
                    async with sagas.open("trip", id="t") as s:
                        with pytest.raises(Full if round_ == 1 else StepFailed):
                            await s.do("boat", agency.book, "boat", undo=agency.cancel, rejects=Full)
                        assert await s.do("train", agency.book, "train") == "<train>"
                        if round_ == 1:
                            raise asyncio.CancelledError
                except asyncio.CancelledError:
                    assert round_ == 1
            assert agency.told == ["book boat", "book train"]

    asyncio.run(main())


def test_steps_side_by_side_are_for_blocks_that_say_so(conduct: Conduct) -> None:
    """A gather would make the order a matter of luck; it must be asked for, and then works over a restart too."""
    agency = Agency()

    async def both(s: Any) -> list[str]:
        return list(await asyncio.gather(*(s.do(name, agency.book, name, undo=agency.cancel) for name in ("car", "hotel"))))

    async def main() -> None:
        async with conduct() as sagas:
            with pytest.raises(SagaError, match="hotel begins while car runs"):
                async with sagas.open("trip", id="a") as s:
                    await both(s)
            for _ in range(2):
                async with sagas.open("trip", id="b", ordered=False) as s:
                    assert await both(s) == ["<car>", "<hotel>"]
            with pytest.raises(ValueError, match="id must be text"):
                sagas.open("trip", id="")
            with pytest.raises(ValueError, match="name must be text"):
                sagas.open("", id="x")

    asyncio.run(main())
    assert agency.told.count("book hotel") == 1


def test_a_failing_undo_of_a_block_is_seen_and_goes_on(conduct: Conduct) -> None:
    """Nobody's booking is lost silently here either."""
    tries: list[int] = []

    async def stubborn(ctx: Context, booked: Unknown | None) -> None:
        tries.append(ctx.attempt)
        if len(tries) <= 10:
            raise OSError("closed")

    async def nothing(ctx: Context) -> None: ...

    async def main() -> None:
        async with conduct(clock=Hasty()) as sagas:
            seen: list[str] = []
            sagas.subscribe(lambda event: seen.append(event.kind))
            with pytest.raises(RuntimeError):
                async with sagas.open("trip", id="t") as s:
                    await s.do("car", nothing, undo=stubborn)
                    raise RuntimeError
            assert "saga.alert" in seen
            assert await (await sagas.handle("t")).status() == "compensated"
            with pytest.raises(NotAllowed, match="goes as its block says"):
                await sagas.operate("t", Word("retry", "ada", "why"))

    asyncio.run(main())
    assert tries == list(range(1, 12))


class Hasty(sw.SystemClock):
    """The real clock, but for waits, which it shortens."""

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


def test_a_saga_with_a_definition_is_started_not_opened(conduct: Conduct) -> None:
    """One id, one kind."""

    class Trip(sw.saga.Saga[None, None]):
        name = "trip"

        @sw.saga.step(undo="none")
        async def go(self, ctx: Context, _: None) -> None: ...

    async def main() -> None:
        async with conduct(Trip()) as sagas:
            await (await sagas.start(Trip, None, id="t")).result(20)
            with pytest.raises(InputChanged, match="trip t is a saga with a definition"):
                async with sagas.open("trip", id="t"):
                    pass

    asyncio.run(main())
