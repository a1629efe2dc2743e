"""What may happen to instances while a client calls them: failing, hanging, dying, crawling, leaving, nearly all falling ill.

The service goes on: with one retry at least 99.9 % of the calls succeed while one of two instances fails, in whatever way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from tests.balancing.servers import Backend, ListedWatch, backends

import seawall as sw
from seawall.balancing import Balancer, Outliers, ServiceClient
from seawall.discovery import Instance, Registry

MODES = ("error", "overloaded", "refused", "reset", "hung")


def guarded(attempts: int = 2) -> sw.Pipeline:
    """What the promise is made for: one retry, with the budget that comes with it, and a circuit that would open early."""
    return sw.Pipeline(
        sw.Timeout(10, name="total"),
        sw.Retry(attempts, backoff=sw.Backoff(base=0.01, cap=0.05)),
        sw.CircuitBreaker(failure_ratio=0.3, minimum_calls=5),
        sw.Timeout(1, name="attempt"),
        name="stock",
    )


async def one_call(client: ServiceClient) -> str:
    """How one call ended: who answered, or the name of what went wrong."""
    try:
        response = await client.get("/x")
    except Exception as error:
        return type(error).__name__
    return str(response.json()["from"]) if response.status_code == 200 else str(response.status_code)


class Traffic:
    """Callers that go on until they made so many calls, or are told to end. endings: of their calls so far."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client
        self.endings: Counter[str] = Counter()
        self.going = True

    async def run(self, calls: float, at_once: int, pause: float = 0.0) -> Counter[str]:
        left = itertools.count()

        async def caller() -> None:
            while self.going and next(left) < calls:
                self.endings[await one_call(self._client)] += 1
                await asyncio.sleep(pause)

        await asyncio.gather(*(caller() for _ in range(at_once)))
        return self.endings


async def load(client: ServiceClient, calls: int, at_once: int) -> Counter[str]:
    """How so many calls by so many callers ended."""
    return await Traffic(client).run(calls, at_once)


def misbehave(backend: Backend, mode: str) -> None:
    """Fail from now on, in one way."""
    if mode == "refused":
        backend.stop()
    backend.status = {"error": 500, "overloaded": 503}.get(mode, 200)
    backend.breaks, backend.hangs = mode == "reset", mode == "hung"


def fail_one_of_two(mode: str, calls: int, at_once: int) -> tuple[Counter[str], Counter[str], Any]:
    """The endings before and after one of two instances begins to fail under traffic, and the client's last snapshot."""

    async def scenario(found: dict[str, Backend]) -> Any:
        watch: Any = ListedWatch(*(backend.instance for backend in found.values()))
        async with ServiceClient("stock", watch, pipeline=guarded()) as client:
            before = await load(client, 20 * at_once, at_once)  # the retry budget is a share of the traffic that was
            await asyncio.to_thread(misbehave, found["bad"], mode)
            after = await load(client, calls, at_once)
            return before, after, client.snapshot()

    with backends("bad good") as found:
        return asyncio.run(scenario(found))  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", MODES)
def test_one_of_two_failing_costs_less_than_one_call_in_a_thousand(mode: str) -> None:
    """The promise of the whole room, with one retry and its budget, on real servers."""
    before, after, snapshot = fail_one_of_two(mode, calls=1500, at_once=10)
    assert set(before) == {"bad", "good"}
    succeeded = after["good"] + after["bad"]
    print(mode, dict(after))
    assert succeeded >= 0.999 * after.total()
    statuses = {host.instance.id: host.status for host in snapshot.balancer.hosts}
    assert statuses["bad"] != "ready"
    assert statuses["good"] == "ready"


@pytest.mark.soak
def test_one_of_two_failing_at_length(soak_seconds: float) -> None:
    """The same with many more callers and calls, in every way in turn."""
    calls = max(1500, int(soak_seconds * 40))
    for mode in MODES:
        _, after, _ = fail_one_of_two(mode, calls=calls, at_once=50)
        print(mode, dict(after))
        assert after["good"] + after["bad"] >= 0.999 * after.total(), mode


def test_a_crawling_instance_is_left_nearly_alone() -> None:
    """It fails nothing, so nothing but its latency tells; the others must carry the traffic."""

    async def scenario(found: dict[str, Backend]) -> tuple[Counter[str], float]:
        watch: Any = ListedWatch(*(backend.instance for backend in found.values()))
        async with ServiceClient("stock", watch, pipeline=guarded()) as client:
            await load(client, 100, 5)
            found["slow"].delay = 0.25
            endings = await load(client, 800, 5)
            return endings, min(host.latency for host in client.snapshot().balancer.hosts)

    with backends("slow one two") as found:
        endings, latency = asyncio.run(scenario(found))
    assert endings.total() == endings["slow"] + endings["one"] + endings["two"]
    assert endings["slow"] < 0.05 * endings.total(), endings
    assert latency < 0.25


def test_when_nearly_all_are_ill_those_that_recovered_are_found() -> None:
    """Panic: two of three are ejected for a long time, but well again; one alone would have to carry everything."""

    async def scenario(found: dict[str, Backend]) -> tuple[Counter[str], list[str]]:
        watch: Any = ListedWatch(*(backend.instance for backend in found.values()))
        told: list[str] = []
        balancer = Balancer("random", outliers=Outliers(eject_for=200))
        pipeline = sw.Pipeline(sw.Retry(4, backoff=sw.Backoff(base=0.001), budget=None), name="stock")
        async with ServiceClient("stock", watch, pipeline=pipeline, balancer=balancer) as client:
            client.subscribe(lambda event: told.append(event.kind))
            found["a"].status = found["b"].status = 503
            await load(client, 100, 5)
            assert told.count("balancer.ejected") == 2
            found["a"].status = found["b"].status = 200
            watch.say(*(found[name].instance for name in "abc"))
            endings = await load(client, 100, 5)
            return endings, told

    with backends("a b c d") as found:
        endings, told = asyncio.run(scenario(found))
    assert {"balancer.panicked", "balancer.readmitted", "balancer.calmed"} <= set(told)
    assert set(endings) <= {"a", "b", "c"}
    assert len(endings) > 1


def test_instances_that_leave_politely_cost_no_call() -> None:
    """A deploy: each instance says that it drains, waits until that was heard, and goes; a new one takes its place."""

    async def scenario(found: dict[str, Backend]) -> Counter[str]:
        registry = Registry.open("memory:")
        pipeline = sw.Pipeline(sw.Timeout(5), name="payments")  # no retry: each failed attempt would be seen
        async with ServiceClient("payments", registry, pipeline=pipeline) as client, contextlib.AsyncExitStack() as stack:

            async def enter(name: str) -> Any:
                one = registry.register(Instance("payments", id=name, port=found[name].port))
                return await stack.enter_async_context(one)

            held = {name: await enter(name) for name in found}
            await eventually(lambda: len(client.snapshot().balancer.hosts) == 3)
            traffic = Traffic(client)
            calling = asyncio.ensure_future(traffic.run(float("inf"), 4, 0.005))
            for name in list(found) * 2:
                await held[name].draining()
                await eventually(lambda gone=name: gone not in {host.instance.id for host in client.snapshot().balancer.hosts})
                await asyncio.sleep(0.05)  # what was under way
                await held[name].deregister()
                await asyncio.to_thread(found[name].stop)
                await asyncio.to_thread(found[name].start)
                held[name] = await enter(name)
                await eventually(lambda: len(client.snapshot().balancer.hosts) == 3)
                await asyncio.sleep(0.05)
            traffic.going = False
            return await calling

    with backends("a b c") as found:
        endings = asyncio.run(scenario(found))
    print(dict(endings))
    assert set(endings) == {"a", "b", "c"}
    assert endings.total() > 100


TTL, WATCH_DELAY = 1.0, 0.15
MEMBER = """
    import asyncio, sys
    from seawall.discovery import Instance, Registry

    async def serve(reader, writer):
        body = b'{"from": "%s"}' % sys.argv[2].encode()
        try:
            while await reader.readuntil(b"\\r\\n\\r\\n"):
                writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Registry.open(sys.argv[1], ttl=1.0).register(Instance("payments", port=port, id=sys.argv[2])):
            await asyncio.Event().wait()

    asyncio.run(main())
"""


@pytest.mark.soak
def test_killing_instances_fails_no_call(tmp_path: Path, soak_seconds: float, soak_seed: int) -> None:
    """kill -9 of a random one of three, again and again, under traffic: with one retry no idempotent call fails, and the dead one
    is asked no later than its time to live, the delay of the watch and one probe after its death."""
    kills, chance = max(3, min(200, int(soak_seconds / 3))), random.Random(soak_seed)
    url = f"sqlite:///{tmp_path}/registry.db"
    members: dict[str, Popen[bytes]] = {}
    killed_at = 0.0
    late: list[float] = []
    numbers = itertools.count()

    def start() -> None:
        name = f"m{next(numbers)}"
        members[name] = Popen([sys.executable, "-c", textwrap.dedent(MEMBER), url, name])

    def asked(event: sw.Event) -> None:
        if event.kind == "retry.scheduled":  # an attempt failed: it was at the one that was killed last
            late.append(time.monotonic() - killed_at)

    async def scenario() -> Counter[str]:
        nonlocal killed_at
        async with ServiceClient("payments", Registry.open(url, ttl=TTL), pipeline=guarded()) as client:
            client.subscribe(asked)

            def ready() -> set[str]:
                return {host.instance.id for host in client.snapshot().balancer.hosts}

            for _ in range(3):
                start()
            await eventually(lambda: ready() == set(members))
            traffic = Traffic(client)
            calling = asyncio.ensure_future(traffic.run(float("inf"), 4, 0.005))
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.1, TTL / 2))
                name = chance.choice(sorted(members))
                killed_at = time.monotonic()
                members[name].kill()
                members.pop(name).wait(10)
                start()
                await eventually(lambda: ready() == set(members))
            traffic.going = False
            return await calling

    try:
        endings = asyncio.run(scenario())
    finally:
        for process in members.values():
            process.kill()
            process.wait(10)
    failed = {name: count for name, count in endings.items() if not name.startswith("m")}
    print(f"{kills} kills, {endings.total()} calls, failed {failed}, latest try at the dead {max(late, default=0.0):.2f} s after")
    assert not failed
    assert late
    assert max(late) <= TTL + WATCH_DELAY + Outliers().eject_for
    assert endings.total() > 50 * kills


async def eventually(holds: Any, seconds: float = 30.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        await asyncio.sleep(0.005)
