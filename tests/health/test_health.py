"""Health in virtual time: background checks, groups, expiry, liveness, the shared fate."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from seawall.core.events import Event
from seawall.core.registrars import held_by
from seawall.health import Finding, Health, Peer, SharedFate, Status
from seawall.health.fate import rank
from seawall.testing import VirtualClock


def run(scene: Any) -> None:
    asyncio.run(scene())


def test_checks_run_in_the_background_and_answers_come_from_memory() -> None:
    """A probe must never wait for a dependency, nor ask it once per probe."""
    clock = VirtualClock(seed=1)
    health = Health(clock=clock)
    asked = []

    @health.ready("database", every=5)
    async def database() -> None:
        asked.append(clock.monotonic())

    async def scene() -> None:
        async with health:
            await clock.asleep(60)
            before = len(asked)
            for _ in range(1000):
                assert health.report("ready").status is Status.PASS
            assert len(asked) == before
        assert 11 <= before <= 14, "every 5 s, spread by a tenth so that instances do not ask in step"

    run(scene)
    assert held_by(database) == "@health.ready"


def test_an_answer_takes_less_than_a_millisecond_with_twenty_checks() -> None:
    """Probes come every second from every load balancer; they must cost nothing. Generous: the design says microseconds."""
    health = Health()
    for number in range(20):
        health.ready(f"check-{number}", lambda: None)
    health.report("ready").body()
    begun = time.perf_counter()
    for _ in range(200):
        health.report("ready").body()
    assert (time.perf_counter() - begun) / 200 < 0.005


def test_readiness_waits_for_the_first_result_and_falls_after_three_failures() -> None:
    """Traffic must not come before anybody looked, nor leave for one lost packet."""
    clock = VirtualClock()
    health = Health(clock=clock)
    down = False

    @health.ready("database", every=1, timeout=0.5)
    async def database() -> bool:
        return not down

    async def scene() -> None:
        nonlocal down
        assert health.report("ready").http_status == 503
        async with health:
            await clock.asleep(0.1)
            assert health.report("ready").status is Status.PASS
            down = True
            await clock.asleep(1.2)
            assert health.report("ready").status is Status.PASS
            await clock.asleep(3)
            report = health.report("ready")
            assert (report.status, report.http_status, report.reason) == (Status.FAIL, 503, "database: fail")
            assert health.report("live").http_status == 200, "H2: a dependency that is down is no reason for a restart"
            assert health.failing == {"database"}
            down = False
            await clock.asleep(1.2)
            assert health.report("ready").status is Status.PASS

    run(scene)


def test_a_degrading_check_warns_and_keeps_the_instance_ready() -> None:
    """A cache that is down makes the service slower; taking it out makes it gone."""
    clock = VirtualClock()
    health = Health(clock=clock)

    @health.ready("cache", critical=False)
    async def cache() -> None:
        raise OSError("refused")

    async def scene() -> None:
        async with health:
            await clock.asleep(0.1)
            report = health.report("ready")
            assert (report.status, report.http_status) == (Status.WARN, 200)
            body = json.loads(report.body())
            assert body["status"] == "warn"
            assert body["checks"]["cache"][0]["output"] == "OSError: refused"
            assert "output" not in json.loads(report.body(detail=False))["checks"]["cache"][0]

    run(scene)


def test_a_check_that_hangs_fails_by_its_timeout_sync_or_async() -> None:
    """A dependency that accepts and never answers is down, and must not hold up the other checks."""
    clock = VirtualClock()
    health = Health()  # a real hang needs real time
    held = threading.Event()

    @health.ready("async", every=0.1, timeout=0.1, fall=1)
    async def hangs() -> None:
        await asyncio.sleep(60)

    @health.ready("sync", every=0.1, timeout=0.1, fall=1)
    def hangs_too() -> None:
        held.wait(20)

    @health.ready("fine", every=0.1)
    def fine() -> None: ...

    async def scene() -> None:
        threads = threading.active_count()
        async with health:
            await asyncio.sleep(0.8)
            said = {check.name: (check.status, check.output) for check in health.report("ready").checks}
            assert threading.active_count() <= threads + 2, "one thread per check, however long it hangs"
        assert said["async"] == (Status.FAIL, "no answer within 0.1 s")
        assert said["sync"][0] is Status.FAIL
        assert "still hangs" in (said["sync"][1] or "")
        assert said["fine"][0] is Status.PASS

    run(scene)
    held.set()
    clock.release()


def test_a_dead_refresher_turns_unknown_and_then_fails() -> None:
    """The last good news of a task that died is the worst news there is."""
    clock = VirtualClock()
    health = Health(clock=clock)
    health.ready("database", lambda: None, every=5, timeout=1, expires=10)

    async def scene() -> None:
        async with health:
            await clock.asleep(1)
            assert health.report("ready").status is Status.PASS
        await clock.asleep(12)  # nobody looks any more
        report = health.report("ready")
        assert (report.status, report.checks[0].status) == (Status.WARN, Status.UNKNOWN)
        assert "old" in (report.checks[0].output or "")
        await clock.asleep(10)
        assert health.report("ready").http_status == 503

    run(scene)


def test_a_task_that_dies_is_started_again() -> None:
    """A bug in a check's own code must not blind the instance for good."""
    clock = VirtualClock()
    health = Health(clock=clock)
    runs = 0

    @health.ready("odd", every=1)
    async def odd() -> None:
        nonlocal runs
        runs += 1
        if runs == 2:
            raise asyncio.CancelledError

    async def scene() -> None:
        async with health:
            await clock.asleep(10)
        assert runs > 5

    run(scene)


def test_startup_runs_until_it_passed_once_and_readiness_waits_for_it() -> None:
    """A slow start must not be taken for a hang, nor get traffic."""
    clock = VirtualClock()
    health = Health(clock=clock)
    runs = 0

    @health.startup("migrations", every=1, timeout=0.5)
    async def migrations() -> bool:
        nonlocal runs
        runs += 1
        return runs >= 3

    async def scene() -> None:
        async with health:
            await clock.asleep(0.5)
            assert health.report("startup").reason == "not started: migrations"
            assert health.report("ready").reason == "starting"
            await clock.asleep(20)
            assert runs == 3
            assert health.report("startup").status is Status.PASS
            assert health.report("ready").status is Status.PASS
            await clock.asleep(500)
            assert health.report("startup").status is Status.PASS, "once started, it has started"

    run(scene)


def test_liveness_fails_only_when_the_loop_does_not_run() -> None:
    """Restarting is the cure for a stuck loop and for nothing else. Asked from another thread, as the own port does."""
    health = Health(max_lag=0.4)
    said: list[str] = []

    def ask() -> None:
        time.sleep(0.9)
        said.append(str(health.report("live").status))

    async def scene() -> None:
        async with health:
            await asyncio.sleep(0.3)
            assert health.report("live").status is Status.PASS
            thread = threading.Thread(target=ask)
            thread.start()
            time.sleep(1.3)
            thread.join()
            await asyncio.sleep(0.6)
            said.append(str(health.report("live").status))
            assert health.snapshot().lag > 0.5

    run(scene)
    assert said == ["fail", "pass"]


def test_events_tell_every_change_once() -> None:
    """Who is paged at night is paged for a change, not for each probe."""
    clock = VirtualClock()
    health = Health("orders", clock=clock)
    events: list[Event] = []
    health.subscribe(events.append)
    changes: list[int] = []
    health.on_change(lambda: changes.append(1))
    good = True
    health.ready("database", lambda: good, every=1, fall=1)

    async def scene() -> None:
        nonlocal good
        async with health:
            await clock.asleep(5)
            good = False
            await clock.asleep(5)

    run(scene)
    ready = [event.data["status"] for event in events if event.kind == "health.changed" and event.data["group"] == "ready"]
    assert ready == ["fail", "pass", "fail"]
    assert [event.data["status"] for event in events if event.kind == "health.check"] == ["pass", "fail"]
    assert len(changes) == 3
    assert {event.policy for event in events} == {"orders"}


def test_mistakes_of_registration_are_refused_by_name() -> None:
    """A check under a name that is taken would replace the one that mattered."""
    health = Health()
    health.ready("a", lambda: None)
    with pytest.raises(ValueError, match="'a' is taken"):
        health.ready("a", lambda: None)
    with pytest.raises(TypeError, match="callable"):
        health.ready("b", 3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="critical"):
        health.ready("b", lambda: None, critical="yes")
    with pytest.raises(ValueError, match="every"):
        health.ready("b", lambda: None, every=-1)
    with pytest.raises(ValueError, match="group"):
        health.report("readiness")  # type: ignore[arg-type]


def test_a_plain_function_that_returns_an_awaitable_fails_with_the_cure() -> None:
    """`lambda: pool.execute(...)` looks like a check and asks nobody."""
    clock = VirtualClock()
    health = Health(clock=clock)

    async def ask() -> None: ...

    health.ready("database", lambda: ask())

    async def scene() -> None:
        async with health:
            await clock.asleep(0.1)
            assert "make it `async def`" in (health.report("ready").checks[0].output or "")

    run(scene)


def test_listeners_and_peers_that_fail_do_not_end_the_checks() -> None:
    """Who only listens must not blind the instance."""
    clock = VirtualClock()
    told: list[frozenset[str]] = []

    def tell(failing: frozenset[str]) -> None:
        told.append(failing)
        raise OSError("nobody hears")

    class Peers:
        every = 1.0
        asked = 0

        def __call__(self) -> None: ...

        async def look(self) -> None:
            self.asked += 1
            raise OSError("nobody answers")

    peers = Peers()
    health = Health(clock=clock, fate=SharedFate("a", peers, tell=tell))
    health.on_change(lambda: 1 / 0)
    end = health.on_change(lambda: None)
    end()
    end()
    health.ready("database", lambda: False, every=1)

    async def scene() -> None:
        async with health:
            health.start()
            await clock.asleep(10)
            assert health.report("ready").http_status == 200
        assert peers.asked > 3
        assert told == [frozenset({"database"})]

    run(scene)


def test_one_health_holds_a_bounded_number_of_checks_and_needs_a_name() -> None:
    """A check per tenant, registered in a loop, would run for every tenant every five seconds."""
    health = Health()
    for number in range(200):
        health.ready(f"check-{number}", lambda: None)
    with pytest.raises(ValueError, match="at most 200"):
        health.ready("one too many", lambda: None)
    for bad in ("", 3):
        with pytest.raises(TypeError, match="name"):
            Health(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="name"):
            health.ready(bad, lambda: None)
    with pytest.raises(TypeError, match="me must"):
        SharedFate("", lambda: None)
    with pytest.raises(TypeError, match="peers must"):
        SharedFate("a", 3)  # type: ignore[arg-type]


# --- the shared fate


def fleet(size: int, floor: float, failing: dict[str, set[str]]) -> list[SharedFate]:
    ids = [f"orders-{number}" for number in range(size)]
    return [SharedFate(me, lambda: [Peer(id, frozenset(failing.get(id, set()))) for id in ids], floor=floor) for me in ids]


@pytest.mark.parametrize(("size", "floor", "stay"), [(3, 0.5, 2), (10, 0.5, 5), (10, 1, 1), (4, 3, 3), (1, 0.5, 1), (2, 0.01, 1)])
def test_a_floor_of_instances_stays_when_a_dependency_fails_for_all(size: int, floor: float, stay: int) -> None:
    """A shared database that is down must not take the whole service out; all must agree on who stays, without a word."""
    failing = {f"orders-{number}": {"database"} for number in range(size)}
    assert sum(one.stays("database") is not None for one in fleet(size, floor, failing)) == stay


def test_nobody_stays_for_a_check_that_passes_for_one_peer() -> None:
    """Where somebody can serve well, who cannot must leave."""
    failing = {f"orders-{number}": {"database"} for number in range(1, 5)}
    assert all(one.stays("database") is None for one in fleet(5, 0.5, failing)[1:])


def test_who_stays_differs_by_check_and_moves_little_when_the_fleet_changes() -> None:
    """Rendezvous: one instance that leaves moves nobody else's place by more than one."""
    ids = [f"i{number}" for number in range(20)]
    for gone in ids:
        rest = [id for id in ids if id != gone]
        for id in rest:
            assert rank("database", id, ids) - rank("database", id, rest) in (0, 1)
    assert sorted(rank("database", id, ids) for id in ids) == list(range(20))
    assert [rank("database", id, ids) for id in ids] != [rank("queue", id, ids) for id in ids]


def test_all_stay_when_the_registry_does_not_know_the_peers() -> None:
    """Without the registry nobody knows whether he is the last; leaving would be a guess."""
    assert SharedFate("me", lambda: None).stays("database") == "the peers are not known"


def test_health_stays_ready_by_the_shared_fate_and_says_so() -> None:
    """The instance that stays says that it is degraded, so that people see it; peers hear what fails."""
    clock = VirtualClock()
    peers = {"a": frozenset[str](), "b": frozenset[str]()}
    told: list[frozenset[str]] = []

    def tell(failing: frozenset[str]) -> None:
        told.append(failing)
        peers["a"] = failing

    fate = SharedFate("a", lambda: [Peer(id, failing) for id, failing in peers.items()], floor=1.0, tell=tell)
    health = Health(fate=fate, clock=clock)
    health.ready("database", lambda: Finding(Status.FAIL, "down"), every=1)

    async def scene() -> None:
        async with health:
            await clock.asleep(1)
            assert health.report("ready").http_status == 503, "b still serves"
            assert told == [frozenset({"database"})]
            peers["b"] = frozenset({"database"})
            report = health.report("ready")
            assert (report.status, report.http_status) == (Status.WARN, 200)
            assert json.loads(report.body())["checks"]["database"][0]["tolerated"] is True
            health.drain_begins()
            assert health.report("ready").http_status == 503, "who drains leaves, whatever the others do"

    run(scene)


def test_an_error_of_the_peers_function_keeps_the_instance_ready() -> None:
    """A registry client that breaks in the middle of an outage must not make the outage whole."""
    clock = VirtualClock()

    def broken() -> list[Peer]:
        raise OSError("registry")

    health = Health(fate=SharedFate("a", broken), clock=clock)
    health.ready("database", lambda: False)

    async def scene() -> None:
        async with health:
            await clock.asleep(0.1)
            assert health.report("ready").http_status == 200

    run(scene)


@pytest.mark.parametrize("floor", [0, 0.0, 1.5, -1, "half"])
def test_a_floor_that_means_nothing_is_refused(floor: Any) -> None:
    """A floor of nobody would switch the rule off in the one hour in which it is needed."""
    with pytest.raises((ValueError, TypeError), match="floor"):
        SharedFate("a", lambda: None, floor=floor)
