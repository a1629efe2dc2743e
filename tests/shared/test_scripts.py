"""The script on the server against the rules of policies/: the same asks at the same moments, the same answers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from seawall.core.units import Limit
from seawall.shared.memory import MemoryStore
from seawall.shared.port import CHARGE, CODES, HOLD, LEASE, PEEK, RESET, TAKE, Answer, Ask, Program, part, program
from seawall.shared.quota import Quota
from seawall.shared.redis import RedisStore, Script
from seawall.testing import VirtualClock
from seawall.testing.servers import RedisServer

CLOCK = "local clock = redis.call('TIME')"
SAME_CLOCK = "local clock = {redis.call('GET', 'now:s'), redis.call('GET', 'now:us')}"
SPECS = ["10/s", "7/3s burst 12", "1/s burst 3", "1000/s burst 5", "3/min"]


class Twins:
    """The script, told the time and without expiry, beside the reference; both are asked everything."""

    def __init__(self, server: RedisServer) -> None:
        source = Script.named("step").source.decode()
        assert CLOCK in source
        source = source.replace(CLOCK, SAME_CLOCK)
        source = source.replace(", 'PX', string.format('%.0f', max(1, ceil(micros / 1000)))", "").replace(", 'PX', ttl", "")
        source = source.replace("redis.call('PEXPIRE'", "redis.call('TOUCH', s.key) local _ = tostring(")
        source = source.replace("local _ = tostring(, s.key,", "local _ = tostring(")
        self.store = RedisStore(server.url, budget=5, script=Script(source))
        self.clock = VirtualClock(seed=0)
        self.memory = MemoryStore(clock=self.clock)
        self.setter = Script("redis.call('SET', 'now:s', ARGV[1]) redis.call('SET', 'now:us', ARGV[2]) return 1")

    def advance(self, micros: int) -> None:
        """Let both clocks go on by whole microseconds."""
        self.clock.advance(micros / 1e6)
        now = self.memory.now()
        self.store.call(self.setter, [], [str(now // 1_000_000), str(now % 1_000_000)])

    def ask(self, ask: Ask) -> Answer:
        """The answer of both, which is the same."""
        mine, theirs = self.memory.ask(ask), self.store.ask(ask)
        assert mine == theirs, ask
        return mine


@pytest.fixture(params=["valkey", "redis"])
def twins(request: pytest.FixtureRequest) -> Iterator[Twins]:
    """A server of its own, because its time is told."""
    with RedisServer(request.param) as server:
        made = Twins(server)
        made.advance(1)
        yield made
        made.store.close()


def random_ask(rng: random.Random, keys: tuple[str, ...], made: Program, most: int, now: int, *, leases: bool) -> Ask:
    """Any verb, most often a take."""
    verb = rng.choice([TAKE] * 6 + [PEEK, CHARGE, CHARGE, HOLD, RESET] + ([LEASE] * 3 if leases else []))
    ask = Ask(verb, keys, made, cost=rng.randint(0, most))
    if verb == CHARGE:
        ask.x = rng.randint(-most, most)
        ask.y = now - rng.choice([0, 0, 1000, 900_000, 2_000_000])
    elif verb == HOLD:
        ask.x = rng.choice([1, 1000, 300_000, 2_500_000])
    elif verb == LEASE:
        ask.cost, ask.y = max(1, ask.cost), rng.choice([0, 0, 1, 2])
        ask.x = rng.randint(1, ask.cost)
    return ask


@pytest.mark.parametrize("algorithm", CODES)
@pytest.mark.parametrize("spec", SPECS)
def test_the_script_answers_as_the_rules_do(twins: Twins, algorithm: str, spec: str) -> None:
    """A script that decides a little differently is a limit that nobody has proved."""
    limit = Limit.parse(spec)
    if algorithm not in ("token_bucket", "leaky_bucket"):
        limit = Limit(limit.count, limit.per)
    rng = random.Random(f"{algorithm} {spec}")
    made = program([part(limit, algorithm, now=0.0)])
    for step in range(250):
        key = (f"{algorithm}:{spec}:{rng.randint(0, 1)}",)
        ask = random_ask(rng, key, made, min(limit.capacity, 12) + 1, twins.memory.now(), leases=algorithm == "token_bucket")
        if ask.verb == LEASE:
            ask.cost, ask.x = min(ask.cost, limit.capacity), min(ask.x, limit.capacity)
        twins.ask(ask)
        twins.advance(rng.choice([0, 0, 1, 37, 5_000, 50_000, 333_333, 1_000_000, 2_900_001]) if step % 7 else 10_000_000)


def test_the_script_decides_several_limits_as_the_rules_do(twins: Twins) -> None:
    """All or none, with the same one binding."""
    rng = random.Random(4)
    limits = [Limit.parse("10/s"), Limit.parse("20/5s"), Limit.parse("100/min burst 40")]
    made = program([part(limit, "token_bucket", now=0.0) for limit in limits])
    for _ in range(400):
        twins.ask(random_ask(rng, ("m:0", "m:1", "m:2"), made, 12, twins.memory.now(), leases=False))
        twins.advance(rng.choice([0, 1, 20_000, 400_000, 3_000_000]))


def test_the_script_keeps_calendars_as_the_rules_do(twins: Twins) -> None:
    """Windows of unequal length, across boundaries, with the bounds renewed as a limiter renews them."""
    rng = random.Random(5)
    quota = Quota(6, every="hour", tz="Asia/Kolkata")
    for step in range(300):
        if step % 3 == 0:
            made = program([part(quota, "token_bucket", now=twins.memory.now() / 1e6)])
        twins.ask(random_ask(rng, ("q",), made, 7, twins.memory.now(), leases=False))
        twins.advance(rng.choice([0, 1_000_000, 60_000_000, 900_000_000]))


@pytest.mark.parametrize("algorithm", CODES)
def test_the_script_carries_debt_to_other_limits_as_the_rules_do(twins: Twins, algorithm: str) -> None:
    """Limits change while keys owe."""
    limits = [Limit(10, 1.0), Limit(40, 1.0), Limit(5, 2.0), Limit(10, 4.0)]
    if algorithm == "sliding_log":  # the rules forget under the old length, the script under the new one: it is the stricter
        limits = [Limit(10, 1.0), Limit(40, 1.0), Limit(5, 1.0)]
    rng = random.Random(6)
    for _ in range(250):
        made = program([part(rng.choice(limits), algorithm, now=0.0)])
        twins.ask(Ask(rng.choice([TAKE, TAKE, PEEK]), ("c",), made, cost=rng.randint(1, 5)))
        twins.advance(rng.choice([0, 50_000, 250_000, 1_000_000]))


def test_a_batch_is_decided_in_order_and_nobody_overtakes(twins: Twins) -> None:
    """A small cost that came later must not pass a large one that waits, not even inside one script call."""
    made = program([part(Limit.parse("10/s"), "token_bucket", now=0.0)])

    def asks() -> list[Ask]:
        return [
            Ask(TAKE, ("k",), made, 8),
            Ask(TAKE, ("k",), made, 5, waits=True),
            Ask(TAKE, ("k",), made, 1, waits=True),
            Ask(TAKE, ("other",), made, 1),
        ]

    mine, theirs = twins.memory.ask_all(asks()), twins.store.ask_all(asks())
    assert [answer.granted for answer in mine] == [answer.granted for answer in theirs] == [1, 0, 0, 1]


def test_a_key_lives_as_long_as_it_says_something(valkey: RedisServer, unique: str) -> None:
    """Every key has a TTL, none is written for a refusal, and none is larger than it must be."""
    store = RedisStore(valkey.url, budget=5)
    look: Any = Script(
        "return {redis.call('PTTL', KEYS[1]), redis.call('MEMORY', 'USAGE', KEYS[1]), redis.call('TYPE', KEYS[1])}"
    )
    for algorithm in CODES:
        made = program([part(Limit.parse("10/min"), algorithm, now=0.0)])
        key = f"{unique}:{algorithm}"
        assert store.ask(Ask(TAKE, (key,), made, 5)).granted
        ttl, size, _ = store.call(look, [key], [])
        assert 0 < ttl <= 120_000
        assert size <= 200
        before = store.call(Script("return redis.call('DUMP', KEYS[1])"), [key], [])
        assert not store.ask(Ask(TAKE, (key,), made, 6)).granted
        assert store.call(Script("return redis.call('DUMP', KEYS[1])"), [key], []) == before
        assert not store.ask(Ask(TAKE, (f"{key}:new",), made, 11)).granted
        assert store.call(look, [f"{key}:new"], [])[0] == -2
    store.close()


def test_a_clock_that_goes_back_neither_blocks_a_key_nor_frees_it(twins: Twins) -> None:
    """After a failover the new primary's clock may be behind: debt stays, and drains from there."""
    made = program([part(Limit.parse("10/s"), "token_bucket", now=0.0)])
    now = twins.memory.now()
    assert twins.store.ask(Ask(TAKE, ("back",), made, 10)).granted
    twins.store.call(twins.setter, [], [str(now // 1_000_000 - 3600), "0"])
    refused = twins.store.ask(Ask(TAKE, ("back",), made, 1))
    assert (refused.granted, refused.wait) == (0, 100_000)
    twins.store.call(twins.setter, [], [str(now // 1_000_000 - 3600), "100000"])
    assert twins.store.ask(Ask(TAKE, ("back",), made, 1)).granted
