"""Reading again while calls run: each kind of policy goes on where it was, under the new numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seawall as sw
from seawall.pipeline.config import Config
from seawall.testing import Script, VirtualClock

Load = Callable[[str], Config]


@pytest.fixture
def load(tmp_path: Path, seawall_time: VirtualClock) -> Load:
    """A configuration of one pipeline, `a`, with these policies; called again, it is read again."""
    path = tmp_path / "seawall.toml"
    config = sw.load(path, env={})

    def write(policies: str) -> Config:
        path.write_text(f"[pipelines.a]\npolicies = [{policies}]")
        config.reload()
        return config

    return write


def test_a_cache_keeps_its_answers_under_new_times_and_a_new_size(load: Load, seawall_time: VirtualClock) -> None:
    """A reload that empties a cache sends its whole traffic to the callee at once."""
    cached = load("{ cache = { ttl = 60, size = 10 } }")["a"]
    callee = Script(*range(20))
    answers = {key: cached.call(callee, key) for key in "abc"}
    load("{ cache = { ttl = 10, size = 2 } }")
    assert cached.snapshot().policies[0].entries == 2
    assert [cached.call(callee, key) for key in "bc"] == [answers["b"], answers["c"]]
    seawall_time.advance(11)
    assert cached.call(callee, "b") not in answers.values()
    load("{ cache = { ttl = 100 } }")
    before = cached.call(callee, "b")
    seawall_time.advance(90)
    assert cached.call(callee, "b") == before
    load("{ cache = { ttl = 100, key = 'args' } }")
    assert cached.snapshot().policies[0].entries == 0


def test_a_fetch_that_was_under_way_lands_in_the_cache_that_took_over(load: Load, seawall_time: VirtualClock) -> None:
    """Its followers would otherwise wait for ever."""
    config = load("{ cache = 60 }")
    begun, go_on = threading.Event(), threading.Event()

    def fetch(key: str) -> str:
        begun.set()
        assert go_on.wait(10)
        return key

    answers: list[str] = []
    leader = threading.Thread(target=lambda: answers.append(config["a"].call(fetch, "k")))
    leader.start()
    assert begun.wait(10)
    load("{ cache = 30 }")
    go_on.set()
    leader.join(10)
    assert answers == ["k"]
    assert config["a"].snapshot().policies[0].entries == 1
    assert config["a"].call(fetch, "k") == "k"
    assert config["a"].snapshot().policies[0].hits == 1


def test_a_throttle_keeps_what_its_window_holds_whatever_the_new_length(load: Load, seawall_time: VirtualClock) -> None:
    """A callee that refuses everything is not to be flooded because somebody changed a number."""
    guarded = load("{ throttle = { window = 120, most = 0.9 } }")["a"]
    for _ in range(200):
        guarded.try_call(Script(ConnectionRefusedError()))
        seawall_time.advance(0.1)
    shot = guarded.snapshot().policies[0]
    assert shot.share > 0.8
    for window in (60, 240):
        load(f"{{ throttle = {{ window = {window}, most = 0.9 }} }}")
        after = guarded.snapshot().policies[0]
        assert (after.calls, after.accepted) == (shot.calls, shot.accepted)
    load("{ throttle = { window = 12 } }")
    assert guarded.snapshot().policies[0].calls < shot.calls
    seawall_time.advance(12)
    assert guarded.snapshot().policies[0].calls == 0


def test_an_adaptive_limit_keeps_its_limit_and_its_calls_within_new_bounds(load: Load, seawall_time: VirtualClock) -> None:
    """A learnt limit that falls back to its beginning lets a burst through, or holds good calls up."""
    config = load("{ adaptive_limit = { initial = 20, most = 100 } }")
    limit = config["a"].policy(sw.AdaptiveLimit)
    limit.cell.state.limit, limit.cell.state.rtt = 60.0, 0.2
    with limit.permit():
        load("{ adaptive_limit = { initial = 5, most = 50 } }")
        fresh = config["a"].policy(sw.AdaptiveLimit)
        assert fresh is not limit
        shot = fresh.snapshot()
        assert (shot.limit, shot.taken, shot.rtt) == (50, 1, 0.2)
        load("{ adaptive_limit = { initial = 5, most = 50, algorithm = 'vegas' } }")
        assert config["a"].policy(sw.AdaptiveLimit).snapshot().rtt is None
        seawall_time.advance(0.1)
    shot = config["a"].policy(sw.AdaptiveLimit).snapshot()
    assert (shot.limit, shot.taken) == (50, 0)
    for _ in range(50):  # under the other algorithm's memory, the old one's step would raise
        config["a"].call(lambda: seawall_time.advance(0.05))
    assert config["a"].policy(sw.AdaptiveLimit).snapshot().windows > 0


def test_budgets_keep_their_balance_and_quantiles_their_samples(load: Load, seawall_time: VirtualClock) -> None:
    """A storm that has spent its budget must not find it full again; a hedge need not learn latencies anew."""
    text = "{ retry = { attempts = 2, budget = { ratio = RATIO } } }, { hedge = { after = 'AFTER', budget = { ratio = RATIO } } }"
    text += ", { adaptive_timeout = { quantile = 'p99', factor = FACTOR } }"

    def numbers(ratio: str, after: str, factor: str) -> str:
        return text.replace("RATIO", ratio).replace("AFTER", after).replace("FACTOR", factor)

    config = load(numbers("0.1", "p95", "2"))
    for budget in (config["a"].policy(sw.Retry).budget, config["a"].policy(sw.Hedge).budget):
        while budget.withdraw(seawall_time.monotonic()):
            pass
    for _ in range(30):
        config["a"].policy(sw.Hedge).cell.apply(config["a"].policy(sw.Hedge).rule.observe, 0.5, cut=False)
        config["a"].policy(sw.AdaptiveTimeout).learn(0.5, cut=False)
    delay = config["a"].policy(sw.Hedge).snapshot().delay
    assert delay > 0.2
    load(numbers("0.3", "p95", "3"))
    assert config["a"].policy(sw.Retry).budget.snapshot().balance < 1
    assert config["a"].policy(sw.Retry).budget.rule.ratio == 0.3
    assert config["a"].policy(sw.Hedge).snapshot().delay == delay
    assert config["a"].policy(sw.AdaptiveTimeout).snapshot().samples == 30
    load(numbers("0.3", "p50", "3"))
    assert config["a"].policy(sw.Hedge).snapshot().delay is None


@pytest.mark.parametrize(("one", "other"), [("window = 30", "window = 60"), ("window_calls = 30", "window_calls = 50")])
def test_a_circuit_keeps_its_window_when_its_length_changes(load: Load, seawall_time: VirtualClock, one: str, other: str) -> None:
    """Nine failures before and one after a reload are ten failures."""
    breaker = "{ circuit_breaker = { consecutive_failures = 10, failure_ratio = false, WINDOW } }"
    guarded = load(breaker.replace("WINDOW", one))["a"]
    for _ in range(9):
        guarded.try_call(Script(OSError()))
        seawall_time.advance(0.1)
    load(breaker.replace("WINDOW", other))
    assert guarded.policy(sw.CircuitBreaker).snapshot().failed == 9
    guarded.try_call(Script(OSError()))
    assert guarded.policy(sw.CircuitBreaker).state == "open"


def test_a_shorter_window_forgets_what_is_older_at_once(load: Load, seawall_time: VirtualClock) -> None:
    """A window of three seconds that remembers thirty would open for yesterday's trouble."""
    guarded = load("{ circuit_breaker = { window = 30, minimum_calls = 10, consecutive_failures = false } }")["a"]
    for _ in range(8):
        guarded.try_call(Script(OSError()))
    seawall_time.advance(20)
    guarded.try_call(Script(OSError()))
    load("{ circuit_breaker = { window = 3, minimum_calls = 10, consecutive_failures = false } }")
    assert guarded.policy(sw.CircuitBreaker).snapshot().failed == 1
    load("{ circuit_breaker = { window_calls = 20, consecutive_failures = false } }")
    assert guarded.policy(sw.CircuitBreaker).snapshot().calls == 0


def test_policies_are_known_again_by_their_names_wherever_they_stand(load: Load, seawall_time: VirtualClock) -> None:
    """Two circuits that change places must not change their states."""
    circuits = "{ circuit_breaker = { name = 'one' } }, { circuit_breaker = { name = 'two' } }"
    guarded = load(circuits)["a"]
    guarded.policy("two").isolate()
    one, two = circuits.split(" }, ")
    load(f"{two}, {one} }}")
    assert [policy.name for policy in guarded.policies] == ["two", "one"]
    assert (guarded.policy("one").state, guarded.policy("two").state) == ("closed", "isolated")


def test_counts_that_people_watch_go_on(load: Load, seawall_time: VirtualClock) -> None:
    """A counter that falls to zero at each deployment of a number looks like an outage that ended."""
    guarded = load("{ fallback = 0 }, { timeout = 1 }")["a"]
    assert guarded.call(Script(OSError())) == 0
    guarded.policy(sw.Timeout).expired = 3
    load("{ fallback = 1 }, { timeout = 2 }")
    assert (guarded.policy(sw.Fallback).used, guarded.policy(sw.Timeout).expired) == (1, 3)


def test_threads_that_read_and_call_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two first uses at the same time must not make two circuits, of which one forgets."""
    path = tmp_path / "seawall.toml"
    path.write_text("[pipelines.a]\npolicies = [{ bulkhead = 1000 }, { fallback = 0 }]")
    config = sw.load(path, env={})
    begin, wrong = threading.Barrier(9), []

    def use() -> None:
        begin.wait(10)
        for _ in range(200):
            try:
                config["a"].call(lambda: 1)
            except Exception as error:
                wrong.append(error)

    def reread() -> None:
        begin.wait(10)
        for _ in range(50):
            config.reload()

    threads = [threading.Thread(target=work) for work in (*[use] * 8, reread)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    shot: Any = config["a"].snapshot().policies[0]
    assert (wrong, shot.taken, shot.rejected) == ([], 0, 0)
