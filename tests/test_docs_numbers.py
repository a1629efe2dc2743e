"""Every number that the docs claim is compared with what the code does.

Three nets: the defaults in options tables are those of the signatures; every digit in the prose of a page stands in a claim
of the table below, whose check runs; and a claim that is no longer on its page is a complaint too.
"""

# ruff: noqa: E501, RUF001  # one claim a line, with the signs of its page
from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import math
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import seawall as sw
from seawall.choreography.brokers.kafka import KafkaBroker
from seawall.choreography.brokers.nats import NatsBroker
from seawall.choreography.brokers.redis import RedisBroker
from seawall.choreography.inbox import Inbox
from seawall.choreography.relay import Relay
from seawall.core.outcome import DefaultClassifier, Kind, Repeat
from seawall.discovery import Registry, brake
from seawall.discovery.settings import BEATS_PER_TTL
from seawall.health import Health, drain, own_port, propagation
from seawall.pipeline import folder as folders
from seawall.pipeline import origins, threads, toml_lines
from seawall.policies import adaptive_limit, circuit_breaker, limit_algorithms, limit_window
from seawall.policies.hedge import HedgeRule
from seawall.policies.quantile import QuantileRule
from seawall.policies.throttle import ThrottleRule
from seawall.saga import Call, Participant, participant_asgi
from seawall.saga import errors as saga_errors
from seawall.saga import step as saga_step
from seawall.shared import book, stores

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

# --- the options tables

OPTIONS: dict[str, Callable[..., Any]] = {
    "patterns/adaptive-limit.md": sw.AdaptiveLimit,
    "patterns/adaptive-timeout.md": sw.AdaptiveTimeout,
    "patterns/admission-control.md": sw.AdmissionControl,
    "patterns/bulkhead.md": sw.Bulkhead,
    "patterns/cache.md": sw.Cache,
    "patterns/circuit-breaker.md": sw.CircuitBreaker,
    "patterns/fallback.md": sw.Fallback,
    "patterns/fault.md": sw.Fault,
    "patterns/graceful-drain.md": Health("docs").drain,
    "patterns/hedge.md": sw.Hedge,
    "patterns/keyed.md": sw.Keyed,
    "patterns/rate-limiter.md": sw.RateLimiter,
    "patterns/shared-limits.md": sw.RateLimiter,
    "patterns/retry.md": sw.Retry,
    "patterns/saga.md": saga_step,
    "patterns/saga-participant.md": Participant,
    "patterns/throttle.md": sw.Throttle,
    "patterns/timeout.md": sw.Timeout,
}
SAID_OTHERWISE = {"none": (), "the classifier": None, "": inspect.Parameter.empty}
"""What a table says in words."""


def rows(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Names and defaults of each row of a page's options table."""
    table = re.search(r"^\| option \| default \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.M)
    for row in table[1].splitlines() if table else ():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        names, said = re.findall(r"`(\w+)`", cells[0]), cells[1]
        defaults = [said] if len(names) == 1 else said.split(", ")
        yield names, defaults * len(names) if len(defaults) == 1 else defaults


def agrees(said: str, default: Any, policy: Callable[..., Any]) -> bool:
    """Whether what a table says is the default of the signature."""
    if said in SAID_OTHERWISE and (said != "none" or default == ()):
        return bool(default == SAID_OTHERWISE[said])
    word = said.strip('`"')
    if word in inspect.signature(policy).parameters:  # "as that one", which is None in the signature
        return default is None
    if word.startswith(("Backoff(", "RetryBudget(")):
        made, held = eval(f"sw.{word}"), policy(0.1) if policy is sw.Hedge else policy()
        if isinstance(made, sw.RetryBudget):
            return bool(made.rule == held.budget.rule)
        return default is None and made == held.rule.backoff
    if type(default) is object:  # stands for "not given", where None is a value
        return word == "None"
    if isinstance(default, bool) or default is None:
        return word == str(default)
    if isinstance(default, int | float):
        number = "0" if word == "none" else word.removesuffix(" s").replace(" ", "")
        return re.fullmatch(r"[\d.]+", number) is not None and math.isclose(float(number), default)
    return word in (default, getattr(default, "__name__", None), repr(default).removeprefix("seawall."))


@pytest.mark.parametrize("page", OPTIONS)
def test_the_defaults_of_an_options_table_are_those_of_the_signature(page: str) -> None:
    """A default that was changed in the code only is believed in the docs for years."""
    policy = OPTIONS[page]
    parameters = inspect.signature(policy).parameters
    told: list[str] = []
    others = [
        row for other, kind in OPTIONS.items() if kind is policy and other != page for row in rows((DOCS / other).read_text())
    ]
    for names, defaults in rows((DOCS / page).read_text()):
        assert len(names) == len(defaults), f"{page}: {names} have {defaults}"
        for name, said in zip(names, defaults, strict=True):
            told.append(name)
            assert agrees(said, parameters[name].default, policy), f"{page}: {name} is {parameters[name].default!r}, not {said}"
    elsewhere = {name for names, _ in others for name in names}  # a policy's options may be told on two pages
    assert sorted(set(told) | elsewhere) == sorted(set(parameters) - {"name", "clock"} | ({"name"} & set(told))), page


def test_every_pattern_with_options_is_in_the_table() -> None:
    """A page that is added must not escape."""
    with_table = {f"patterns/{path.name}" for path in (DOCS / "patterns").glob("*.md") if list(rows(path.read_text()))}
    assert with_table == set(OPTIONS)


def test_a_wrong_default_is_noticed() -> None:
    """A check that cannot fail proves nothing."""
    assert agrees("5 s", 5, sw.CircuitBreaker)
    assert not agrees("6 s", 5, sw.CircuitBreaker)
    assert not agrees("None", 5, sw.CircuitBreaker)
    assert not agrees("", None, sw.CircuitBreaker)
    assert not agrees('"lifo"', "fifo", sw.Bulkhead)
    assert not agrees("`RetryBudget(0.2)`", ..., sw.Hedge)
    assert not agrees("the classifier", 3, sw.CircuitBreaker)


# --- the claims in prose


def default(policy: Callable[..., Any], name: str) -> Any:
    """The default of a parameter."""
    return inspect.signature(policy).parameters[name].default


def proved(test: str) -> bool:
    """Whether the test that proves a claim is there."""
    path, _, name = test.partition("::")
    return f"def {name}(" in (ROOT / "tests" / path).read_text()


def knee(algorithm: Any, service: float, room: float = math.inf) -> float:
    """Where an algorithm settles before the simulated server of the knee tests, in knees."""
    path = ROOT / "tests" / "policies" / "test_limit_knee.py"
    spec = importlib.util.spec_from_file_location("limit_knee", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["limit_knee"] = module
    spec.loader.exec_module(module)
    rule = adaptive_limit.AdaptiveLimitRule(algorithm=algorithm, most=400)
    return float(module.settled(module.Server(room=room, service=service).drive(rule, rule.start(0), 60_000)) / 100)


def knees(algorithm: str, low: float, high: float, room: float = math.inf) -> bool:
    """Whether the figures of a page are those that are measured, to the last digit that it gives."""
    return all(low - 0.005 <= knee(algorithm, service, room) <= high + 0.005 for service in (0.05, 0.2))


def kind_of_status(status: int) -> Kind:
    """What the classifier makes of an HTTP status."""
    return DefaultClassifier().result(type("Response", (), {"status_code": status, "headers": {}})()).kind


def repeats(kind: Kind) -> Repeat:
    """When a kind may be repeated."""
    from seawall.core.kinds import MEANING

    return MEANING[kind][1]


def permanent() -> bool:
    """All other 4xx are permanent."""
    return {kind_of_status(status) for status in (400, 401, 403, 404, 409, 410, 422)} == {Kind.PERMANENT}


def draws(jitter: Any, low: float, high: float) -> bool:
    """Whether a jitter draws from low to high times the length."""
    backoff, draw = sw.Backoff(base=1, cap=100, jitter=jitter), random.Random(0)
    seen = [backoff.wait(2, draw.random()) / 4 for _ in range(5000)]
    return low <= min(seen) < low + 0.02 and high - 0.02 < max(seen) <= high


def probes_decide() -> bool:
    """Of three probes at a ratio of a half, two good ones close and two bad ones reopen."""
    rule = circuit_breaker.BreakerRule(probes=3, failure_ratio=0.5, consecutive_failures=1, open_for=1.0)
    ends = []
    for outcome in (sw.Outcome.SUCCESS, sw.Outcome.FAILURE):
        state = rule.start(0)
        rule.settle(state, 0, rule.admit(state, 0), sw.Outcome.FAILURE)
        seen = []
        for _ in range(2):
            rule.settle(state, 2, rule.admit(state, 2), outcome)
            seen.append(rule.state(state))
        ends.append(seen)
    return ends == [["half_open", "closed"], ["half_open", "open"]]


def status_of(file: Path) -> int:
    """The exit status of `seawall check`."""
    pytest.importorskip("cyclopts", reason="the command line is an extra")
    from seawall.cli.check import check

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return check(file)


def check_statuses() -> bool:
    """0 without errors, 1 with, 2 for a file that cannot be used."""
    import tempfile

    file = Path(tempfile.mkdtemp()) / "a.toml"
    seen = []
    for policies in ("{ timeout = 1 }", "{ timeout = 1 }, { timeout = 2 }", "{ tim = 1 }"):
        file.write_text(f"[pipelines.a]\npolicies = [{policies}]")
        seen.append(status_of(file))
    return seen == [0, 1, 2]


def nested_calls() -> bool:
    """Three layers of three attempts."""
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise OSError

    def layer(inner: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: sw.Retry(3, on=OSError, budget=None, nested="allow").call(inner)

    with sw.testing.instant(), pytest.raises(OSError):
        layer(layer(layer(fail)))()
    return calls == 27


def STATED() -> bool:  # noqa: N802  # stands among constants
    """For digits that claim nothing: numbers of rows, and words beside which the same number is checked."""
    return True


Claim = tuple[str, Callable[[], bool]]
LIMIT, ALGORITHMS = adaptive_limit.AdaptiveLimitRule(), limit_algorithms
OVERLOAD = "policies/test_admission.py::test_under_twice_the_load_the_critical_are_served_and_the_sheddable_pay"
TENANTS = "policies/test_limit_shares.py::test_under_overload_tenants_of_unlike_demand_hold_even_shares"
CLAIMS: dict[str, list[Claim]] = {
    "patterns/adaptive-limit.md": [
        ("knee found (1 = the knee)", STATED),
        ("| 1.01 to 1.02 | swings around the knee: by a sixth at 100 calls, by half at 20 |", lambda: knees("correlation", 1.01, 1.02)),
        ("a mean above 5 s | 1.03 to 1.05, of a callee that sheds at 1.05", lambda: knees("aimd", 1.03, 1.05, room=5)),
        ("calls take 5 s", lambda: limit_algorithms.Aimd().slow == 5),
        ("above 6 · log10(limit) | 1.08", lambda: knees("vegas", 1.08, 1.08)),
        ("| by 4 against the gradient", lambda: limit_algorithms.Gradient2().queue == 4),
        ("1.07 at first", lambda: knees("gradient2", 1.07, 1.07)),
        ("a simulated server of 100 workers", lambda: proved("policies/test_limit_knee.py::test_every_algorithm_finds_the_knee_within_a_fifth")),
        ("20 to 100 workers", lambda: proved("policies/test_limit_knee.py::test_the_default_finds_the_knee_of_noisy_and_of_small_servers")),
        ("0.1 to 1 s", lambda: (adaptive_limit.SHORTEST, adaptive_limit.LONGEST) == (0.1, 1)),
        ("at least 10 results", lambda: limit_window.LEAST_SAMPLES == 10),
        ("and 503 count as dropped", lambda: kind_of_status(503) is Kind.OVERLOADED),
        ("up to 70 % of the limit", lambda: adaptive_limit.SHARES == (1.1, 1.0, 0.7)),
        ("12 places, one tenant asks for 54 calls at once and two for 6 each", lambda: proved(TENANTS)),
        ("holds more than 9 places; with it, each holds between 3.5 and 4.5 with a queue of 30, and between 2.8 and 5.8 without one", lambda: proved(TENANTS)),
        ("last 100 ms was above 5 ms, those who waited longer than 10 ms", lambda: (LIMIT.interval, 2 * LIMIT.target) == (0.1, 0.01)),
    ],
    "patterns/adaptive-timeout.md": [
        ("fewer than 20 latencies are known", lambda: QuantileRule(quantile=0.99).least == 20),
        ("a factor near 1", STATED),
    ],
    "patterns/admission-control.md": [
        ("a step sheds 5 % whatever the mix", lambda: default(sw.AdmissionControl, "shed") == 0.05),
        ("It closes by 5 % per window", lambda: default(sw.AdmissionControl, "shed") == 0.05),
        ("about 14 windows pass until half is shed", lambda: 13 < math.log(0.5) / math.log(0.95) < 14),
        ("It opens by 1 % of what came per window", lambda: default(sw.AdmissionControl, "regain") == 0.01),
        ("20 workers under twice the load", lambda: proved(OVERLOAD)),
        ("more than 99.9 % of the critical calls are served, 40 to 60 % of the default ones, less than 1 % of the sheddable ones", lambda: proved(OVERLOAD)),
        ("The mean wait is below 200 ms", lambda: proved(OVERLOAD)),
    ],
    "patterns/bulkhead.md": [("on 8 threads of its own", lambda: sw.Bulkhead.threads(8).rule.limit == 8)],
    "patterns/circuit-breaker.md": [
        ("with 3 probes and 0.5, two good ones close it, two bad ones reopen it", probes_decide),
        ("Retry-After lengthens the open time, up to 60 s", lambda: circuit_breaker.HINT_CAP == 60),
        ("a 429 with one pauses", lambda: kind_of_status(429) is Kind.THROTTLED),
    ],
    "patterns/discovery.md": [
        ("than a heartbeat (ttl / 3)", lambda: BEATS_PER_TTL == 3),
        ("waits at most `wait` seconds (5)", lambda: default(Registry.register, "wait") == 5),
        ("vanishes within 10 s without a goodbye", lambda: brake.Brake().hold == 10),
        ("probe: 10 s, or 600 s when the list is empty", lambda: (brake.Brake().hold, brake.Brake().empty_hold) == (10, 600)),
        ("IPv4 inside IPv6", STATED),
    ],
    "patterns/choreography.md": [
        ("`limit` seconds (30)", lambda: default(Inbox, "limit") == 30),
        ("after 5 s (`ack_wait`)", lambda: default(NatsBroker, "ack_wait") == default(RedisBroker, "ack_wait") == 5.0),
        ("with Kafka after 6 s", lambda: default(KafkaBroker, "ack_wait") == 6.0),
        ("replicas (3, with", STATED),
    ],
    "patterns/outbox.md": [
        ("from 0.1 s to 30 s", lambda: (default(Relay, "backoff"), default(Relay, "longest")) == (0.1, 30)),
        ("fails `tries` times (5)", lambda: default(Inbox, "tries") == 5),
        ("are kept for 7 days", lambda: default(Relay, "retention") == 7 * 86_400),
        ("kept for 14 days", lambda: default(Inbox, "retention") == 14 * 86_400),
    ],
    "patterns/graceful-drain.md": [
        *((f"{n}. ", STATED) for n in range(1, 5)),
        ("says 503,", lambda: proved("health/test_drain.py::test_the_steps_come_in_their_order_and_the_delay_is_kept")),
        ("`/livez` 200", STATED),
        ("(HTTP/2 servers", STATED),
        ("3 s for each", lambda: drain.REGISTRY_STEP == 3),
        ("and 5 s on Kubernetes", lambda: propagation.KUBERNETES == 5),
        ("(30 s) counts from the signal", STATED),
        ("hypercorn's (3 s) counts", STATED),
    ],
    "patterns/health.md": [
        ("| path | group | says 503 when |", STATED),
        ("has not run for `max_lag` (10 s)", lambda: default(Health, "max_lag") == 10),
        ('or degrades it ("warn", 200)', STATED),
        ("listens on 127.0.0.1 unless told otherwise", lambda: default(Health.listen, "host") == "127.0.0.1"),
        ("takes 64 connections, 8 KiB and 2 s per request", lambda: (own_port.MOST_CONNECTIONS, own_port.MOST_HEAD, own_port.HEAD_WITHIN) == (64, 8192, 2)),
        ("our rejections with 503", STATED),
        ("our timeouts with 504", STATED),
        ("A 429 is for callers", STATED),
    ],
    "patterns/hedge.md": [
        ("further copies at most, up to 10", lambda: raises(ValueError, lambda: sw.Hedge(copies=11)) and bool(sw.Hedge(copies=10))),
        ("(4xx, ValueError)", permanent),
        ("before 20 latencies are known", lambda: HedgeRule(after="p95").least == 20),
    ],
    "patterns/pipeline.md": [
        *((f"| {n} | `", STATED) for n in range(1, 7)),
        ("load x (1 + share of retries) > 1", lambda: sw.Pipeline(sw.Retry()).explain().safe_load == round(1 / 1.1, 6)),
        ("throttled (429)", lambda: kind_of_status(429) is Kind.THROTTLED and repeats(Kind.THROTTLED) is Repeat.ALWAYS),
        ("overloaded (503)", lambda: kind_of_status(503) is Kind.OVERLOADED and repeats(Kind.OVERLOADED) is Repeat.IDEMPOTENT),
        ("other 5xx", lambda: {kind_of_status(status) for status in (500, 502)} <= {Kind.SERVER_ERROR, Kind.OVERLOADED}),
        ("permanent (other 4xx", permanent),
        ("three layers of three attempts are 27 calls", nested_calls),
    ],
    "patterns/rate-limiter.md": [
        ("0 passes at once", lambda: proved("policies/test_rate_limit.py::test_a_cost_of_nothing_always_passes_and_spends_nothing")),
        ("pauses its key, up to 60 s", lambda: proved("policies/test_rate_limit.py::test_settling_obeys_a_hint_only_when_told_to_and_only_up_to_a_minute")),
        ("under 80 bytes at a million keys", lambda: proved("policies/test_rate_limit_keys.py::test_a_key_costs_less_than_eighty_bytes")),
        ("count + 1 for ordinary calls", lambda: proved("policies/test_rate_limit.py::test_a_shaper_spaces_calls_by_their_cost")),
        (
            "count · (1 + a): 1.33x for a burst in the first third of a window (a = 1/3), close to 2x for one at its very end",
            lambda: proved("policies/test_rate_limit.py::test_a_sliding_window_lets_a_third_more_pass_after_an_early_burst_and_more_after_a_late_one"),
        ),
        ("| 2x the count", lambda: proved("policies/test_rate_limit.py::test_two_bursts_may_meet_at_the_edge_of_a_fixed_window")),
        ("that breaks at 2x", STATED),
    ],
    "patterns/retry.md": [
        ("base 0.1 s, cap 5 s", lambda: (sw.Backoff().base, sw.Backoff().cap) == (0.1, 5)),
        ("said so (429)", lambda: repeats(kind_of_status(429)) is Repeat.ALWAYS),
        ("d = min(cap, base · 2ⁿ)", lambda: [sw.Backoff().length(n) for n in (0, 1, 2, 9)] == [0.1, 0.2, 0.4, 5]),
        ("full jitter draws U(0, d)", lambda: draws("full", 0, 1)),
        ("equal d/2 + U(0, d/2)", lambda: draws("equal", 0.5, 1)),
        ("proportional ± 25 %", lambda: draws("proportional", 0.75, 1.25)),
        ("decorrelated draws U(base, 3 · previous)", lambda: sw.Backoff(growth="decorrelated", cap=99).wait(1, 1.0, 2.0) == 6),
        (
            "10 % of calls plus 1 per second, deposits live 10 s",
            lambda: (default(sw.RetryBudget, "ratio"), default(sw.RetryBudget, "floor_per_s"), default(sw.RetryBudget, "ttl")) == (0.1, 1, 10),
        ),
    ],
    "patterns/shared-limits.md": [
        ("(6.2 or newer)", STATED),
        ("those that asked within the last 10 s", lambda: book.MEMBER_FOR == 10),
        ("more than 50 decisions a second", lambda: book.BUSY == 50),
        ("(for 0.5 to 10 s)", lambda: "Backoff(base=0.5, cap=10" in inspect.getsource(stores)),
    ],
    "patterns/saga-participant.md": [
        ("409 with", lambda: participant_asgi.STATUS[saga_errors.EffectBusy] == 409),
        ("410: refused", lambda: participant_asgi.STATUS[saga_errors.EffectUndone] == 410),
        ("204, and a tombstone", lambda: "_answer(send, 204," in inspect.getsource(participant_asgi.Guarded)),
        ("undo | undone | 204", lambda: "_answer(send, 204," in inspect.getsource(participant_asgi.Guarded)),
        ("was seen | 412", lambda: participant_asgi.STATUS[saga_errors.StaleFence] == 412),
        ("was used | 422", lambda: participant_asgi.STATUS[saga_errors.KeyReused] == 422),
        ("tombstones | | 410", lambda: participant_asgi.STATUS[saga_errors.EffectExpired] == 410),
        ("(4xx) frees", lambda: participant_asgi._ending(Call("k"), 404, whole=False) == "rejected"),
        ("(5xx) leaves it in doubt", lambda: participant_asgi._ending(Call("k"), 500, whole=False) == "lost"),
        ("its keys answer 409 until", lambda: participant_asgi.STATUS[saga_errors.EffectBusy] == 409),
    ],
    "patterns/throttle.md": [
        ("below 1 |", lambda: raises(ValueError, lambda: sw.Throttle(most=1))),
        ("max(0, (requests − k · accepts) / (requests + 1))", lambda: shed_share() == (100 - 2 * 25) / 101),
    ],
    "patterns/timeout.md": [
        ("the limit, > 0", lambda: raises(ValueError, lambda: sw.Timeout(0))),
        ('"250ms"', lambda: sw.Timeout("250ms").seconds == 0.25),
        ("at most 64 are left running", lambda: threads.ABANDONED_MAX == 64),
    ],
    "tutorial/configuration.md": [
        *((f"| {n} |", STATED) for n in range(1, 6)),
        ("the default | 3 |", lambda: default(sw.Retry, "attempts") == 3),
        ("1 MiB (1048576 bytes)", lambda: origins.LARGEST == 1 << 20 == 1048576),
        ("more than 32 deep", lambda: toml_lines.DEEPEST == 32),
        ("at most 1000 files", lambda: folders.MOST_FILES == 1000),
        ("with 0 when nothing in it is an error, with 1 when something is (with `--strict`: a warning too), with 2 for a file", check_statuses),
    ],
    "tutorial/testing.md": [("a 60 second timeout takes no time at all", lambda: jumps())],
    "warnings/SW001.md": [("at most 64 of them", lambda: threads.ABANDONED_MAX == 64)],
    "warnings/SW003.md": [
        ("load x (1 + share of retries) is above 1", lambda: sw.Pipeline(sw.Retry()).explain().safe_load == round(1 / 1.1, 6)),
        ("at most 10 % of the calls", lambda: default(sw.RetryBudget, "ratio") == 0.1),
    ],
    "warnings/SW010.md": [("27 times", nested_calls)],
    "warnings/SW012.md": [
        ('Four worker processes with "100/s" each send 400/s', lambda: "4 times the rate" in sw.Pipeline(sw.RateLimiter("100/s")).explain(4).findings[0].reason),
    ],
}  # fmt: skip
"""By page: words that stand on it, and what must hold for them."""


def raises(error: type[Exception], do: Callable[[], Any]) -> bool:
    """Whether it does."""
    with pytest.raises(error):
        do()
    return True


def shed_share() -> float:
    """The share that a throttle sheds of a hundred requests of which 25 were accepted."""
    rule = ThrottleRule()
    state = rule.start(0)
    for index in range(100):
        permit: Any = rule.admit(state, 0.0, 0.999)
        rule.settle(state, 0.0, permit, accepted=index < 25)
    return rule.share(state, 0.0)


def jumps() -> bool:
    """Whether a minute of virtual time is over at once."""
    import asyncio
    import time

    async def hang() -> None:
        await asyncio.sleep(1000)

    clock, began = sw.testing.VirtualClock(), time.monotonic()
    with pytest.raises(sw.TimedOut):
        asyncio.run(sw.Timeout(60, clock=clock).acall(hang))
    return time.monotonic() - began < 10


FENCES = re.compile(r"^```.*?^```", re.M | re.S)
NO_CLAIM = re.compile(r"`[^`\n]*`|\[[^\]]*\]\([^)\s]*\)|\bSW\d{3}\b|\bp\d\d\b|log10|gradient2")


def prose(page: str) -> str:
    """A page without code, links and sources, on one line."""
    text = FENCES.sub("", page).partition("\n## Sources")[0]
    lines = [re.sub(r"^(\| `.*?` \| )[^|]*\|", r"\1|", line) if line.startswith("| `") else line for line in text.splitlines()]
    return " ".join(" ".join(lines).split())


def unclaimed(page: str, claims: list[Claim]) -> str:
    """What is left of a page's prose when all that is claimed is taken away."""
    text = prose(page)
    for words, _ in claims:
        text = text.replace(words, " ")
    return NO_CLAIM.sub(" ", text)


PAGES = sorted(
    str(path.relative_to(DOCS)) for room in ("patterns", "tutorial", "warnings") for path in (DOCS / room).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_in_the_prose_of_a_page_stands_in_a_claim(page: str) -> None:
    """A number that nobody checks is wrong after the next change."""
    left = unclaimed((DOCS / page).read_text(), CLAIMS.get(page, []))
    numbers = [left[max(0, match.start() - 40) : match.end() + 20] for match in re.finditer(r"\d+", left)]
    assert not numbers, f"docs/{page} claims what no test checks; give CLAIMS in this file a line for each of {numbers}"


@pytest.mark.parametrize(("page", "index"), [(page, index) for page, claims in CLAIMS.items() for index in range(len(claims))])
def test_a_claim_stands_on_its_page_and_holds(page: str, index: int) -> None:
    """The other way round: a check whose words are gone guards nothing."""
    words, holds = CLAIMS[page][index]
    assert words in prose((DOCS / page).read_text()), f"docs/{page} does not say {words!r} any more"
    assert holds(), f"docs/{page} says {words!r}, which does not hold"


def test_a_number_without_a_claim_is_noticed() -> None:
    """A net with holes would be no net."""
    page = "# A\n\nIt waits 7 s, at most `64` times, see [SW001](SW001.md).\n```python\n8\n```\n| `a` | 9 | up to 6 |\n## Sources\n2020"
    assert re.findall(r"\d+", unclaimed(page, [])) == ["7", "6"]
    assert not re.findall(r"\d+", unclaimed(page, [("7 s", STATED), ("up to 6", STATED)]))
