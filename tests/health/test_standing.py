"""The rule of rise, fall and expiry, by hand and against a naive reading of it."""

from __future__ import annotations

import random

import pytest

from seawall.health.check import read, told
from seawall.health.standing import CheckRule, Finding, Status, worst

PASS, WARN, FAIL = Finding(Status.PASS), Finding(Status.WARN), Finding(Status.FAIL)


def test_the_first_result_settles_at_once_whatever_it_is() -> None:
    """An instance that starts without its database must not be ready for the time of three failures."""
    for finding in (PASS, WARN, FAIL):
        rule = CheckRule(fall=3)
        standing = rule.start(0)
        assert rule.status(standing, 0) is Status.UNKNOWN
        assert rule.settle(standing, 1, finding)
        assert rule.status(standing, 1) is finding.status


def test_a_passing_check_fails_only_after_so_many_failures_in_a_row() -> None:
    """One lost packet must not take an instance out; a good result in between begins the count anew."""
    rule = CheckRule(fall=3)
    standing = rule.start(0)
    said = []
    for finding in (PASS, FAIL, FAIL, PASS, FAIL, FAIL, FAIL, PASS):
        rule.settle(standing, 1, finding)
        said.append(str(rule.status(standing, 1)))
    assert said == ["pass", "pass", "pass", "pass", "pass", "pass", "fail", "pass"]


def test_a_failing_check_passes_only_after_so_many_good_results() -> None:
    """A dependency that flaps must not bring traffic back at its first good moment, when the user says so."""
    rule = CheckRule(rise=3, fall=1)
    standing = rule.start(0)
    for _ in range(2):
        rule.settle(standing, 1, PASS)
        assert rule.status(standing, 1) is Status.UNKNOWN
    rule.settle(standing, 1, PASS)
    assert rule.status(standing, 1) is Status.PASS
    rule.settle(standing, 2, FAIL)
    rule.settle(standing, 2, PASS)
    rule.settle(standing, 2, WARN)
    assert rule.status(standing, 2) is Status.FAIL
    rule.settle(standing, 2, WARN)
    assert rule.status(standing, 2) is Status.WARN


def test_a_result_expires_to_unknown_and_then_to_fail() -> None:
    """When the task that looks has died, its last good news must not be told for ever."""
    rule = CheckRule(every=5, timeout=1, expires=10)
    standing = rule.start(0)
    rule.settle(standing, 100, PASS)
    assert rule.status(standing, 110) is Status.PASS
    assert rule.status(standing, 110.1) is Status.UNKNOWN
    assert rule.status(standing, 120.1) is Status.FAIL
    assert rule.settle(standing, 130, PASS)
    assert rule.status(standing, 130) is Status.PASS


def test_a_check_that_never_answers_fails_when_its_time_is_over() -> None:
    """A first run that hangs, in a thread that cannot be ended, is no reason to be unknown for ever."""
    rule = CheckRule(expires=10)
    standing = rule.start(50)
    assert rule.status(standing, 60) is Status.UNKNOWN
    assert rule.status(standing, 70.1) is Status.FAIL


def test_the_rule_agrees_with_a_naive_model_on_random_histories() -> None:
    """The streak that is kept must mean what "so many in a row" means."""
    chance = random.Random(7)
    for _ in range(300):
        rise, fall = chance.randint(1, 4), chance.randint(1, 4)
        rule = CheckRule(rise=rise, fall=fall)
        standing = rule.start(0)
        history: list[bool] = []
        settled: bool | None = None
        for _ in range(chance.randint(1, 30)):
            good = chance.random() < 0.6
            history.append(good)
            rule.settle(standing, 1, PASS if good else FAIL)
            needed = rise if good else fall
            if settled is None and not good:
                needed = 1
            if settled is not good and len(history) >= needed and all(each is good for each in history[-needed:]):
                settled = good
            expected = Status.UNKNOWN if settled is None else Status.PASS if settled else Status.FAIL
            assert rule.status(standing, 1) is expected, (rise, fall, history)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every"),
        ({"timeout": "soon"}, "timeout"),
        ({"rise": 0}, "rise"),
        ({"fall": 0}, "fall"),
        ({"expires": 3}, "expires must be at least 6"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_by_name(options: dict[str, object], said: str) -> None:
    """A check that expires before its next run would flap; the mistake must show at the import."""
    with pytest.raises(ValueError, match=said):
        CheckRule(**options)  # type: ignore[arg-type]


def test_what_a_check_returns_is_read_or_refused() -> None:
    """A check that returns its rows would pass for ever if any object meant "pass"."""
    assert read(None).status is read(True).status is Status.PASS
    assert read(False).status is Status.FAIL
    assert read(Status.WARN).status is Status.WARN
    assert read(Finding(Status.WARN, "slow")).output == "slow"
    with pytest.raises(TypeError, match="returns None, True, False"):
        read([1])
    with pytest.raises(ValueError, match="status"):
        Finding(Status.UNKNOWN)


def test_secrets_in_errors_are_left_out_and_long_ones_cut() -> None:
    """Health bodies are read by people and machines who may not know the password."""
    secret = "could not reach postgresql://shop:hunter2@db/orders with password=hunter3 and token: abc.def"
    assert "hunter" not in told(OSError(secret))
    assert "abc.def" not in told(OSError(secret))
    assert "@db/orders" in told(OSError(secret))
    assert len(Finding(Status.FAIL, "x" * 5000).output or "") == 300


def test_the_worst_of_several_is_the_one_that_counts() -> None:
    """One failing check among nine good ones is a failing instance."""
    assert worst([]) is Status.PASS
    assert worst([Status.PASS, Status.WARN]) is Status.WARN
    assert worst([Status.WARN, Status.FAIL, Status.UNKNOWN]) is Status.FAIL
