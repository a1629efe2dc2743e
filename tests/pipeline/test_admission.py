"""AdmissionControl as people use it: in front of a bulkhead, by priority, by user, sync and async alike."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import seawall as sw
from seawall.core.context import PRIORITIES
from seawall.testing import VirtualClock, capture_events


def overload(clock: VirtualClock, door: sw.AdmissionControl, *, seconds: int, rate: int = 200) -> Counter[tuple[str, str]]:
    """A server of 10 seats and 0.1 s per call, asked `rate` times per second by all classes alike."""
    server = sw.Pipeline(door, sw.Bulkhead(10, queue=200))
    seen: Counter[tuple[str, str]] = Counter()

    async def one(priority: Any) -> None:
        with sw.priority(priority):
            result = await server.atry_call(clock.asleep, 0.1)
        seen[priority, "served" if result.rejection is None else type(result.rejection).__name__] += 1

    async def main() -> None:
        tasks = []
        for number in range(seconds * rate):
            tasks.append(asyncio.create_task(one(PRIORITIES[number % 3])))
            await clock.asleep(1 / rate)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    return seen


def test_the_queue_of_a_bulkhead_inside_closes_the_door_to_the_least_important(seawall_time: VirtualClock) -> None:
    """A nightly export must not cost a payment."""
    door = sw.AdmissionControl(shed=0.1, regain=0.02, name="door")
    with capture_events("admission_control.moved") as events:
        overload(seawall_time, door, seconds=12)
        seen = overload(seawall_time, door, seconds=12)
    assert seen["critical", "served"] > 9 * seen["critical", "Overloaded"]
    assert seen["critical", "BulkheadFull"] == 0
    assert seen["sheddable", "Overloaded"] > 0.8 * 800
    assert seen["default", "served"] > 100
    assert events[0].data["delay"] > 0.02
    shot = door.snapshot()
    assert shot.admitted["critical"] == 1.0
    assert shot.admitted["sheddable"] < 0.5
    assert shot.rejected > 300
    assert not door.at_rest


def test_a_refused_call_learns_when_to_come_again(seawall_time: VirtualClock) -> None:
    """Overloaded, by whom, why, and when the door could be open."""
    door = sw.AdmissionControl(shed=0.5, name="door", delay=lambda waited: waited)
    for _ in range(4):
        with sw.priority("critical"):
            door.try_call(lambda waited: waited, 3.0)
        with sw.priority("sheddable"):
            refused = door.try_call(lambda waited: waited, 3.0).rejection
        seawall_time.advance(1)
    assert isinstance(refused, sw.Overloaded)
    assert refused.policy == "door"
    assert str(refused).startswith("door sheds sheddable calls: those let in waited 3 s")
    assert refused.retry_after is not None
    assert 1 <= refused.retry_after <= 100
    door.restart()
    assert door.at_rest
    assert door.call(lambda waited: waited, -5.0) == -5.0
    seawall_time.advance(1)
    with sw.priority("sheddable"):
        assert door.call(lambda waited: waited, 0) == 0
    assert door.snapshot().delay == 0


def test_a_delay_that_is_no_number_is_refused_before_the_call(seawall_time: VirtualClock) -> None:
    """A header that was not read as a number would switch the door off silently."""
    door = sw.AdmissionControl(delay=lambda waited: waited)
    for wrong in ("3", None, float("nan"), True):
        with pytest.raises(sw.Misplaced, match="delay must return seconds"):
            door.call(lambda waited: pytest.fail("called"), wrong)


def test_calls_of_one_user_pass_or_fail_together_and_the_order_of_users_turns(seawall_time: VirtualClock) -> None:
    """Half of the users with whole pages, not all users with half pages; and not the same half for ever."""
    door = sw.AdmissionControl(key="user", shed=0.5, delay=lambda user: 1.0)

    def fates() -> dict[str, bool]:
        for _ in range(3):
            seen: dict[str, set[bool]] = {}
            for number in range(300):
                user = f"user-{number % 50}"
                seen.setdefault(user, set()).add(door.try_call(lambda user: 1, user).ok)
            seawall_time.advance(1)
        assert all(len(fate) == 1 for fate in seen.values())
        return {user: fate == {True} for user, fate in seen.items()}

    first = fates()
    assert 0 < sum(first.values()) < 40
    door.restart()
    seawall_time.advance(64 * 60)
    later = fates()
    assert first != later
    assert any(later[user] for user in later if not first[user])


def test_a_limit_without_a_queue_closes_the_door_by_its_refusals(seawall_time: VirtualClock) -> None:
    """Who refuses at once makes nobody wait."""
    door = sw.AdmissionControl()
    full = sw.Bulkhead(1)
    server = sw.Pipeline(door, full)
    with full.permit():
        for _ in range(50):
            assert isinstance(server.try_call(lambda: 1).rejection, sw.BulkheadFull)
        seawall_time.advance(1)
        server.try_call(lambda: 1)
    assert door.snapshot().overloaded
    limited = sw.Pipeline(sw.AdmissionControl(), sw.RateLimiter("1/h"))
    for _ in range(50):
        limited.try_call(lambda: 1)
    seawall_time.advance(1)
    limited.try_call(lambda: 1)
    assert not limited.policy(sw.AdmissionControl).snapshot().overloaded


def test_it_guards_blocks_and_has_its_place() -> None:
    """It works like every other policy."""
    door = sw.AdmissionControl()
    with door.permit():
        pass
    assert "arguments" in str(sw.AdmissionControl(key="user").why_no_block)
    ordered = sw.Pipeline.recommended(sw.Bulkhead(1), sw.AdmissionControl(), sw.Timeout(1))
    assert [policy.kind for policy in ordered.policies] == ["admission_control", "bulkhead", "timeout"]


def test_a_file_that_is_read_again_leaves_the_door_where_it_is(seawall_time: VirtualClock, tmp_path: Any) -> None:
    """A reload in the middle of an overload must not let everybody in."""
    path = tmp_path / "seawall.toml"
    text = '[pipelines.stock]\npolicies = [{ admission_control = { target = "20ms", shed = 0.5 } }, { bulkhead = 1 }]\n'
    path.write_text(text)
    config = sw.load(path)
    door = config["stock"].policy(sw.AdmissionControl)
    with config["stock"].policy(sw.Bulkhead).permit():
        for _ in range(50):
            config["stock"].try_call(lambda: 1)
        seawall_time.advance(1)
        config["stock"].try_call(lambda: 1)
    admitted = door.snapshot().admitted
    assert admitted["default"] < 1
    path.write_text(text.replace("20ms", "30ms"))
    config.reload()
    fresh = config["stock"].policy(sw.AdmissionControl)
    assert fresh is not door
    assert fresh.rule.target == 0.03
    assert (fresh.snapshot().admitted, fresh.rejected) == (admitted, door.rejected)


@pytest.mark.parametrize(
    "bad", [{"target": "soon"}, {"window": 0}, {"calls": 0}, {"shed": 2}, {"regain": 0}, {"key": 5}, {"delay": 1.0}]
)
def test_a_door_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        sw.AdmissionControl(**bad)
