"""The circuit breaker's rule, driven by hand: every transition, every fence."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.backoff import Backoff
from seawall.policies.circuit_breaker import BreakerRule, BreakerState, Probe
from seawall.policies.verdict import Rejection
from seawall.policies.windows import FORGETFUL, CountWindow, Forgetful

OK, BAD, SKIP = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED


class Circuit:
    """A rule with its state and a hand-moved time."""

    def __init__(self, **options: Any) -> None:
        self.rule = BreakerRule(**options)
        self.now = 0.0
        self.state: BreakerState = self.rule.start(0.0)
        self.kinds: list[str] = []

    def admit(self) -> Any:
        answer = self.rule.admit(self.state, self.now)
        self.kinds += [note.kind for note in answer.events]  # type: ignore[union-attr]
        return answer

    def settle(self, permit: Any, outcome: Outcome, **options: Any) -> None:
        events = self.rule.settle(self.state, self.now, permit, outcome, **options)
        self.kinds += [note.kind for note in events]  # type: ignore[union-attr]

    def calls(self, *outcomes: Outcome, **options: Any) -> None:
        for outcome in outcomes:
            self.settle(self.admit(), outcome, **options)

    @property
    def word(self) -> str:
        return self.rule.state(self.state)


@pytest.mark.parametrize("window", [{}, {"window_calls": 20}])
def test_it_opens_at_failures_in_a_row(window: dict[str, int]) -> None:
    """At low traffic no ratio is ever reached; a row of failures is."""
    circuit = Circuit(**window)
    circuit.calls(BAD, BAD, BAD, BAD, OK, BAD, BAD, BAD, BAD)
    assert circuit.word == "closed"
    circuit.calls(BAD)
    assert circuit.word == "open"
    assert circuit.kinds == ["breaker.opened"]
    rejection = circuit.admit()
    assert isinstance(rejection, Rejection)
    assert rejection.retry_after == 5.0


@pytest.mark.parametrize("window", [{}, {"window_calls": 20}])
def test_it_opens_at_the_failure_ratio_only_with_enough_calls(window: dict[str, int]) -> None:
    """One failure of two calls is no evidence; five of ten are."""
    circuit = Circuit(consecutive_failures=None, **window)
    circuit.calls(BAD, OK, BAD, OK, BAD, OK, BAD, OK, OK)
    assert circuit.word == "closed"
    circuit.calls(BAD)
    assert circuit.word == "open"


def test_a_short_count_window_lowers_the_minimum() -> None:
    """A window of four calls can never hold ten."""
    circuit = Circuit(consecutive_failures=None, window_calls=4)
    circuit.calls(OK, BAD, OK, BAD)
    assert circuit.word == "open"


def test_ignored_results_count_for_nothing() -> None:
    """Cancelled calls say nothing about the callee."""
    circuit = Circuit()
    circuit.calls(*[BAD, SKIP] * 4)
    assert circuit.word == "closed"
    circuit.calls(BAD)
    assert circuit.word == "open"


def test_failures_leave_a_time_window_when_they_are_old() -> None:
    """Failures of an hour ago must not open a circuit today."""
    circuit = Circuit(consecutive_failures=None, minimum_calls=4, window=10)
    circuit.calls(BAD, BAD, BAD)
    circuit.now = 11.0
    circuit.calls(OK, OK, OK, BAD)
    assert circuit.word == "closed"
    assert circuit.state.current is not None
    assert circuit.state.current.counts(circuit.now).calls == 4


def test_a_streak_survives_the_turn_of_the_window_but_not_a_success() -> None:
    """Failures in a row are in a row however slowly they come; one success between ends the row."""
    circuit = Circuit(failure_ratio=None, consecutive_failures=3, window=10)
    circuit.calls(BAD)
    circuit.now = 50.0
    circuit.calls(BAD)
    circuit.now = 100.0
    circuit.calls(OK, BAD, BAD)
    assert circuit.word == "closed"
    circuit.now = 150.0
    circuit.calls(BAD)
    assert circuit.word == "open"


@pytest.mark.parametrize("window", [{}, {"window_calls": 20}])
def test_slow_calls_open_it_when_they_are_too_many(window: dict[str, int]) -> None:
    """A callee that answers after ten seconds is down, whatever its status says."""
    circuit = Circuit(slow_call=1.0, slow_ratio=0.5, minimum_calls=4, **window)
    circuit.calls(OK, OK, took=1.0)
    circuit.calls(OK, took=1.5)
    assert circuit.word == "closed"
    circuit.calls(OK, took=1.5)
    assert circuit.word == "open"
    slow_failures = Circuit(slow_call=1.0, consecutive_failures=None, failure_ratio=None, minimum_calls=2, **window)
    slow_failures.calls(BAD, BAD, took=2.0)
    assert slow_failures.word == "open"


def test_it_closes_as_soon_as_the_probes_have_decided() -> None:
    """Early verdict: two good probes of three cannot be outvoted at a ratio of one half."""
    circuit = Circuit()
    circuit.calls(*[BAD] * 5)
    circuit.now = 5.0
    circuit.calls(OK)
    assert circuit.word == "half_open"
    circuit.calls(OK)
    assert circuit.word == "closed"
    assert circuit.kinds == ["breaker.opened", "breaker.half_opened", "breaker.closed"]


def test_one_flaky_probe_does_not_reopen_it_but_two_do() -> None:
    """A single lost packet must not cost another open time."""
    circuit = Circuit()
    circuit.calls(*[BAD] * 5)
    circuit.now = 5.0
    circuit.calls(BAD, OK)
    assert circuit.word == "half_open"
    circuit.calls(BAD)
    assert circuit.word == "open"
    assert circuit.state.opened == 2


def test_half_open_admits_no_more_probes_than_allowed_at_once() -> None:
    """B2: a recovering service is not greeted by everybody who waited."""
    circuit = Circuit(probes=5, probes_at_once=2)
    circuit.calls(*[BAD] * 5)
    circuit.now = 5.0
    first, second, third = circuit.admit(), circuit.admit(), circuit.admit()
    assert isinstance(first, Probe)
    assert isinstance(second, Probe)
    assert isinstance(third, Rejection)
    circuit.settle(first, OK)
    assert isinstance(circuit.admit(), Probe)


def test_a_neutral_probe_returns_its_place_and_a_neutral_round_reopens() -> None:
    """A cancelled probe must neither wedge the circuit nor close it, nor spin for ever."""
    circuit = Circuit()
    circuit.calls(*[BAD] * 5)
    circuit.now = 5.0
    circuit.calls(SKIP, SKIP)
    assert circuit.word == "half_open"
    circuit.calls(SKIP)
    assert circuit.word == "open"


def test_a_probe_that_never_comes_back_cannot_wedge_it() -> None:
    """The lease: a hung probe counts as failed, its place is given again, and its late result is void."""
    circuit = Circuit(probe_lease=2.0)
    circuit.calls(*[BAD] * 5)
    circuit.now = 5.0
    hung = circuit.admit()
    circuit.now = 7.0
    fresh = circuit.admit()
    assert isinstance(fresh, Probe)
    circuit.settle(hung, OK)
    assert circuit.state.passed == 0
    circuit.now = 9.0
    assert isinstance(circuit.admit(), Rejection)
    assert circuit.word == "open"


@pytest.mark.parametrize("late", [OK, BAD])
def test_a_late_result_of_an_earlier_epoch_changes_nothing(late: Outcome) -> None:
    """B3: neither a stale success nor a stale failure may decide what came after it."""
    circuit = Circuit()
    stale = circuit.admit()
    circuit.calls(*[BAD] * 5)
    circuit.settle(stale, late)
    assert circuit.word == "open"
    circuit.now = 5.0
    probe = circuit.admit()
    circuit.settle(stale, late)
    assert (circuit.word, circuit.state.passed, circuit.state.failed) == ("half_open", 0, 0)
    circuit.settle(probe, OK)
    circuit.calls(OK)
    assert circuit.word == "closed"
    circuit.settle(stale, late)
    circuit.settle(probe, late)
    assert circuit.state.current is not None
    assert circuit.state.current.counts(circuit.now).calls == 0


def test_the_open_time_grows_while_it_keeps_failing_and_shrinks_when_it_closed() -> None:
    """A callee that stays down is asked less and less often."""
    circuit = Circuit(open_for=Backoff(base=1, cap=8, jitter="none"), probes=1, consecutive_failures=1)
    for length in (1, 2, 4, 8, 8):
        circuit.calls(BAD)
        assert circuit.state.open_until - circuit.now == length
        circuit.now = circuit.state.open_until
    circuit.calls(OK)
    assert circuit.word == "closed"
    circuit.calls(BAD)
    assert circuit.state.open_until - circuit.now == 1


def test_a_hundred_clients_do_not_probe_in_step() -> None:
    """B5: jittered open times spread the probes; in any 100 ms at most three times the mean."""
    draw, moments = random.Random(1), []
    for _ in range(100):
        circuit = Circuit(open_for=Backoff(base=5, cap=60, jitter="full"), probes=1, consecutive_failures=1)
        for _round in range(6):
            circuit.calls(BAD, u=draw.random())
            circuit.now = circuit.state.open_until
            moments.append(circuit.now)
    last_rounds = sorted(moment for moment in moments if moment > 20)
    span = last_rounds[-1] - last_rounds[0]
    mean = len(last_rounds) / (span / 0.1)
    most = max(sum(start <= moment < start + 0.1 for moment in last_rounds) for start in last_rounds)
    assert most <= max(3 * mean, 4)


def test_a_retry_after_lengthens_the_open_time_within_bounds() -> None:
    """The callee knows best when it is back, but not by a day."""
    circuit = Circuit(consecutive_failures=1)
    circuit.calls(BAD, hint=20.0)
    assert circuit.state.open_until == 20
    hostile = Circuit(consecutive_failures=1)
    hostile.calls(BAD, hint=86400.0)
    assert hostile.state.open_until == 60
    short = Circuit(consecutive_failures=1)
    short.calls(BAD, hint=0.1)
    assert short.state.open_until == 5


def test_a_throttled_key_is_paused_and_goes_on_as_before() -> None:
    """A 429 is no failure, but its Retry-After is obeyed for that key."""
    circuit = Circuit()
    permit = circuit.admit()
    circuit.calls(BAD, BAD)
    assert circuit.rule.pause(circuit.state, 0.0, permit, 3.0)
    assert (circuit.state.window, circuit.state.record) == (None, None)
    assert not circuit.rule.pause(circuit.state, 0.0, permit, 3.0)
    assert isinstance(circuit.admit(), Rejection)
    circuit.now = 3.0
    assert circuit.admit() is permit
    assert circuit.word == "closed"
    circuit.calls(BAD, BAD, BAD)
    assert circuit.word == "open"
    assert circuit.rule.pause(circuit.state, 0.0, permit, 3.0) == ()


def test_people_can_isolate_disable_observe_and_reset_it() -> None:
    """The verbs for the middle of the night."""
    circuit = Circuit(consecutive_failures=2)
    circuit.rule.set_mode(circuit.state, 0.0, "isolated")
    assert (circuit.word, circuit.admit().retry_after) == ("isolated", None)
    circuit.rule.set_mode(circuit.state, 0.0, "disabled")
    assert circuit.admit() is FORGETFUL
    circuit.calls(BAD, BAD, BAD)
    assert circuit.word == "disabled"
    stale = circuit.admit()
    circuit.rule.reset(circuit.state, 0.0)
    before = circuit.admit()
    circuit.settle(before, BAD)
    circuit.rule.set_mode(circuit.state, 0.0, "observing")
    assert circuit.state.current is not None
    assert circuit.state.current.counts(0.0).calls == 0
    circuit.rule.reset(circuit.state, 0.0)
    circuit.settle(stale, BAD)
    circuit.settle(before, BAD)
    assert circuit.word == "closed"
    assert circuit.state.window is circuit.state.current


def test_an_observing_circuit_refuses_nothing_and_tells_what_it_would_have() -> None:
    """Shadow mode: the whole machine runs, and nobody is turned away."""
    circuit = Circuit(consecutive_failures=2, probe_lease=1.0, probes=1)
    circuit.rule.set_mode(circuit.state, 0.0, "observing")
    circuit.calls(BAD, BAD)
    assert (circuit.word, circuit.state.phase) == ("observing", "open")
    assert isinstance(circuit.admit(), Forgetful)
    assert circuit.kinds == ["breaker.opened", "breaker.would_reject"]
    circuit.now = 5.0
    probe = circuit.admit()
    assert isinstance(probe, Probe)
    assert isinstance(circuit.admit(), Forgetful)
    circuit.now = 6.0
    expired = circuit.admit()
    assert isinstance(expired, Forgetful)
    assert [note.kind for note in expired.events] == ["breaker.opened", "breaker.would_reject"]  # type: ignore[union-attr]
    assert circuit.state.window is None


def test_hot_slots_are_set_only_while_everybody_is_admitted() -> None:
    """Compiled code admits by these slots alone: set at the wrong time they would open a closed door."""
    circuit = Circuit(window_calls=10, consecutive_failures=2)
    assert isinstance(circuit.state.current, CountWindow)
    assert circuit.state.record.__self__ is circuit.state.window is circuit.state.current
    circuit.calls(BAD, BAD)
    assert (circuit.state.window, circuit.state.record) == (None, None)
    circuit.now = 5.0
    circuit.admit()
    assert (circuit.state.window, circuit.state.record) == (None, None)
    circuit.rule.set_mode(circuit.state, 5.0, "observing")
    assert (circuit.state.window, circuit.state.record) == (None, None)
    circuit.rule.reset(circuit.state, 5.0)
    assert circuit.state.record.__self__ is circuit.state.window


def test_slow_probes_count_against_it() -> None:
    """A callee that answers probes slowly is not well."""
    circuit = Circuit(consecutive_failures=1, slow_call=1.0, slow_ratio=0.5, probes=4)
    circuit.calls(BAD)
    circuit.now = 5.0
    circuit.calls(OK, took=2.0)
    assert circuit.word == "half_open"
    circuit.calls(OK, took=2.0)
    assert circuit.word == "open"
    circuit.now = 10.0
    circuit.calls(OK, OK, OK)
    assert circuit.word == "closed"


def test_a_probe_lost_under_a_slow_rule_reopens_and_does_not_close() -> None:
    """What never came back is slow too: an expired lease may never be what closes a circuit."""
    circuit = Circuit(consecutive_failures=1, failure_ratio=None, slow_call=1.0, slow_ratio=0.5, probes=2, probe_lease=1.0)
    circuit.calls(BAD)
    circuit.now = 5.0
    circuit.admit()
    circuit.now = 6.0
    assert isinstance(circuit.admit(), Rejection)
    assert circuit.word == "open"


def test_a_ramp_lets_a_growing_share_pass_after_recovery() -> None:
    """A callee that has just come back is not met by everybody at once."""
    circuit = Circuit(consecutive_failures=1, probes=1, ramp=10.0)
    circuit.calls(BAD)
    circuit.now = 5.0
    circuit.calls(OK)
    assert (circuit.word, circuit.state.phase, circuit.state.window) == ("half_open", "ramping", None)
    shares = []
    for second in range(10):
        circuit.now = 5.0 + second
        passed = 0
        for _ in range(100):
            answer = circuit.admit()
            if not isinstance(answer, Rejection):
                passed += 1
                circuit.settle(answer, OK)
        shares.append(passed)
    assert shares == [pytest.approx(10 + 9 * second, abs=2) for second in range(10)]
    circuit.now = 15.0
    circuit.calls(OK)
    assert (circuit.word, circuit.rule.share(circuit.state, 15.0)) == ("closed", 1.0)
    assert circuit.kinds == ["breaker.opened", "breaker.half_opened", "breaker.ramping"]


def test_one_failure_while_ramping_reopens_for_longer() -> None:
    """Instant fall back, and the open time goes on growing."""
    circuit = Circuit(
        consecutive_failures=5, failure_ratio=None, probes=1, ramp=10.0, open_for=Backoff(base=1, cap=60, jitter="none")
    )
    circuit.calls(*[BAD] * 5)
    circuit.now = 1.0
    circuit.calls(OK)
    while isinstance(answer := circuit.admit(), Rejection):
        assert answer.retry_after == 1.0
    circuit.settle(answer, BAD)
    assert (circuit.word, circuit.state.open_until - circuit.now) == ("open", 2.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"ramp": 0},
        {"consecutive_failures": 0},
        {"consecutive_failures": 1.5},
        {"failure_ratio": 0},
        {"failure_ratio": 50},
        {"failure_ratio": math.nan},
        {"minimum_calls": 0},
        {"window": -1},
        {"window": math.inf},
        {"window_calls": 4},
        {"slow_call": 0},
        {"slow_ratio": 2},
        {"open_for": 0},
        {"open_for": "soon"},
        {"probes": 0},
        {"probes_at_once": 4},
        {"probe_lease": 0},
        {"consecutive_failures": None, "failure_ratio": None},
    ],
)
def test_a_breaker_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        BreakerRule(**bad)
