"""When an instance is left alone, and how it comes back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.balancing.kit import Driven, instances

from seawall.balancing.rules.ejection import Outliers
from seawall.balancing.rules.host import Pick, Told
from seawall.policies.verdict import Rejection


def bad(*ids: str) -> Any:
    return lambda id: Told.BAD if id in ids else Told.OK


def fail(driven: Driven, id: str, times: int = 3, told: Told = Told.BAD) -> None:
    """Let requests to one instance fail, whoever else is there."""
    others = [other for other in driven.state.hosts if other != id]
    for _ in range(times):
        pick = driven.pick(tried=others)
        assert pick.host.id == id
        driven.end(pick, told, 0.01)


def test_three_failures_in_a_row_eject_at_once() -> None:
    """A sweep every ten seconds would send a small service's callers into the fault for ten seconds."""
    driven = Driven()
    fail(driven, "b", 2)
    assert driven.status("b") == "ready"
    fail(driven, "b", 1)
    assert driven.status("b") == "ejected"
    assert {driven.call() for _ in range(200)} == {"a", "c"}


def test_a_success_between_failures_keeps_it_in() -> None:
    """Only failures in a row are evidence by themselves; a rare one is everybody's lot."""
    driven = Driven(outliers=Outliers(success_below=None))
    for _ in range(20):
        fail(driven, "b", 2)
        fail(driven, "b", 1, Told.OK)
    assert driven.status("b") == "ready"


def test_a_bad_share_ejects_without_a_row() -> None:
    """Every third answer good hides a broken instance from a rule that only counts rows of failures."""
    driven = Driven()
    for _ in range(6):
        fail(driven, "b", 2)
        if driven.status("b") == "ejected":
            break
        fail(driven, "b", 1, Told.OK)
    assert driven.status("b") == "ejected"
    assert "good" in driven.events[-1].data["reason"]


def test_few_results_do_not_eject_by_share() -> None:
    """One failure out of one is a share of zero, and no evidence."""
    driven = Driven(outliers=Outliers(consecutive_failures=None, minimum_calls=5))
    fail(driven, "b", 4)
    assert driven.status("b") == "ready"
    fail(driven, "b", 1)
    assert driven.status("b") == "ejected"


def test_a_refused_connection_ejects_at_once() -> None:
    """Nobody listens there: each further try is a failed request of somebody."""
    driven = Driven()
    fail(driven, "b", 1, Told.REFUSED)
    assert driven.status("b") == "ejected"


def test_throttling_and_giving_up_eject_nobody() -> None:
    """A 429 and a caller without patience say nothing about an instance's health."""
    driven = Driven()
    fail(driven, "b", 20, Told.BUSY)
    fail(driven, "b", 20, Told.CUT)
    fail(driven, "b", 20, Told.VOID)
    assert driven.status("b") == "ready"


def test_each_ejection_lasts_longer_and_good_conduct_is_forgiven() -> None:
    """A broken instance is asked ever more rarely; an old story is not held against it."""
    driven = Driven(outliers=Outliers(eject_for=5, forgive=10, cap=12))
    lengths = []
    for _ in range(4):
        while driven.status("b") == "ready":
            fail(driven, "b", 1)
        lengths.append(driven.state.hosts["b"].until - driven.now)
        driven.now += lengths[-1] + 0.1
        assert driven.call() == "b"  # its probe
    assert lengths == pytest.approx([5, 10, 12, 12])
    driven.now += 1000
    fail(driven, "b", 3)
    assert driven.state.hosts["b"].until - driven.now == pytest.approx(5)


def test_one_ejection_is_forgiven_per_ten_seconds_in_service() -> None:
    """Good conduct counts from the readmission on, not from the ejection."""
    driven = Driven("a b")
    for _ in range(3):  # ejected for 5, 10 and 15 seconds
        while driven.status("b") == "ready":
            fail(driven, "b", 1)
        driven.now = driven.state.hosts["b"].until
        assert driven.call() == "b"
    driven.now += 10.5
    fail(driven, "b", 3)
    assert driven.state.hosts["b"].ejections == 3
    assert driven.state.hosts["b"].until - driven.now == pytest.approx(15)


def test_who_is_readmitted_has_a_clean_record() -> None:
    """Old failures must not eject it again after the first new one."""
    driven = Driven("a b")
    fail(driven, "b", 3)
    driven.now += 5.1
    driven.call()
    host = driven.state.hosts["b"]
    assert (host.success, host.seen, host.consecutive, host.status) == (1.0, 0, 0, "ready")
    fail(driven, "b", 2)
    assert driven.status("b") == "ready"


def test_the_reason_says_what_happened() -> None:
    """An operator acts on these words."""
    reasons = []
    for told, times in ((Told.REFUSED, 1), (Told.BAD, 3)):
        driven = Driven()
        fail(driven, "b", times, told)
        reasons.append(driven.events[-1].data["reason"])
    driven = Driven(outliers=Outliers(refused=2))
    fail(driven, "b", 2, Told.REFUSED)
    reasons.append(driven.events[-1].data["reason"])
    assert reasons == [
        "nobody listens there",
        "3 failures in a row",
        "2 failures in a row, the last a refused connection",
    ]


def test_exactly_half_good_is_good_enough() -> None:
    """The bound is below one half."""
    rule = Outliers(consecutive_failures=None, success_below=0.5, minimum_calls=1)
    driven = Driven()
    host = driven.state.hosts["a"]
    host.success, host.seen, host.consecutive = 0.5, 10, 1
    assert rule.reason(host, refused=False) is None
    host.success = 0.499
    assert rule.reason(host, refused=False) is not None


def test_the_defaults_are_as_documented() -> None:
    """They are what most people run."""
    rule = Outliers()
    assert (rule.consecutive_failures, rule.refused, rule.success_below, rule.minimum_calls) == (3, 1, 0.5, 5)
    assert (rule.eject_for, rule.cap, rule.forgive, rule.most) == (5.0, 300.0, 10.0, 0.5)


def test_one_probe_at_a_time_and_a_bad_one_ejects_again() -> None:
    """An instance that is still broken costs one request per ejection, not a burst of them."""
    driven = Driven("a b")
    fail(driven, "b")
    driven.now += 5.1
    probe = driven.pick()
    assert probe.host.id == "b"
    assert probe.probes
    assert {driven.call() for _ in range(50)} == {"a"}
    driven.end(probe, Told.BAD, 0.1)
    assert driven.status("b") == "ejected"
    assert driven.state.hosts["b"].until == pytest.approx(driven.now + 10)


def test_a_good_probe_readmits_with_a_slow_start() -> None:
    """An instance that just came back, cold, would drown in its full share."""
    driven = Driven("a b c", picker="weighted")
    fail(driven, "b")
    driven.now += 5.1
    assert driven.call() == "b"
    assert driven.status("b") == "ready"
    assert "balancer.readmitted" in driven.kinds()
    early = [driven.call(after=0.001) for _ in range(300)].count("b")
    driven.now += 20
    late = [driven.call(after=0.001) for _ in range(300)].count("b")
    assert early < 40
    assert late == pytest.approx(100, abs=2)


def test_a_retry_is_no_probe() -> None:
    """Who has failed once already must not be the one to find out whether a broken instance is well again."""
    driven = Driven("a b c")
    fail(driven, "b")
    driven.now += 5.1
    assert all(driven.call(tried=("a",)) == "c" for _ in range(20))
    assert driven.call() == "b"


def test_a_probe_that_nobody_waited_for_is_put_off() -> None:
    """A hung instance would otherwise take one caller after the other, as their own limits cut them."""
    driven = Driven("a b")
    fail(driven, "b")
    driven.now += 5.1
    probe = driven.pick()
    driven.end(probe, Told.CUT, 1.0)
    assert {driven.call() for _ in range(100)} == {"a"}
    driven.now += 5.1
    assert driven.pick().host.id == "b"


def test_a_probe_that_was_never_sent_is_made_by_the_next() -> None:
    """A request that failed on our side leaves the question open."""
    driven = Driven("a b")
    fail(driven, "b")
    driven.now += 5.1
    driven.end(driven.pick(), Told.VOID)
    assert driven.pick().host.id == "b"


def test_late_results_of_another_epoch_change_nothing() -> None:
    """Answers to requests sent before the ejection arrive after it: they neither prolong it nor spoil the return."""
    driven = Driven("a b")
    late = [driven.pick(tried=["a"]) for _ in range(6)]
    fail(driven, "b")
    until = driven.state.hosts["b"].until
    driven.end(late[0], Told.BAD)
    assert driven.state.hosts["b"].until == until
    driven.end(late[1], Told.OK)
    assert driven.status("b") == "ejected"
    driven.now += 5.1
    assert driven.call() == "b"
    for pick in late[2:]:
        driven.end(pick, Told.BAD)
    assert driven.status("b") == "ready"


@pytest.mark.parametrize(("total", "most", "room"), [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 1.0, 3), (9, 0, 0)])
def test_never_more_than_the_room_is_ejected(total: int, most: float, room: int) -> None:
    """When everything fails it is not an outlier, and somebody has to be asked."""
    names = " ".join("abcdefghi"[:total])
    driven = Driven(names, outliers=Outliers(most=most), panic=0)
    for _ in range(200):
        driven.call(Told.BAD, after=0.001)
    assert sum(host.status != "ready" for host in driven.state.hosts.values()) == room


def test_panic_asks_everybody_when_too_few_are_left() -> None:
    """Two of ten cannot carry what ten did: the broken ones, if they are, are the lesser evil."""
    driven = Driven("a b c d", picker="random", outliers=Outliers(eject_for=60))
    fail(driven, "a")
    fail(driven, "b")
    assert {driven.call() for _ in range(100)} == {"c", "d"}
    driven.update(instances("a b c"))
    assert driven.state.panicking
    assert {driven.call(bad("a", "b")) for _ in range(300)} >= {"a", "c"}
    driven.update(instances("a b c d"))
    assert not driven.state.panicking
    assert [kind for kind in driven.kinds() if "panic" in kind or "calm" in kind] == ["balancer.panicked", "balancer.calmed"]


def test_an_ejected_one_that_answers_well_in_panic_is_readmitted() -> None:
    """Evidence is evidence, however it was come by."""
    driven = Driven("a b", outliers=Outliers(eject_for=60))
    fail(driven, "a")
    driven.update(instances("a"))
    assert driven.state.panicking
    assert driven.call() == "a"
    assert driven.status("a") == "ready"


def test_without_outliers_nobody_is_ejected() -> None:
    """Who turns the rule off keeps the balancing."""
    driven = Driven(outliers=None)
    fail(driven, "b", 50)
    assert driven.status("b") == "ready"


def test_nobody_known_is_a_rejection() -> None:
    """An empty list is said, not waited out."""
    driven = Driven("a")
    driven.update([])
    assert isinstance(driven.rule.admit(driven.state, 0.0, 0.5), Rejection)


def test_settling_twice_says_nothing_the_second_time() -> None:
    """A client that settles in a handler and in `finally` must not count a request down twice."""
    driven = Driven("a b")
    pick = driven.pick()
    driven.end(pick, Told.OK, 0.1)
    driven.end(pick, Told.BAD)
    assert driven.state.hosts[pick.host.id].pending == 0
    assert driven.state.hosts[pick.host.id].success == 1.0


@pytest.mark.parametrize(
    ("failing", "total", "services"),
    [
        ("a", "a", True),
        ("a", "a b", False),
        ("a b", "a b", True),
        ("a", "a b c", False),
        ("a b", "a b c", True),
        ("a b", "a b c d e", False),
    ],
)
def test_a_failure_is_the_services_only_when_half_of_it_fails(failing: str, total: str, services: bool) -> None:
    """One bad instance must never open the circuit of the whole service."""
    driven = Driven(total, outliers=Outliers(consecutive_failures=None, success_below=None))
    for id in failing.split():
        fail(driven, id, 5)
    host = driven.state.hosts[failing.rsplit(maxsplit=1)[-1]]
    assert driven.rule.service_fails(driven.state, host) is services


def test_a_single_bad_answer_of_the_others_makes_no_outage() -> None:
    """While one is down and ejected, a stray error of another must not turn all that comes into the service's fault."""
    driven = Driven("a b c")
    fail(driven, "a")
    fail(driven, "b", 1)
    hosts = driven.state.hosts
    assert not driven.rule.service_fails(driven.state, hosts["a"])
    fail(driven, "b", 4)
    assert driven.rule.service_fails(driven.state, hosts["b"])


@pytest.mark.parametrize(
    "settings",
    [
        {"consecutive_failures": 0},
        {"refused": 0},
        {"success_below": 0},
        {"minimum_calls": 0},
        {"eject_for": 0},
        {"eject_for": 10, "cap": 5},
        {"forgive": 0},
        {"most": 1.5},
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(settings: dict[str, Any]) -> None:
    """A rule that exists is a rule that works."""
    with pytest.raises(ValueError, match=list(settings)[-1]):
        Outliers(**settings)


def test_a_pick_remembers_when_it_was_sent() -> None:
    """The oldest request out is what shows that an instance hangs."""
    driven = Driven("a")
    first = driven.pick()
    driven.now = 1.0
    second = driven.pick()
    host = driven.state.hosts["a"]
    assert host.oldest == 0.0
    driven.end(first, Told.OK)
    assert host.oldest == 1.0
    driven.end(second, Told.OK)
    assert host.oldest == float("inf")
    assert isinstance(first, Pick)
