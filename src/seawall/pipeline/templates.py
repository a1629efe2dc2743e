"""The text of compiled guards: one template per kind of policy, and what its names stand for.

A template is the plain guard's success path, written flat. It may only accept and only record successes; whatever it cannot
accept goes on in the plain guards from that layer inwards (`SLOWLY`), and every failure is settled by them (see `aid.py`).

In the text `@` is the number of the layer, `INNER` what is in it, `AWAIT ` the word or nothing, `ARGUMENTS` the call's
arguments as a tuple and a dict, `ARMED` the nearest limit of this call around the layer, or None. A line that ends in `#if flag`
stands only where that holds. `_sw_t` is the one clock read of the attempt, `_sw_o` the caller's deadline or None, `_sw_r` the
result, `_sw_run` the plain guards' record of the call once they took part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from seawall.core.context import DEADLINE, VARIABLE
from seawall.core.outcome import SUCCEEDED
from seawall.core.runtime import Mark
from seawall.pipeline.aid import Aid
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.bulkhead import Bulkhead
from seawall.pipeline.fallback import Fallback
from seawall.pipeline.limiter import RateLimiter
from seawall.pipeline.retry import Retry, transient
from seawall.pipeline.timeout import Timeout

if TYPE_CHECKING:
    from seawall.pipeline.policy import Policy


@dataclass(frozen=True)
class Part:
    """One layer of a compiled guard.

    names: what the text names on its fast path, as globals of the function. cold: what it names elsewhere, as attributes of
    `_sw_cold`. Names that the text numbers are the layer's own, so they come without `_sw_` and number. flags: which conditions
    hold. timed: whether the text reads `_sw_t`.
    """

    text: str
    names: dict[str, object]
    cold: dict[str, object]
    flags: frozenset[str] = frozenset()
    timed: bool = False


SLOWLY: Final = """
_sw_run = _sw_cold.begin@(_sw_fn, ARGUMENTS, BEFORE, ARMED)
_sw_r = AWAIT _sw_cold.tail@(_sw_run)
"""

LIMITER: Final = """
_sw_bucket@.tat = _sw_new = _sw_ns + _sw_bucket@.interval if (_sw_tat := _sw_bucket@.tat) <= _sw_ns and not _sw_line@ else _sw_tat + _sw_bucket@.interval if _sw_tat <= _sw_ns + _sw_bucket@.slack and not _sw_line@ else _sw_tat
if _sw_new is not _sw_tat:
    INNER
else:
    SLOWLY
"""  # noqa: E501  # one line, because a thread may be switched between two

BREAKER_COUNTS: Final = """
_sw_record@ = _sw_circuit@.record
if _sw_record@ is None:
    SLOWLY
else:
    _sw_began@ = _sw_t #if slow
    try:
        INNER
    except BaseException as _sw_error:
        _sw_cold.failed@(_sw_record@.__self__, _sw_error, _sw_began@, BEFORE, ARMED) #if slow
        _sw_cold.failed@(_sw_record@.__self__, _sw_error, None, BEFORE, ARMED) #if not slow
        raise
    _sw_verdict@ = _sw_classify@(_sw_r) #if judge
    if _sw_verdict@ is not _sw_well or _sw_now() - _sw_began@ > _sw_slow@: #if judge and slow
    if _sw_verdict@ is not _sw_well: #if judge and not slow
    if _sw_now() - _sw_began@ > _sw_slow@: #if slow and not judge
        _sw_cold.judged@(_sw_record@.__self__, _sw_verdict@, _sw_began@, BEFORE, ARMED) #if judge and slow
        _sw_cold.judged@(_sw_record@.__self__, _sw_verdict@, None, BEFORE, ARMED) #if judge and not slow
        _sw_cold.judged@(_sw_record@.__self__, _sw_cold.well, _sw_began@, BEFORE, ARMED) #if slow and not judge
    else: #if judge or slow
        _sw_record@(0) #if judge or slow
    _sw_record@(0) #if not judge and not slow
"""

BREAKER_TIMES: Final = """
_sw_window@ = _sw_circuit@.window
if _sw_window@ is None:
    SLOWLY
else:
    _sw_began@ = _sw_t #if slow
    try:
        INNER
    except BaseException as _sw_error:
        _sw_cold.failed@(_sw_window@, _sw_error, _sw_began@, BEFORE, ARMED) #if slow
        _sw_cold.failed@(_sw_window@, _sw_error, None, BEFORE, ARMED) #if not slow
        raise
    _sw_verdict@ = _sw_classify@(_sw_r) #if judge
    _sw_ended = _sw_now()
    if (
        _sw_ended >= _sw_window@.until
        or _sw_ended - _sw_began@ > _sw_slow@ #if slow
        or _sw_verdict@ is not _sw_well #if judge
    ):
        _sw_cold.judged@(_sw_window@, _sw_verdict@, _sw_began@, BEFORE, ARMED) #if judge and slow
        _sw_cold.judged@(_sw_window@, _sw_verdict@, None, BEFORE, ARMED) #if judge and not slow
        _sw_cold.judged@(_sw_window@, _sw_cold.well, _sw_began@, BEFORE, ARMED) #if slow and not judge
        _sw_cold.judged@(_sw_window@, _sw_cold.well, None, BEFORE, ARMED) #if not slow and not judge
    else:
        _sw_window@.bucket.ok += 1
"""

BULKHEAD: Final = """
_sw_seat@ = _sw_free@.pop() if _sw_free@ and not _sw_queue@ else None
if _sw_seat@ is None:
    SLOWLY
else:
    try:
        INNER
    except BaseException:
        _sw_cold.back@(_sw_seat@)
        raise
    if _sw_seat@.epoch == _sw_seats@.epoch:
        _sw_free@.append(_sw_seat@)
        if _sw_queue@:
            _sw_cold.match@()
"""

RETRY: Final = """
_sw_budget@.calls += 1 #if budget
_sw_course = None #if not last or judge
try:
    INNER
    _sw_course = _sw_cold.unsatisfied@(_sw_fn, ARGUMENTS, _sw_r, BEFORE, ARMED) #if judge
    return _sw_r #if last and not judge
except Exception as _sw_error:
    _sw_course = _sw_cold.again@(_sw_fn, ARGUMENTS, _sw_error, BEFORE, ARMED)
    if _sw_course is None:
        raise
if _sw_course is not None: #if not last or judge
    _sw_run = _sw_course.run #if not last or judge
    _sw_r = AWAIT _sw_cold.repeat(_sw_course, _sw_cold.inner@, _sw_run) #if not last or judge
return AWAIT _sw_cold.repeat(_sw_course, _sw_cold.inner@, _sw_course.run) #if last and not judge
"""

TIMEOUT_TASKS: Final = """
_sw_armed@ = None
if _sw_o is None or _sw_o > _sw_t + _sw_limit@:
    _sw_lane@ = _sw_lanes@.lane
    if _sw_lane@.loop is not _sw_home.loop:
        _sw_lane@ = _sw_lanes@.find()
    _sw_armed@ = [_sw_t + _sw_limit@, _sw_task, _sw_task.cancelling(), None, _sw_lane@.mark]
    _sw_lane@.entries.append(_sw_armed@)
    if _sw_lane@.idle:
        _sw_lane@.wind()
    _sw_token@ = _sw_hand_on(_sw_armed@)
_sw_parts@ = _sw_cold.tell_parts@() #if parts
try:
    INNER
except BaseException as _sw_error:
    if _sw_armed@ is not None and _sw_armed@[3] and _sw_cold.was_cut(_sw_armed@, _sw_error):
        raise _sw_cold.expired@(BEFORE) from _sw_error
    raise
finally:
    _sw_cold.forget_parts(_sw_parts@) #if parts
    if _sw_armed@ is not None:
        if _sw_armed@[3] is None and _sw_lane@.entries[-1] is _sw_armed@:
            _sw_lane@.entries.pop()
        else:
            _sw_lane@.disarm(_sw_armed@)
        _sw_take_back(_sw_token@)
"""

TIMEOUT_THREADS: Final = """
_sw_armed@ = None
if _sw_o is None or _sw_o > _sw_t + _sw_limit@:
    _sw_armed@ = [_sw_t + _sw_limit@, None, 0, None, _sw_mark@]
    _sw_token@ = _sw_hand_on(_sw_armed@)
_sw_parts@ = _sw_cold.tell_parts@() #if parts
try:
    INNER
finally:
    _sw_cold.forget_parts(_sw_parts@) #if parts
    if _sw_armed@ is not None:
        _sw_take_back(_sw_token@)
"""

FALLBACK: Final = """
_sw_failure@ = None
try:
    INNER
except Exception as _sw_error:
    if not _sw_cold.takes@(_sw_error):
        raise
    _sw_failure@ = _sw_error
if _sw_failure@ is not None:
    _sw_run = _sw_cold.begin@(_sw_fn, ARGUMENTS, BEFORE, ARMED)
    _sw_r = AWAIT _sw_run.answer(_sw_cold.value@(_sw_failure@, _sw_run))
    _sw_failure@ = None
"""


def part_of(policy: Policy, aid: Aid) -> Part | None:
    """The text of a policy, or None when it has none: then the plain guards go on from there. Only our own kinds have one:
    a subclass may decide otherwise."""
    template = _TEMPLATES.get(type(policy))
    return None if template is None else template(policy, aid)


def _limiter(policy: RateLimiter, _aid: Aid) -> Part | None:
    state = policy.cell.state
    if not policy.is_plain or state.tolerance < 0:
        return None
    return Part(LIMITER, {"bucket": state, "line": state.queue}, {}, timed=True)


def _breaker(policy: CircuitBreaker, aid: Aid) -> Part:
    names: dict[str, object] = {"circuit": policy.cell.state}
    flags = set()
    if policy.judges_results or aid.classifier.judges_results:
        flags.add("judge")
        names["classify"] = partial(policy.judge_result, run=cast("Any", aid)) if policy.judges_results else aid.classifier.result
        names["_sw_well"] = SUCCEEDED
    if policy.rule.slow_call is not None:
        flags.add("slow")
        names["slow"] = policy.rule.slow_call
    if policy.rule.window_calls is None or flags:
        names["_sw_now"] = aid.now
    text = BREAKER_TIMES if policy.rule.window_calls is None else BREAKER_COUNTS
    cold = {"failed": aid.failed, "judged": aid.judged, "_sw_well": SUCCEEDED}
    return Part(text, names, cold, frozenset(flags), timed="slow" in flags)


def _bulkhead(policy: Bulkhead, aid: Aid) -> Part:
    state = policy.cell.state
    return Part(BULKHEAD, {"seats": state, "free": state.free, "queue": state.queue}, {"back": aid.back, "match": aid.match})


def _retry(policy: Retry, aid: Aid) -> Part | None:
    if aid.retries or (policy.budget is not None and policy.budget.rule.counts_ends):
        return None  # one Retry is written flat; a second one, or a budget that counts ends, goes the plain way
    names: dict[str, object] = {}
    cold = {"again": aid.again, "inner": aid.inner, "unsatisfied": aid.unsatisfied, "_sw_repeat": aid.repeat, "_sw_retry": policy}
    flags = set()
    if policy.judges_results or (policy.on is transient and aid.classifier.judges_results):
        flags.add("judge")
    if policy.budget is not None:
        flags.add("budget")
        names["budget"] = policy.budget.cell.state
    return Part(RETRY, names, cold, frozenset(flags))


def _timeout(policy: Timeout, aid: Aid) -> Part | None:
    if (policy.sync == "thread" and not aid.is_async) or aid.pipeline.only_observes(policy):
        return None
    if any(limit <= policy.seconds for limit in aid.limits):
        return None  # an outer limit that is as short decides; the plain guards see to that
    names: dict[str, object] = {"limit": policy.seconds, "_sw_hand_on": DEADLINE.set, "_sw_take_back": DEADLINE.reset}
    cold: dict[str, object] = {}
    flags = set()
    if policy.connect is not None or policy.read is not None:
        flags.add("parts")
        cold |= {"tell_parts": partial(_tell_parts, policy), "_sw_forget_parts": VARIABLE.reset}
    if not aid.is_async:
        names["mark"] = Mark(aid.pipeline, policy.seconds)
        return Part(TIMEOUT_THREADS, names, cold, frozenset(flags), timed=True)
    from seawall.core.lanes import Lanes
    from seawall.core.runtime_asyncio import was_cut

    names["lanes"] = Lanes(aid.pipeline, policy.seconds, aid.now)
    cold |= {"expired": aid.expired, "_sw_was_cut": was_cut}
    return Part(TIMEOUT_TASKS, names, cold, frozenset(flags), timed=True)


def _tell_parts(policy: Timeout) -> Any:
    return VARIABLE.set(replace(VARIABLE.get(), connect=policy.connect, read=policy.read))


def _fallback(policy: Fallback, _aid: Aid) -> Part:
    return Part(FALLBACK, {}, {"takes": policy.takes, "value": policy.value})


_TEMPLATES: Final[dict[type, Callable[[Any, Aid], Part | None]]] = {
    RateLimiter: _limiter,
    CircuitBreaker: _breaker,
    Bulkhead: _bulkhead,
    Retry: _retry,
    Timeout: _timeout,
    Fallback: _fallback,
}
