"""Compiled guards decide, tell and leave behind what the plain ones do, on thousands of scripts; and broken ones are found
out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.compiled import worlds
from tests.compiled.worlds import Script, differences, orders, run

from seawall.pipeline import compiler, templates

SLICES = 8
pytestmark = pytest.mark.skipif(not compiler.enabled(), reason="SEAWALL_COMPILE=0: nothing is compiled that could be compared")


def scripts(which: int, of: int, rounds: int = 2) -> list[Script]:
    """One slice of all orders of up to 3 policies and 2 000 of 4, sync and async, in each mix, silent and heard."""
    made = []
    numbered = enumerate(itertools.product(orders(3, 2000), (False, True), range(rounds)))
    for number, (order, is_async, turn) in itertools.islice(numbered, which, None, of):
        made.append(Script(order, seed=number + turn * 100_003, mix=1 + number % 3, is_async=is_async, tells=turn % 2 == 1))
    return made


@pytest.mark.parametrize("which", range(SLICES))
def test_no_script_tells_compiled_from_plain(which: int) -> None:
    """The fast path may only be faster: same results, same events, same state after every call, mixed call by call."""
    every = scripts(which, SLICES)
    assert len(every) * SLICES >= 10_000
    for script in every:
        assert differences(script) == [], script


def test_the_fast_path_is_taken() -> None:
    """A fast path that never accepts would pass every comparison."""
    fast = compiled = 0
    for kind in worlds.KINDS:
        alone = [run(Script(kind, seed=seed, mix=1, is_async=False, tells=False), mixed=True).fast for seed in range(5)]
        assert sum(alone) > 5, kind
    for number, order in enumerate(orders(2, 50)):
        world = run(Script(order, seed=number, mix=1, is_async=False, tells=False), mixed=True)
        fast, compiled = fast + world.fast, compiled + world.compiled
    assert fast > compiled / 5, (fast, compiled)


def _edit(name: str, before: str, after: str) -> Callable[[pytest.MonkeyPatch], None]:
    def break_it(patch: pytest.MonkeyPatch) -> None:
        text = getattr(templates, name)
        assert before in text
        patch.setattr(templates, name, text.replace(before, after))

    return break_it


FAULTS = {
    "a late success counts in the new window": _edit(
        "BREAKER_COUNTS", "    _sw_record@(0) #if not judge", "    (_sw_circuit@.record or _sw_record@)(0) #if not judge"
    ),
    "a failure is not settled": _edit(
        "BREAKER_COUNTS", "_sw_cold.failed@(_sw_record@.__self__, _sw_error, None, BEFORE, ARMED)", "pass"
    ),
    "the window never turns": _edit("BREAKER_TIMES", "_sw_ended >= _sw_window@.until", "False"),
    "a slow call counts as a quick one": _edit("BREAKER_TIMES", "or _sw_ended - _sw_began@ > _sw_slow@", "or False"),
    "a bad result counts as a good one": _edit("BREAKER_COUNTS", "_sw_verdict@ is not _sw_well", "False"),
    "a refused cost is spent": _edit("LIMITER", "<= _sw_ns + _sw_bucket@.slack and", "<= _sw_ns + _sw_bucket@.slack * 2 and"),
    "a full bucket is not drawn from": _edit("LIMITER", "_sw_ns + _sw_bucket@.interval if", "_sw_ns if"),
    "a seat is lost with an error": _edit("BULKHEAD", "        _sw_cold.back@(_sw_seat@)\n", ""),
    "a seat is given back twice": _edit(
        "BULKHEAD",
        "        _sw_free@.append(_sw_seat@)\n",
        "        _sw_free@.append(_sw_seat@)\n        _sw_free@.append(_sw_seat@)\n",
    ),
    "a call is not counted in the budget": _edit("RETRY", "_sw_budget@.calls += 1 #if budget\n", ""),
    "an error is not repeated": _edit("RETRY", "if _sw_course is None:", "if True:"),
    "a limit is twice as long": _edit("TIMEOUT_TASKS", "[_sw_t + _sw_limit@,", "[_sw_t + _sw_limit@ * 2,"),
    "a cut is nobody's": _edit("TIMEOUT_TASKS", "_sw_armed@[3] and _sw_cold.was_cut(", "False and _sw_cold.was_cut("),
    "a fallback takes nothing": _edit("FALLBACK", "if not _sw_cold.takes@(_sw_error):", "if True:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_template_is_found_out(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is worth what it finds."""
    FAULTS[fault](monkeypatch)
    chances = (
        Script(order, seed=number, mix=1, is_async=is_async, tells=False)
        for number, (order, is_async) in enumerate(itertools.product(orders(2, 100), (False, True)))
    )
    for script in chances:
        if any(differences(replace(script, seed=script.seed + extra)) for extra in (0, 1000)):
            return
    pytest.fail(f"no script noticed that {fault}")


@pytest.mark.soak
def test_no_script_of_a_million_tells_compiled_from_plain(soak_seconds: float, soak_seed: int) -> None:
    """The same for as long as asked: about two hundred scripts a second."""
    done = 0
    for number in range(int(soak_seconds * 200)):
        order = next(itertools.islice(orders(0, 1, seed=soak_seed + number), 0, None)) if number % 5 == 0 else ""
        order = order + "".join(worlds.random.Random(soak_seed + number).sample(worlds.KINDS, 4))
        order = "".join(dict.fromkeys(order))
        script = Script(order, soak_seed + number, 1 + number % 3, number % 2 == 0, number % 4 < 2, calls=20)
        assert differences(script) == [], script
        done += 1
    print(f"{done} scripts")
