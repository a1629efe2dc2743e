"""A registration that never gives up, checks, and stays gone when it is gone."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.discovery.kit import ids
from tests.discovery.scripted import Stage, play

from seawall.discovery import Instance

ONE = Instance("payments", port=1)


def test_a_registration_outlasts_an_hour_without_its_registry() -> None:
    """Clients that give up after their last retry leave healthy processes invisible for good (go-kratos/kratos#3883)."""

    async def scenario(stage: Stage) -> None:
        stage.switch.away = True
        async with stage.registry.register(ONE, wait=1) as registration:
            assert not registration.registered
            await stage.clock.asleep(3600)
            attempts = len(stage.switch.of("put"))
            assert 3600 / 3.4 <= attempts <= 3600  # at most a beat apart, with full jitter: about one in 1.7 s
            assert registration.snapshot().failures == attempts
            assert "away" in str(registration.snapshot().error)
            stage.switch.away = False
            assert await stage.until(lambda: registration.registered) <= 3.4
            assert registration.snapshot().failures == 0

    stage = play(scenario)
    assert stage.kinds().count("registry.registered") == 1


@pytest.mark.parametrize("trouble", ["away", "frozen"])
def test_all_are_back_within_one_ttl_after_an_outage(trouble: str) -> None:
    """Ten minutes without a registry must cost nothing but the registry."""

    async def scenario(stage: Stage) -> None:
        ones = [stage.registry.register(Instance("payments", port=port)) for port in range(1, 6)]
        for one in ones:
            await one.start()
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 5)
            fewest = [5]
            watch.subscribe(lambda snapshot: fewest.append(len(snapshot.ready)))
            setattr(stage.switch, trouble, True)
            await stage.clock.asleep(590)
            assert watch.snapshot.source == "stale"
            assert not any(one.registered for one in ones)
            setattr(stage.switch, trouble, False)
            took = await stage.until(lambda: all(one.registered for one in ones))
            assert took <= 10
            await stage.until(lambda: watch.snapshot.source == "live", 6)
            await stage.clock.asleep(15)
            assert min(fewest) == 5
            assert watch.snapshot.held == frozenset()
        for one in ones:
            await one.deregister()

    async def answers(instance: Instance) -> bool:
        return True

    play(scenario, probe=answers)


def test_the_heart_beats_three_times_per_ttl_and_every_third_beat_is_checked() -> None:
    """Two beats may be lost before the record dies; reading it back finds what a beat does not."""

    async def scenario(stage: Stage) -> None:
        async with stage.registry.register(ONE, ttl=9):
            await stage.clock.asleep(91)

    stage = play(scenario)
    beats = stage.switch.of("beat")
    assert len(beats) == 30
    assert {round(later - before, 3) for before, later in pairwise(beats)} == {3.0}
    assert len(stage.switch.of("check")) == 10


def test_nothing_is_written_after_the_record_was_taken_out() -> None:
    """A heartbeat that is late would bring a process back that has just left."""

    async def scenario(stage: Stage) -> None:
        for moment in range(40):
            registration = stage.registry.register(ONE, ttl=3)
            await registration.start()
            await stage.clock.asleep(moment * 0.1)
            stage.switch.frozen = moment % 2 == 1
            stage.clock.tasks.call_later(0.3, setattr, stage.switch, "frozen", False)
            await registration.deregister()
            left = stage.clock.monotonic()
            await stage.clock.asleep(10)
            assert [verb for at, verb in stage.switch.asked if at > left] == []
            assert (await stage.registry.list("payments")).instances == ()
            stage.switch.asked.clear()

    play(scenario)


def test_leaving_does_not_wait_for_a_registry_that_is_away() -> None:
    """A process that is told to end has thirty seconds in all; the record goes with its ttl."""

    async def scenario(stage: Stage) -> None:
        for trouble in ("away", "frozen"):
            registration = stage.registry.register(ONE)
            await registration.start()
            setattr(stage.switch, trouble, True)
            began = stage.clock.monotonic()
            await registration.deregister()
            assert stage.clock.monotonic() - began <= 11
            setattr(stage.switch, trouble, False)
            await stage.clock.asleep(20)
            assert (await stage.registry.list("payments")).instances == ()

    assert play(scenario).kinds().count("registry.deregister_failed") == 2


def test_a_state_told_while_the_registry_is_away_is_there_when_it_returns() -> None:
    """What is announced last is what counts, not what was heard last."""

    async def scenario(stage: Stage) -> None:
        async with stage.registry.register(ONE) as registration:
            stage.switch.away = True
            await registration.draining()
            assert registration.instance.state == "draining"
            await stage.clock.asleep(30)
            stage.switch.away = False
            await stage.until(lambda: registration.registered)
            assert [one.state for one in (await stage.registry.list("payments")).instances] == ["draining"]

    play(scenario)


def test_a_block_that_is_cancelled_leaves_the_registry() -> None:
    """Servers are stopped by cancelling them; the record must go all the same."""

    async def scenario(stage: Stage) -> None:
        async def serve() -> None:
            async with stage.registry.register(ONE):
                await stage.clock.asleep(1000)

        task = asyncio.ensure_future(serve())
        await stage.clock.asleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stage.clock.asleep(5)
        assert (await stage.registry.list("payments")).instances == ()

    play(scenario)


def test_a_start_that_is_cancelled_leaves_nothing_behind() -> None:
    """A process that is stopped while it starts must not beat on in a task that nobody knows."""

    async def scenario(stage: Stage) -> None:
        stage.switch.away = True

        async def serve() -> None:
            async with stage.registry.register(ONE, wait=1000):
                raise AssertionError("it must not get here")

        task = asyncio.ensure_future(serve())
        await stage.clock.asleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.switch.away = False
        await stage.clock.asleep(30)
        assert (await stage.registry.list("payments")).instances == ()
        assert len(asyncio.all_tasks()) == 1

    play(scenario)


def test_who_came_later_keeps_the_place_and_who_stayed_gets_it_back() -> None:
    """When the newcomer dies at once, the old process must not stay invisible because of it."""

    async def scenario(stage: Stage) -> None:
        async with stage.registry.register(Instance("payments", port=1, version="1"), ttl=3) as old:
            new = stage.registry.register(Instance("payments", port=1, version="2"), ttl=3)
            await new.start()
            await stage.clock.asleep(20)
            assert [one.version for one in (await stage.registry.list("payments")).ready] == ["2"]
            assert not old.registered
            await stage.clock.tasks.reap([new._task])  # killed
            await stage.until(lambda: old.registered, 3 + 6)
            assert [one.version for one in (await stage.registry.list("payments")).ready] == ["1"]

    play(scenario)
