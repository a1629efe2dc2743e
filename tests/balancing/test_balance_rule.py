"""The arithmetic of the balancer's rule: shares, moments, latencies, zones, to the number."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from tests.balancing.kit import Driven, instances

from seawall.balancing.rules.ejection import Outliers
from seawall.balancing.rules.host import Host, Told
from seawall.discovery.instance import Instance


def only(driven: Driven, id: str) -> list[str]:
    """Everybody else: tried, so that this one is asked."""
    return [other for other in driven.state.hosts if other != id]


def eject(driven: Driven, id: str) -> None:
    for _ in range(3):
        driven.end(driven.pick(tried=only(driven, id)), Told.BAD)
    assert driven.status(id) == "ejected"


def fleet(near: int, far: int, **settings: object) -> Driven:
    driven = Driven("", zone="here", **settings)
    found = [Instance("stock", id=f"near-{n}", port=1000 + n, zone="here") for n in range(near)]
    driven.update(found + [Instance("stock", id=f"far-{n}", port=2000 + n, zone="there") for n in range(far)])
    return driven


def at(cost: float, host: Host, now: float) -> None:
    host.cost, host.stamp = cost, now


def test_a_snapshot_fades_latencies_and_shows_shares() -> None:
    """What people look at must be what the rule compares."""
    driven = Driven("a b c")
    driven.call(after=0.2, tried=only(driven, "a"))
    driven.update([*instances("a b c"), *instances("d", weight=2)])
    driven.now += 10.0 * 0.25
    driven.pick(tried=only(driven, "d"))
    shots = {shot.instance.id: shot for shot in driven.rule.snapshot(driven.state, driven.now)}
    assert shots["a"].latency == pytest.approx(0.2 * math.exp(-0.25))
    assert shots["b"].latency == 0.0
    assert (shots["a"].share, shots["d"].share) == (1.0, pytest.approx(0.25))
    assert (shots["a"].ejected_for, shots["d"].pending, shots["d"].picked) == (0.0, 1, 1)


def test_a_weight_of_zero_has_a_whole_share_when_it_is_all_there_is() -> None:
    """A division by its weight would be one by zero."""
    driven = Driven("a", slow_start=0)
    driven.update(instances("a b", weight=0))
    assert [host.handicap for host in driven.state.hosts.values()] == [1.0, 1.0]
    assert [shot.share for shot in driven.rule.snapshot(driven.state, 0.0)] == [1.0, 1.0]


def test_the_next_moment_of_interest_is_the_nearest() -> None:
    """A pick that works everything out anew is dear; one that misses a moment leaves an instance out for good."""
    driven = Driven("a b c d", outliers=Outliers(eject_for=5))
    assert driven.state.due == math.inf
    eject(driven, "a")
    assert driven.state.due == 5.0
    driven.now = 2.0
    eject(driven, "b")
    assert driven.state.due == 5.0
    driven.now = 5.0
    assert driven.pick().host.id == "a"
    assert driven.state.due == 7.0
    assert driven.kinds().count("balancer.probing") == 1


def test_when_slow_start_is_skipped_its_end_is_still_awaited() -> None:
    """The newcomers of a moment ago are not new for ever: later ones start slowly beside them."""
    driven = Driven("a")
    driven.now = 100.0
    driven.update(instances("a b c"))
    assert driven.state.due == 110.0
    driven.now = 110.0
    driven.update(instances("a b c d"))
    assert driven.state.hosts["d"].handicap == pytest.approx(10.0)


def test_half_new_is_not_most() -> None:
    """The bound of the exception: more than half."""
    driven = Driven("a b")
    driven.update(instances("a b c d"))
    assert driven.state.hosts["c"].handicap == pytest.approx(10.0)
    driven.update(instances("a b c d e"))
    assert driven.state.hosts["c"].handicap == 1.0


def test_who_comes_back_begins_with_the_usual_latency() -> None:
    """Errors are no latency: half a second of penalty would keep the readmitted one idle for half a minute."""
    driven = Driven("a b c d")
    eject(driven, "a")
    hosts = driven.state.hosts
    driven.now = 5.5
    at(0.5, hosts["a"], driven.now)
    at(0.02, hosts["b"], driven.now)
    at(0.04, hosts["c"], driven.now)
    at(0.0, hosts["d"], driven.now)
    assert driven.call(after=0.0) == "a"
    assert hosts["a"].cost == pytest.approx(0.03)
    quick = Driven("a b")
    eject(quick, "a")
    quick.now = 5.5
    at(0.01, quick.state.hosts["a"], quick.now)
    at(0.04, quick.state.hosts["b"], quick.now)
    assert quick.call(after=0.0) == "a"
    assert quick.state.hosts["a"].cost == pytest.approx(0.01)


def test_an_error_costs_as_much_as_the_dearest_or_the_constant_or_itself() -> None:
    """Three floors, the highest holds."""
    for dearest, took, cost in ((0.1, 0.001, 0.5), (3.0, 0.001, 3.0), (0.1, 2.0, 2.0)):
        driven = Driven("a b")
        at(dearest, driven.state.hosts["b"], 0.0)
        driven.end(driven.pick(tried=["b"]), Told.BAD, took)
        assert driven.state.hosts["a"].cost == pytest.approx(cost)


def test_the_first_byte_counts_once() -> None:
    """The end of a stream must not be taken for its latency, nor its first byte be counted twice."""
    driven = Driven("a")
    pick = driven.pick()
    driven.now = 0.25
    driven.rule.hear(driven.state, driven.now, pick)
    driven.now = 7.0
    driven.rule.hear(driven.state, driven.now, pick)
    driven.end(pick, Told.CUT)
    assert driven.state.hosts["a"].cost == 0.25


# --- zones


def test_the_share_of_near_ones_counts_near_ones_only() -> None:
    """Illness far away is no reason to send traffic there."""
    driven = fleet(4, 6, outliers=Outliers(eject_for=200, most=1.0), panic=0)
    for id in ("far-0", "far-1", "far-2"):
        eject(driven, id)
    assert driven.state.near_share == 1.0
    eject(driven, "near-0")
    assert driven.state.near_share == 1.0  # three of four, times 1.4
    eject(driven, "near-1")
    assert driven.state.near_share == pytest.approx(0.7)


def test_what_spills_is_spread_over_all_and_so_is_what_stays() -> None:
    """The draw that decides between near and far is used again, stretched: no corner of it may be lost."""
    driven = fleet(4, 4, picker="random", outliers=Outliers(eject_for=200))
    eject(driven, "near-0")
    eject(driven, "near-1")
    asked = Counter(driven.pick(u=(n + 0.5) / 4000).host.id for n in range(4000))
    assert asked == {
        "near-2": pytest.approx(1400, abs=2),
        "near-3": pytest.approx(1400, abs=2),
        **{f"far-{n}": pytest.approx(300, abs=2) for n in range(4)},
    }


def test_load_spills_above_twice_the_load_far_away() -> None:
    """The bound, from both sides, with latencies that are known."""
    for latency_far, spills in ((0.011, False), (0.0095, True)):
        driven = fleet(1, 1)
        near, far = driven.state.hosts["near-0"], driven.state.hosts["far-0"]
        at(0.01, near, 0.0)
        at(latency_far, far, 0.0)
        driven.pick(tried=["far-0"])  # one is out: with this one the load is 0.02
        assert driven.pick().host.id.startswith("far") is spills


def test_an_idle_near_one_is_asked_however_slow() -> None:
    """Spilling is for load: one that is merely slower than another zone is still near."""
    driven = fleet(1, 1)
    at(1.0, driven.state.hosts["near-0"], 0.0)
    at(0.001, driven.state.hosts["far-0"], 0.0)
    assert driven.pick().host.id == "near-0"


def test_an_unknown_far_one_is_taken_to_be_like_the_near_one() -> None:
    """With nothing out it looks like the near one when that was idle: a third request is twice as much, a fourth is more."""
    driven = fleet(1, 1)
    at(0.01, driven.state.hosts["near-0"], 0.0)
    assert [driven.pick().host.id for _ in range(5)] == ["near-0", "near-0", "far-0", "near-0", "near-0"]
    heavy = Driven("", zone="here")
    heavy.update(
        [Instance("stock", id="near", port=1, zone="here"), Instance("stock", id="far", port=2, zone="there", weight=0.25)]
    )
    at(0.01, heavy.state.hosts["near"], 0.0)
    assert [heavy.pick().host.id for _ in range(8)] == ["near"] * 8


def test_a_far_ones_latency_does_not_fade_for_this_comparison() -> None:
    """What is never asked fades to nothing; a zone away it must not look ever quicker for that."""
    driven = fleet(1, 1)
    at(0.01, driven.state.hosts["near-0"], 100.0)
    at(0.02, driven.state.hosts["far-0"], 0.0)
    driven.now = 100.0
    assert [driven.pick().host.id for _ in range(3)] == ["near-0"] * 3


# --- everybody


def test_in_panic_the_ejected_are_asked_and_their_probes_count() -> None:
    """Nobody is on probation while everybody is asked; good answers readmit all the same."""
    driven = Driven("a b c", picker="round_robin", outliers=Outliers(eject_for=5, most=1.0))
    eject(driven, "a")
    eject(driven, "b")
    assert driven.state.panicking
    driven.now = 6.0
    seen = [driven.pick() for _ in range(6)]
    assert Counter(pick.host.id for pick in seen) == {"a": 2, "b": 2, "c": 2}
    assert sum(pick.probes for pick in seen) == 2
    for pick in seen:
        driven.end(pick, Told.OK, 0.01)
    assert {driven.status(id) for id in "abc"} == {"ready"}


def test_without_panic_the_last_one_on_probation_is_asked() -> None:
    """When nobody is in service, those on probation are next, and then all."""
    driven = Driven("a b", outliers=Outliers(eject_for=5, most=1.0), panic=0)
    eject(driven, "a")
    driven.update(instances("a"))
    assert driven.pick().host.id == "a"
    driven.now = 6.0
    picks = [driven.pick() for _ in range(3)]
    assert {pick.host.id for pick in picks} == {"a"}
    assert [pick.probes for pick in picks] == [True, False, False]


def test_a_late_cut_of_another_epoch_delays_no_probe() -> None:
    """Only the probe itself can be put off."""
    driven = Driven("a b")
    late = driven.pick(tried=["b"])
    eject(driven, "a")
    driven.now = 5.0
    probe = driven.pick()
    assert probe.probes
    driven.end(late, Told.CUT)
    assert driven.status("a") == "probation"
    driven.end(probe, Told.CUT)
    assert driven.status("a") == "ejected"
    assert driven.state.hosts["a"].until == 10.0


def test_those_who_left_are_forgotten_after_a_minute_and_not_before() -> None:
    """Sixty seconds are a blink for a registry, and enough for a new process to be another one."""
    for away, status in ((60.0, "ejected"), (60.1, "ready")):
        driven = Driven("a b", outliers=Outliers(eject_for=200))
        eject(driven, "a")
        driven.update(instances("b"))
        driven.now += away
        driven.update(instances("b"))
        driven.update(instances("a b"))
        assert driven.status("a") == status
