"""Whom each picker asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.balancing.kit import Driven, instances

from seawall.balancing.rules.draws import draws, mix, point
from seawall.balancing.rules.host import Told
from seawall.balancing.rules.maglev import Table, subset
from seawall.balancing.rules.pickers import LeastOutstanding, PeakEwma, sample
from seawall.discovery.instance import Instance

MANY = " ".join(f"{letter}{number}" for letter in "abcdefghij" for number in range(3))


def learn(driven: Driven, latencies: dict[str, float]) -> None:
    """Let each instance answer once, so long after it was asked."""
    for id, seconds in latencies.items():
        others = [other for other in driven.state.hosts if other != id]
        pick = driven.pick(tried=others)
        driven.now += seconds
        driven.rule.settle(driven.state, driven.now, pick, Told.OK)


def test_round_robin_asks_one_after_the_other() -> None:
    """The plainest promise there is: equal shares, to the request."""
    driven = Driven("a b c", picker="round_robin")
    asked = [driven.call() for _ in range(30)]
    assert asked == asked[:3] * 10
    assert sorted(asked[:3]) == ["a", "b", "c"]


def test_round_robin_stays_fair_when_instances_come_and_go() -> None:
    """A newcomer takes its turn; it does not catch up on all the turns it missed."""
    driven = Driven("a b", picker="round_robin")
    for _ in range(100):
        driven.call()
    driven.update(instances("a b c"))
    asked = Counter(driven.call() for _ in range(300))
    assert max(asked.values()) - min(asked.values()) <= 1


def test_weighted_interleaves_in_proportion() -> None:
    """Three requests in a row to the heavy one would be a burst, not a share."""
    driven = Driven("a", picker="weighted", slow_start=0)
    driven.update([*instances("a", weight=3), *instances("b c", weight=1)])
    asked = "".join(driven.call() for _ in range(50))
    assert Counter(asked) == {"a": 30, "b": 10, "c": 10}
    assert "aaaa" not in asked


def test_random_follows_the_weights() -> None:
    """Weights mean the same to every picker that knows them."""
    driven = Driven("a", picker="random", slow_start=0)
    driven.update([*instances("a", weight=2), *instances("b", weight=1)])
    asked = Counter(driven.pick(u=(n + 0.5) / 300).host.id for n in range(300))
    assert asked == {"a": 200, "b": 100}


def test_a_weight_of_zero_gets_nothing_while_others_are_there() -> None:
    """Zero is how an operator takes traffic off an instance; but the last one is better than nobody."""
    driven = Driven("a", slow_start=0)
    driven.update([*instances("a", weight=0), *instances("b")])
    assert {driven.call() for _ in range(50)} == {"b"}
    driven.update(instances("a", weight=0))
    assert driven.call() == "a"


def test_least_outstanding_takes_the_emptier_of_two() -> None:
    """With two to choose from, both are looked at."""
    driven = Driven("a b", picker="least_outstanding")
    held = [driven.pick(u=n / 40) for n in range(40)]
    assert Counter(pick.host.id for pick in held) == {"a": 20, "b": 20}


def test_peak_ewma_prefers_the_quick_and_feels_the_queue() -> None:
    """Latency times requests out: four quick ones in a queue weigh as much as one that takes four times as long."""
    driven = Driven("a b")
    learn(driven, {"a": 0.010, "b": 0.040})
    held = [driven.pick().host.id for _ in range(10)]
    assert 7 <= held.count("a") <= 9


def test_peak_ewma_asks_the_unknown_once() -> None:
    """An instance of which nothing is known gets one request, and no second before it has answered."""
    driven = Driven("a b c")
    learn(driven, {"a": 0.01, "b": 0.01})
    driven.update(instances("a b c d"))
    held = [driven.pick() for _ in range(30)]
    asked = Counter(pick.host.id for pick in held)
    assert (asked["c"], asked["d"]) == (1, 1)


def test_a_slower_answer_counts_at_once_and_a_faster_one_by_and_by() -> None:
    """Traffic must leave a host that turned slow with the first slow answer."""
    picker, driven = PeakEwma(decay=10), Driven("a")
    host = driven.state.hosts["a"]
    picker.observe(host, 0.0, 0.01)
    picker.observe(host, 0.1, 0.5)
    assert host.cost == 0.5
    picker.observe(host, 1.1, 0.01)
    assert 0.4 < host.cost < 0.5
    for tick in range(800):
        picker.observe(host, 1.2 + tick / 10, 0.01)
    assert host.cost == pytest.approx(0.01, rel=0.5)


def test_what_was_learnt_of_an_idle_host_fades() -> None:
    """Without it a host that was slow once would never be asked again, and nobody would learn that it recovered."""
    driven = Driven("a b")
    learn(driven, {"a": 0.010, "b": 1.0})
    first = driven.now
    while driven.call(after=0.01) != "b":
        assert driven.now < first + 60
    assert driven.now > first + 5


def test_a_hung_host_is_noticed_while_it_hangs() -> None:
    """Its requests never come back, so nothing but their age can tell."""
    driven = Driven("a b")
    learn(driven, {"a": 0.010, "b": 0.010})
    hung = driven.pick(tried=["a"])
    driven.now += 0.2
    assert {driven.call(after=0.01) for _ in range(50)} == {"a"}
    driven.end(hung, Told.CUT)
    assert driven.state.hosts["b"].cost > 0.2


def test_failing_fast_does_not_look_quick() -> None:
    """Without a price on errors a host that fails in a millisecond draws all traffic."""
    driven = Driven("a b", outliers=None)
    learn(driven, {"a": 0.010, "b": 0.010})
    asked = Counter(driven.call(lambda id: Told.BAD if id == "b" else Told.OK, after=0.001) for _ in range(2000))
    assert asked["b"] <= 2


def test_failing_fast_does_not_look_quick_where_answers_take_seconds() -> None:
    """Half a second is a bargain beside a language model; an error costs as much as the dearest peer."""
    driven = Driven("a b", outliers=None)
    learn(driven, {"a": 8.0, "b": 8.0})
    driven.call(Told.BAD, after=0.001, tried=["a"])
    assert driven.state.hosts["b"].cost == pytest.approx(8.0, rel=0.3)


def test_a_stream_counts_its_first_byte() -> None:
    """A stream that lasts a minute is not a host that is slow."""
    driven = Driven("a")
    pick = driven.pick()
    driven.now += 0.02
    driven.rule.hear(driven.state, driven.now, pick)
    driven.end(pick, Told.OK, 60.0)
    assert driven.state.hosts["a"].cost == pytest.approx(0.02)
    assert driven.state.hosts["a"].pending == 0


def test_many_hosts_are_sampled() -> None:
    """A full look at a thousand hosts would cost more than many a call."""
    driven = Driven(MANY)
    assert len(driven.state.open) == 30
    asked = Counter(driven.call(after=0.001) for _ in range(3000))
    assert len(asked) == 30


def test_samples_differ_and_are_fair() -> None:
    """A sample that held a host twice would be a smaller one."""
    driven = Driven(MANY)
    seen: Counter[str] = Counter()
    for number in range(3000):
        picked = sample(driven.state.open, 5, (number * 0.6180339887) % 1.0)
        assert len({host.id for host in picked}) == 5
        seen.update(host.id for host in picked)
    assert min(seen.values()) > 350
    assert max(seen.values()) < 650


def test_draws_cover_their_range_and_points_do_not_move() -> None:
    """Keys must meet the same instance from every process, whatever PYTHONHASHSEED says."""
    found = Counter(number for step in range(200) for _, number in zip(range(10), draws(step / 200, 7), strict=False))
    assert set(found) == set(range(7))
    assert min(found.values()) > 150
    assert (mix(0), point("a") == point("b"), point("user-42")) == (16294208416658607535, False, point("user-42"))
    assert point("", 1) != point("", 2)


def test_a_key_meets_the_same_instance_and_few_move_when_one_leaves() -> None:
    """A cache behind each instance is worth nothing if keys wander."""
    driven = Driven(MANY, picker="maglev")
    keys = [point(f"user-{number}") for number in range(5000)]
    before = {key: driven.call(point=key) for key in keys}
    assert before == {key: driven.call(point=key) for key in keys}
    shares = Counter(before.values())
    assert max(shares.values()) < 1.5 * 5000 / 30
    driven.update([one for one in instances(MANY) if one.id != "c1"])
    after = {key: driven.call(point=key) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert {before[key] for key in moved if before[key] == "c1"} == {"c1"}
    assert sum(before[key] != "c1" for key in moved) < 0.05 * len(keys)


def test_an_ejected_instance_lends_its_keys_to_several() -> None:
    """Its keys come back with it, and meanwhile no single neighbour gets them all."""
    driven = Driven("a b c d e f", picker="maglev")
    keys = [point(f"user-{number}") for number in range(3000)]
    before = {key: driven.call(point=key) for key in keys}
    for _ in range(3):
        driven.end(driven.pick(tried=list("abcde")), Told.BAD)
    assert driven.status("f") == "ejected"
    meanwhile = {key: driven.call(point=key, after=0.0) for key in keys}
    assert all(before[key] == meanwhile[key] for key in keys if before[key] != "f")
    assert len({meanwhile[key] for key in keys if before[key] == "f"}) == 5


def test_maglev_without_a_key_balances_by_latency() -> None:
    """Not every request of a service has a key."""
    driven = Driven("a b c", picker="maglev")
    assert {driven.call() for _ in range(30)} == {"a", "b", "c"}


def test_the_table_follows_weights_and_sizes() -> None:
    """A host of twice the weight gets twice the keys."""
    driven = Driven("a")
    driven.update([*instances("a", weight=2), *instances("b", weight=1)])
    table = Table(tuple(driven.state.hosts.values()))
    first = Counter(next(table.walk(point(str(number)))).id for number in range(6000))
    assert table.size == 251
    assert first["a"] / first["b"] == pytest.approx(2, rel=0.15)


def test_a_subset_is_stable_and_changes_by_one() -> None:
    """Each client talks to a few of many; one instance gone must not mean new connections to all."""
    all_of_them = [Instance("stock", id=f"i{number}", port=1000 + number) for number in range(200)]
    mine = subset(all_of_them, 20, "client-1")
    assert subset(reversed(all_of_them), 20, "client-1") == mine
    assert subset(all_of_them, 20, "client-2") != mine
    fewer = [one for one in all_of_them if one is not mine[3]]
    assert len(set(mine) - set(subset(fewer, 20, "client-1"))) == 1
    used = Counter(one.id for client in range(200) for one in subset(all_of_them, 20, f"client-{client}"))
    assert len(used) == 200
    driven = Driven("a", subset=20, client="client-1")
    driven.update(all_of_them)
    assert set(driven.state.hosts) == {one.id for one in mine}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"picker": "fastest"}, "picker"),
        ({"picker": 3}, "picker"),
        ({"error_cost": -1}, "error_cost"),
        ({"panic": 2}, "panic"),
        ({"slow_start": -1}, "slow_start"),
        ({"spill": 0.5}, "spill"),
        ({"subset": 0}, "subset"),
        ({"outliers": 3}, "outliers"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict[str, Any], word: str) -> None:
    """A balancer that exists is one that works."""
    with pytest.raises((ValueError, TypeError), match=word):
        Driven(**settings)
    with pytest.raises(ValueError, match="decay"):
        PeakEwma(decay=0)
    with pytest.raises(ValueError, match="choices"):
        LeastOutstanding(choices=1)
