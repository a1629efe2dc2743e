"""The circuit breaker's edges: exact moments, exact counts, and what compiled code may rely on. Found by mutation testing."""

from __future__ import annotations

from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.backoff import Backoff
from seawall.policies.circuit_breaker import BreakerRule, BreakerState, Probe
from seawall.policies.verdict import Note, Rejection
from seawall.policies.windows import FAILED, OK, SLOW, SLOW_FAILED, Bucket, Counts, CountWindow, TimeWindow

FAIL, GOOD = Outcome.FAILURE, Outcome.SUCCESS


def circuit(**options: Any) -> tuple[BreakerRule, BreakerState]:
    """A circuit that opens after one failure, unless told otherwise."""
    rule = BreakerRule(**{"consecutive_failures": 1, "failure_ratio": None} | options)
    return rule, rule.start(0.0)


def call(rule: BreakerRule, state: BreakerState, now: float, outcome: Outcome = GOOD, took: float = 0.0, **more: Any) -> Any:
    """One call that is let in and settled at the same moment; what settling told."""
    permit: Any = rule.admit(state, now)
    assert not isinstance(permit, Rejection), permit
    return rule.settle(state, now, permit, outcome, took=took, **more)


def test_the_defaults_are_those_of_the_front_door() -> None:
    """A default that drifts changes every circuit that trusted it."""
    rule = BreakerRule()
    assert (rule.consecutive_failures, rule.failure_ratio, rule.minimum_calls) == (5, 0.5, 10)
    assert (rule.window, rule.window_calls, rule.slow_call, rule.slow_ratio) == (30.0, None, None, 0.8)
    assert (rule.open_for, rule.probes, rule.probes_at_once, rule.probe_lease, rule.ramp) == (5.0, 3, 1, None, None)


@pytest.mark.parametrize(("bad", "named"), [({"probes": 0}, "^probes must"), ({"probes_at_once": 4}, "^probes_at_once must")])
def test_each_parameter_is_refused_by_its_own_name(bad: dict[str, Any], named: str) -> None:
    """A message about another parameter sends people the wrong way."""
    with pytest.raises(ValueError, match=named):
        BreakerRule(**bad)
    assert BreakerRule(consecutive_failures=None, window_calls=1).window_calls == 1
    with pytest.raises(ValueError, match="window_calls"):
        BreakerRule(consecutive_failures=3, window_calls=2)


def test_each_transition_is_an_epoch_of_its_own() -> None:
    """A store tells permits apart by this number: one that comes again revives the dead."""
    rule, state = circuit(probes=1)
    seen = [state.epoch]
    for now in (0.0, 10.0):
        call(rule, state, now, FAIL)
        seen.append(state.epoch)
        probe = rule.admit(state, now + 5)
        seen.append(state.epoch)
        rule.settle(state, now + 5, probe, GOOD)  # type: ignore[arg-type]
        seen.append(state.epoch)
    rule.reset(state, 20.0)
    assert [*seen, state.epoch] == list(range(1, 9))


def test_the_hot_slots_are_set_only_while_anybody_may_pass() -> None:
    """Compiled code admits by them without asking: a slot left behind is a circuit that does not open."""
    rule, state = circuit(window_calls=5, probes=1, ramp=10)
    assert state.window is state.current
    assert state.record == state.current.append  # type: ignore[union-attr]
    rule.pause(state, 0.0, state.current, 3)  # type: ignore[arg-type]
    assert (state.window, state.record) == (None, None)
    rule.admit(state, 3.0)
    assert state.window is state.current is not None
    call(rule, state, 3.0, FAIL)
    assert (state.window, state.record, state.current) == (None, None, None)
    call(rule, state, 8.0)
    assert (state.phase, state.window) == ("ramping", None)
    rule.admit(state, 18.0)
    assert state.window is state.current is not None
    for mode in ("observing", "isolated", "disabled"):
        rule.set_mode(state, 18.0, mode)  # type: ignore[arg-type]
        assert (state.window, state.record) == (None, None)
    timed, other = circuit()
    assert other.window is other.current
    assert other.record is None
    assert timed.state(other) == "closed"


def test_a_refusal_says_exactly_when_to_come_again() -> None:
    """Open: the rest of the open time. Half-open: the soonest lease. Ramping: a tenth of the ramp."""
    rule, state = circuit(open_for=5, probe_lease=2, probes=2, ramp=20)

    def refused(now: float) -> float | None:
        answer = rule.admit(state, now)
        assert isinstance(answer, Rejection)
        return answer.retry_after

    call(rule, state, 0.0, FAIL)
    assert refused(2.0) == 3.0
    probe: Any = rule.admit(state, 5.0)
    assert refused(6.5) == 0.5
    assert refused(5.25) == 1.75
    rule.settle(state, 6.5, probe, GOOD)
    call(rule, state, 6.5)
    assert state.phase == "ramping"
    assert refused(6.5) == 2.0
    late, lost = circuit(open_for=5, probe_lease=2)
    call(late, lost, 0.0, FAIL)
    late.admit(lost, 5.0)
    answer = late.admit(lost, 7.0)
    assert isinstance(answer, Rejection)
    assert (answer.retry_after, answer.reason) == (5.0, "is open")
    assert [event.kind for event in answer.events if isinstance(event, Note)] == ["breaker.opened"]


def test_the_jitter_of_the_open_time_is_the_middle_unless_drawn() -> None:
    """Who gives no draw gets the same time every time."""
    rule, state = circuit(open_for=Backoff(base=8, cap=8, jitter="full"))
    call(rule, state, 0.0, FAIL)
    assert state.open_until == 4.0
    rule.admit(state, 4.0)
    rule.admit(state, 12.0)  # its lease of 8 s is over: opened again, by the same middle
    assert state.open_until == 16.0


def test_a_call_of_no_known_length_is_not_slow_and_one_at_the_limit_neither() -> None:
    """Slower than the limit means slower."""
    rule, state = circuit(consecutive_failures=None, slow_call=0.5, slow_ratio=1.0, minimum_calls=1)
    rule.settle(state, 0.0, rule.admit(state, 0.0), GOOD)  # type: ignore[arg-type]
    call(rule, state, 0.0, took=0.5)
    assert state.current is not None
    assert state.current.counts(0.0) == Counts(2, 0, 0, 0)
    call(rule, state, 0.0, took=0.51)
    assert state.current.counts(0.0) == Counts(3, 0, 1, 0)


def test_few_slow_or_failed_calls_among_many_open_nothing() -> None:
    """A share is counted of all calls, and the slow rule counts slow ones only."""
    rule, state = circuit(consecutive_failures=None, failure_ratio=0.9, slow_call=1, slow_ratio=0.8, minimum_calls=2)
    for _ in range(8):
        call(rule, state, 0.0)
    call(rule, state, 0.0, FAIL)
    call(rule, state, 0.0, took=2)
    assert rule.state(state) == "closed"
    for _ in range(34):
        assert call(rule, state, 0.0, took=2) == ()
    assert [note.data["reason"] for note in call(rule, state, 0.0, took=2)] == ["36 of 45 calls were slow"]
    assert state.opened == 1


def test_four_probes_at_once_are_never_five_whatever_has_come_back() -> None:
    """Passed, failed and running probes together are the probes that were said."""
    rule, state = circuit(failure_ratio=0.5, probes=4, probes_at_once=4)
    call(rule, state, 0.0, FAIL)
    probes: list[Any] = [rule.admit(state, 5.0) for _ in range(4)]
    assert all(isinstance(probe, Probe) for probe in probes)
    assert isinstance(rule.admit(state, 5.0), Rejection)
    rule.settle(state, 5.0, probes[0], GOOD)
    rule.settle(state, 5.0, probes[1], FAIL)
    assert isinstance(rule.admit(state, 5.0), Rejection)
    two, few = circuit(failure_ratio=0.5, probes=4, probes_at_once=2)
    call(two, few, 0.0, FAIL)
    call(two, few, 5.0)
    call(two, few, 5.0, FAIL)
    assert [isinstance(two.admit(few, 5.0), Probe) for _ in range(3)] == [True, True, False]


def test_half_open_closes_as_soon_as_the_rest_cannot_change_it_and_tells_how_many_answered() -> None:
    """One failure of four is below a half; until the third success another failure could have reopened it."""
    rule, state = circuit(failure_ratio=0.5, probes=4)
    call(rule, state, 0.0, FAIL)
    call(rule, state, 5.0, FAIL)
    assert call(rule, state, 5.0) == ()
    assert call(rule, state, 5.0) == ()
    assert state.phase == "half_open"
    assert call(rule, state, 5.0) == (Note("breaker.closed", {"probes": 4}),)
    assert state.phase == "closed"


def test_probes_that_could_still_be_too_slow_keep_it_half_open() -> None:
    """Two slow ones of four would reopen it: after two fast ones the other two may still be."""
    rule, state = circuit(failure_ratio=1.0, slow_call=1, slow_ratio=0.5, probes=4)
    call(rule, state, 0.0, FAIL)
    assert call(rule, state, 5.0) == ()
    assert call(rule, state, 5.0) == ()
    assert [note.kind for note in call(rule, state, 5.0)] == ["breaker.closed"]
    call(rule, state, 6.0, FAIL)
    call(rule, state, 11.0)
    call(rule, state, 11.0, took=2)
    assert state.phase == "half_open"
    assert [note.data["reason"] for note in call(rule, state, 11.0, took=2)] == ["probes were slow"]


def test_a_probe_that_never_came_back_counts_as_slow_too() -> None:
    """What hangs is slower than what is slow."""
    rule, state = circuit(failure_ratio=1.0, slow_call=1, slow_ratio=0.5, probes=2, probe_lease=3)
    call(rule, state, 0.0, FAIL)
    rule.admit(state, 5.0)
    answer = rule.admit(state, 8.0)
    assert isinstance(answer, Rejection)
    (note,) = answer.events
    assert isinstance(note, Note)
    assert note.data["reason"] == "probes were slow"


def test_one_failed_probe_reopens_where_no_ratio_is_set() -> None:
    """Without a ratio there is nothing to weigh it against."""
    rule, state = circuit(probes=3)
    assert rule.failures_to_reopen == 1
    call(rule, state, 0.0, FAIL)
    call(rule, state, 5.0)
    assert [note.kind for note in call(rule, state, 5.0, FAIL)] == ["breaker.opened"]


def test_the_ramp_lets_its_exact_share_pass() -> None:
    """From a tenth to all, evenly, by credit: no draw, no bunches."""
    rule, state = circuit(probes=1, ramp=9)
    call(rule, state, 0.0, FAIL)
    call(rule, state, 5.0)
    assert rule.share(state, 5.0) == pytest.approx(0.1)
    assert isinstance(rule.admit(state, 5.0), Rejection)
    assert rule.share(state, 9.0) == 0.5
    state.ramp_credit = 0.0
    passed = [not isinstance(rule.admit(state, 9.0), Rejection) for _ in range(6)]
    assert passed == [False, True, False, True, False, True]
    assert rule.share(state, 100.0) == 1.0


def test_slow_successes_do_not_reopen_while_it_ramps() -> None:
    """Its promise is: one failure reopens it. The window begins to be judged when the ramp is over."""
    rule, state = circuit(probes=1, ramp=10, slow_call=1, slow_ratio=0.5, minimum_calls=1, failure_ratio=None)
    call(rule, state, 0.0, FAIL)
    call(rule, state, 5.0)
    state.ramp_credit = 1.0
    assert call(rule, state, 6.0, took=3) == ()
    assert state.phase == "ramping"
    state.ramp_credit = 1.0
    assert [note.data["reason"] for note in call(rule, state, 7.0, FAIL)] == ["a call failed while it was ramping up"]


def test_rounds_are_forgotten_once_the_ramp_is_over() -> None:
    """The growing open time is for failures that follow each other."""
    rule, state = circuit(probes=1, ramp=10, open_for=Backoff(base=1, cap=100, jitter="none"), probe_lease=1)
    call(rule, state, 0.0, FAIL)
    call(rule, state, 1.0, FAIL)
    assert state.open_until == 3.0
    call(rule, state, 3.0)
    state.ramp_credit = 1.0
    call(rule, state, 4.0, FAIL)
    assert state.open_until == 8.0
    call(rule, state, 8.0)
    call(rule, state, 18.0)
    call(rule, state, 19.0, FAIL)
    assert state.open_until == 20.0


def test_a_ramp_that_a_reload_takes_away_is_over() -> None:
    """Else nobody would ever pass again."""
    rule, state = circuit(probes=1, ramp=10)
    call(rule, state, 0.0, FAIL)
    call(rule, state, 5.0)
    bare = BreakerRule(consecutive_failures=1, failure_ratio=None)
    assert bare.share(state, 5.0) == 1.0
    assert bare.admit(state, 5.0) is state.current
    assert state.phase == "closed"


# --- windows


@pytest.mark.parametrize("window", [CountWindow(1, 10), TimeWindow(1, 10.0, 0.0)])
def test_a_window_counts_each_kind_of_call_by_itself(window: CountWindow | TimeWindow) -> None:
    """Failed, slow, and both: each is looked at by another rule."""
    for code in (OK, OK, FAILED, SLOW, SLOW_FAILED, SLOW_FAILED, FAILED):
        window.record(0.0, code)
    assert window.counts(0.0) == Counts(calls=7, failed=4, slow=3, streak=3)
    window.record(0.0, SLOW)
    assert window.counts(0.0) == Counts(calls=8, failed=4, slow=4, streak=0)


def test_a_count_window_keeps_the_last_calls() -> None:
    """The oldest falls out."""
    window = CountWindow(7, 3)
    for code in (FAILED, FAILED, OK, OK):
        window.record(0.0, code)
    assert (list(window), window.maxlen, window.epoch) == ([FAILED, OK, OK], 3, 7)


def test_a_time_window_forgets_bucket_by_bucket() -> None:
    """A call counts for nine to ten tenths of the span, whatever happens in between."""
    window = TimeWindow(1, 10.0, 0.0)
    assert (window.width, window.until, len(window.ring)) == (1.0, 1.0, 1)
    window.record(0.5, FAILED)
    window.record(0.999, OK)
    window.record(1.0, FAILED)
    assert [bucket.starts_at for bucket in window.ring] == [0.0, 1.0]
    assert window.until == 2.0
    window.record(5.25, SLOW)
    assert [bucket.starts_at for bucket in window.ring] == [0.0, 1.0, 5.0]
    assert window.counts(9.99) == Counts(4, 2, 1, 0)
    assert window.counts(10.0) == Counts(2, 1, 1, 0)
    assert [bucket.starts_at for bucket in window.ring] == [1.0, 5.0, 9.0, 10.0]
    assert window.counts(10.99).calls == 2
    assert window.counts(11.0).calls == 1
    assert window.counts(14.99).calls == 1
    assert window.counts(15.0).calls == 0
    assert window.counts(1000.0).calls == 0
    assert len(window.ring) == 1


def test_buckets_begin_at_whole_widths_after_a_pause() -> None:
    """A bucket that began late would remember too long."""
    window = TimeWindow(1, 5.0, 100.0)
    window.record(101.3, FAILED)
    assert (window.bucket.starts_at, window.until) == (101.0, 101.5)
    window.record(101.5, OK)
    assert (window.bucket.starts_at, window.until) == (101.5, 102.0)
    assert window.counts(102.0).streak == 0


def test_a_streak_survives_buckets_that_leave_and_ends_with_a_success_in_any() -> None:
    """Successes are written without a lock: the streak is known from their number alone."""
    window = TimeWindow(1, 10.0, 0.0)
    window.record(0.0, OK)
    window.record(0.0, SLOW)
    window.record(1.0, FAILED)
    for now in (12.0, 24.0):  # the successes, then the failure, have left
        assert window.counts(now).streak == 1
    window.record(25.0, SLOW_FAILED)
    assert window.counts(25.0).streak == 2
    window.bucket.ok += 1
    assert window.counts(25.0).streak == 0
    window.record(25.0, FAILED)
    assert window.counts(25.0).streak == 1
    window.record(36.0, SLOW)
    assert window.counts(36.0).streak == 0
    window.record(36.0, FAILED)
    window.record(36.0, FAILED)
    assert window.counts(36.0).streak == 2


def test_a_fresh_window_has_no_streak() -> None:
    """Nothing has failed yet."""
    assert TimeWindow(1, 10.0, 0.0).counts(0.0) == Counts(0, 0, 0, 0)
    bucket = Bucket(3.0)
    assert (bucket.ok, bucket.failed, bucket.slow, bucket.slow_failed) == (0, 0, 0, 0)
