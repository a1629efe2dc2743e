"""The balancer as people use it: lists that change, slow starts, zones, events, threads, forks."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest
from tests.balancing.kit import Driven, instances

import seawall as sw
from seawall.balancing import Balancer, NoInstance, Outliers, Told
from seawall.discovery.instance import Instance, Snapshot
from seawall.testing import VirtualClock


def settled(balancer: Balancer, told: Told = Told.OK, count: int = 1, tried: tuple[str, ...] = ()) -> Counter[str]:
    """So many requests, each over at once; how many each instance had."""
    asked: Counter[str] = Counter()
    for _ in range(count):
        pick = balancer.pick(tried=tried)
        asked[pick.host.id] += 1
        balancer.settle(pick, told)
    return asked


# --- lists


def test_what_was_learnt_survives_a_new_list() -> None:
    """A registry speaks whenever anything changes; forgetting latencies each time would mean starting blind each time."""
    driven = Driven("a b")
    driven.call(after=0.5, tried=["b"])
    cost = driven.state.hosts["a"].cost
    driven.update(instances("a b c"))
    assert driven.state.hosts["a"].cost == cost


def test_a_registry_that_blinks_loses_nothing() -> None:
    """An empty list for a moment must not readmit who was ejected."""
    driven = Driven("a b")
    for _ in range(3):
        driven.call(Told.BAD, tried=["b"])
    driven.update(instances("b"))
    driven.update(instances("a b"))
    assert driven.status("a") == "ejected"
    driven.update(instances("b"))
    driven.now += 61
    driven.update(instances("b"))
    driven.update(instances("a b"))
    assert driven.status("a") == "ready"


def test_those_who_left_are_remembered_in_bounds() -> None:
    """An autoscaler that names each instance anew must not fill the memory of its callers."""
    driven = Driven("a")
    for batch in range(12):
        driven.update([Instance("stock", id=f"i{batch}-{number}", port=1 + number) for number in range(200)])
    assert len(driven.state.gone) == 1000
    assert "i10-0" in driven.state.gone
    assert "i0-0" not in driven.state.gone


def test_the_table_is_kept_while_the_set_is_the_same() -> None:
    """Building it costs milliseconds; states that change daily, or by the second, are no reason."""
    driven = Driven("a b c", picker="maglev")
    driven.pick(point=1)
    table = driven.state.table
    driven.update(instances("a b c", tags=("new",)))
    assert driven.state.table is table
    driven.update([*instances("a b", weight=1), *instances("c", weight=2)])
    assert driven.state.table is None
    driven.pick(point=1)
    driven.update([Instance("stock", id="a", port=7777)])  # another process under an old name, alone
    assert driven.pick(point=1).host.instance.port == 7777


def test_the_defaults_are_as_documented() -> None:
    """They are what most people run."""
    rule = Driven().rule
    assert (rule.picker, rule.error_cost, rule.panic, rule.slow_start) == ("peak_ewma", 0.5, 0.5, 10.0)
    assert (rule.zone, rule.spill, rule.subset, rule.outliers) == (None, 2.0, None, Outliers())


def test_another_process_under_an_old_name_starts_afresh() -> None:
    """What was learnt of the old address says nothing about the new one."""
    driven = Driven("a b")
    for _ in range(3):
        driven.call(Told.BAD, tried=["b"])
    driven.update([Instance("stock", id="a", port=7777), *instances("b")])
    assert driven.status("a") == "ready"
    assert driven.state.hosts["a"].cost == 0


def test_requests_out_on_an_instance_that_left_are_settled_quietly() -> None:
    """Drained instances leave the list while they finish what they have."""
    driven = Driven("a b")
    pick = driven.pick(tried=["b"])
    driven.update(instances("b"))
    driven.end(pick, Told.BAD, 0.1)
    assert driven.call() == "b"


@pytest.mark.parametrize("state", ["starting", "draining", "down"])
def test_only_ready_instances_get_new_work(state: str) -> None:
    """An instance that drains has asked for exactly this."""
    driven = Driven("a")
    driven.update([*instances("a"), *instances("b", state=state)])
    assert {driven.call() for _ in range(20)} == {"a"}


def test_draining_instances_are_better_than_none() -> None:
    """While all old instances drain and no new one is ready, those that still serve are asked."""
    driven = Driven("a")
    driven.update([*instances("a b", state="draining"), *instances("c", state="down")])
    assert {driven.call() for _ in range(20)} == {"a", "b"}
    assert driven.state.draining


def test_changes_are_told() -> None:
    """Who watches a deploy wants to see the list move."""
    driven = Driven("a b")
    driven.update(instances("b c"))
    assert [dict(note.data) for note in driven.events if note.kind == "balancer.changed"] == [
        {"added": ["a", "b"], "removed": [], "total": 2},
        {"added": ["c"], "removed": ["a"], "total": 2},
    ]


# --- slow start


def test_a_newcomer_starts_slowly_and_a_first_list_does_not() -> None:
    """A cold instance that gets its full share at once times out; but somebody has to serve when all are new."""
    driven = Driven("a b c", picker="weighted")
    assert all(host.handicap == 1.0 for host in driven.state.hosts.values())
    driven.update(instances("a b c d"))
    shares = []
    for _ in range(11):
        asked = Counter(driven.call(after=0.0) for _ in range(400))
        shares.append(asked["d"] / 400)
        driven.now += 1.0
    assert shares[0] < 0.05
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.25, abs=0.01)


def test_slow_start_grows_in_steps_of_half_a_second() -> None:
    """Working the shares out at every pick would cost more than the pick."""
    driven = Driven("a b c", picker="weighted")
    driven.update(instances("a b c d"))
    assert driven.state.due == pytest.approx(driven.now + 0.5)
    assert driven.state.hosts["d"].handicap == pytest.approx(10.0)  # a tenth of its weight
    driven.now += 5.0
    driven.pick()
    assert driven.state.hosts["d"].handicap == pytest.approx(2.0)


def test_slow_start_is_skipped_when_most_are_new() -> None:
    """After a rolling deploy of everything there is nobody left to spare the newcomers for."""
    driven = Driven("a", picker="weighted")
    driven.update(instances("a b c d"))
    assert all(host.handicap == 1.0 for host in driven.state.hosts.values())


# --- zones


def zoned(near: int, far: int, **settings: object) -> Driven:
    driven = Driven("", zone="here", **settings)
    names = iter("abcdefghijklmnop")
    found = [Instance("stock", id=next(names), port=1000 + number, zone="here") for number in range(near)]
    found += [Instance("stock", id=f"far-{number}", port=2000 + number, zone="there") for number in range(far)]
    driven.update(found)
    return driven


def test_near_instances_are_preferred() -> None:
    """Traffic across zones costs money and milliseconds."""
    for picker in ("peak_ewma", "round_robin", "random", "least_outstanding"):
        driven = zoned(3, 3, picker=picker)
        assert not any(driven.call(after=0.01).startswith("far") for _ in range(200)), picker


def test_traffic_spills_over_in_proportion_as_near_ones_fall_out() -> None:
    """Two of four cannot carry what four did; they carry what they are trusted with, and the rest goes elsewhere."""
    driven = zoned(4, 4, picker="random", outliers=Outliers(eject_for=200))
    for id in ("a", "b"):
        for _ in range(3):
            driven.end(driven.pick(tried=[other for other in driven.state.hosts if other != id]), Told.BAD)
    far = sum(driven.pick(u=(n + 0.5) / 1000).host.id.startswith("far") for n in range(1000))
    assert far == pytest.approx(300, abs=10)  # 1 - 1.4 * 2 / 4


def test_load_spills_over_when_near_ones_are_far_busier() -> None:
    """A zone that is hot while its neighbour idles is a zone preference gone wrong."""
    driven = zoned(2, 2)
    for id in list(driven.state.hosts):
        driven.end(driven.pick(tried=[other for other in driven.state.hosts if other != id]), Told.OK, 0.01)
    held = [driven.pick().host.id for _ in range(40)]
    far = sum(id.startswith("far") for id in held)
    assert 8 <= far <= 16
    assert not any(id.startswith("far") for id in held[:3])
    strict = zoned(2, 2, spill=None)
    assert not any(strict.pick().host.id.startswith("far") for _ in range(40))


def test_unknown_far_instances_do_not_draw_traffic() -> None:
    """Nothing is known of those that are never asked; ignorance must not look like idleness."""
    driven = zoned(2, 2)
    for _ in range(2000):
        driven.call(after=0.01)
    assert sum(host.picked for host in driven.state.hosts.values() if host.zone == "there") == 0


def test_a_retry_may_leave_the_zone() -> None:
    """When all near ones were tried, another zone is better than the same instance again."""
    driven = zoned(1, 1)
    assert driven.pick(tried=["a"]).host.id == "far-0"


def test_without_near_instances_the_zone_means_nothing() -> None:
    """A preference is not a condition."""
    assert zoned(0, 2).call().startswith("far")


# --- the class


def test_events_carry_the_name_and_the_story() -> None:
    """An operator reads what was ejected, why, for how long, and that it came back."""
    clock, events = VirtualClock(), []
    balancer = Balancer(name="payments", clock=clock)
    balancer.subscribe(lambda event: events.append((event.kind, event.policy, dict(event.data))))
    balancer.update(instances("a b"))
    settled(balancer, Told.BAD, 3, tried=("b",))
    clock.advance(5.1)
    settled(balancer, Told.OK)
    assert events == [
        ("balancer.changed", "payments", {"added": ["a", "b"], "removed": [], "total": 2}),
        ("balancer.ejected", "payments", {"instance": "a", "reason": "3 failures in a row", "for": 5.0, "ejections": 1}),
        ("balancer.probing", "payments", {"instance": "a"}),
        ("balancer.readmitted", "payments", {"instance": "a", "ejections": 1}),
    ]


def test_nobody_known_is_raised_with_the_name() -> None:
    """The caller learns which service it could not find, at once."""
    balancer = Balancer(name="payments")
    with pytest.raises(NoInstance, match="payments knows no instance") as caught:
        balancer.pick()
    assert isinstance(caught.value, sw.Rejected)
    assert caught.value.policy == "payments"


def test_a_snapshot_shows_each_instance() -> None:
    """Tests, the command line and the dashboard read the same frozen picture."""
    clock = VirtualClock()
    balancer = Balancer(clock=clock)
    balancer.update(Snapshot("stock", tuple(instances("a b"))))
    settled(balancer, Told.REFUSED, 1, tried=("b",))
    clock.advance(1)
    held = balancer.pick()
    first, second = balancer.snapshot().hosts
    assert (first.instance.id, first.status, first.ejected_for) == ("a", "ejected", pytest.approx(4.0))
    assert (second.status, second.pending, second.picked, second.share) == ("ready", 1, 1, 1.0)
    balancer.settle(held, Told.OK)
    assert not balancer.snapshot().panicking


def test_blame_falls_on_the_service_when_all_fail() -> None:
    """The breaker of the service must still open when the service is down."""
    balancer = Balancer(outliers=Outliers(consecutive_failures=None, success_below=None))
    balancer.update(instances("a b"))
    settled(balancer, Told.BAD, 5, tried=("b",))
    first = balancer.pick(tried=("b",))
    balancer.settle(first, Told.BAD)
    assert not balancer.blames_service(first)
    settled(balancer, Told.BAD, 5, tried=("a",))
    second = balancer.pick(tried=("a",))
    balancer.settle(second, Told.BAD)
    assert balancer.blames_service(second)
    assert balancer.blames_service(first)


def test_restart_forgets_what_was_learnt_and_keeps_the_list() -> None:
    """A test that starts everything afresh must not lose the instances with it."""
    balancer = Balancer(clock=VirtualClock())
    balancer.update(instances("a b"))
    settled(balancer, Told.REFUSED, 1, tried=("b",))
    balancer.restart()
    assert [host.status for host in balancer.snapshot().hosts] == ["ready", "ready"]


def test_threads_share_one_balancer() -> None:
    """Counts of requests out that drift under threads would starve an instance for good."""
    balancer = Balancer()
    balancer.update(instances("a b c"))
    threads = [threading.Thread(target=settled, args=(balancer, Told.OK, 2000)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hosts = balancer.snapshot().hosts
    assert [host.pending for host in hosts] == [0, 0, 0]
    assert sum(host.picked for host in hosts) == 16_000


def test_a_forked_child_has_nothing_out() -> None:
    """The parent's requests come back to the parent alone; a child that counted them would never be rid of them."""
    balancer = Balancer()
    balancer.update(instances("a b"))
    balancer.pick()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(sum(host.pending for host in balancer.snapshot().hosts)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 10) == b"0"
    assert sum(host.pending for host in balancer.snapshot().hosts) == 1
    os.close(reader)
    os.close(writer)


def test_a_balancer_is_no_layer_of_a_pipeline() -> None:
    """It chooses inside the call; the message says that it belongs to something else."""
    with pytest.raises(TypeError, match="no layer"):
        sw.Pipeline(Balancer())
