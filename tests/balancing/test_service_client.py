"""The async service client against real servers, over each of its transports."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.balancing.servers import Backend, ListedWatch, backends

import seawall as sw
from seawall.balancing import Balancer, NoInstance, Outliers, PeakEwma, ServiceClient
from seawall.discovery import Instance, Registry

TRANSPORTS = ("httpx2", "httpx", "aiohttp")


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Backend]]:
    with backends("a b c") as found:
        yield found


@pytest.fixture
def servers(running: dict[str, Backend]) -> dict[str, Backend]:
    """Three instances that behave until a test says otherwise."""
    for backend in running.values():
        backend.behave()
    return running


def bare(*policies: Any, **more: Any) -> sw.Pipeline:
    return sw.Pipeline(*policies, name="stock", **more)


def quick_retry(attempts: int = 2) -> sw.Retry:
    return sw.Retry(attempts, backoff=sw.Backoff(base=0.001, cap=0.002), budget=None)


def client_of(servers: dict[str, Backend], names: str = "a b c", **more: Any) -> ServiceClient:
    watch = ListedWatch(*(servers[name].instance for name in names.split()))
    more.setdefault("pipeline", bare())
    return ServiceClient("stock", watch, **more)  # type: ignore[arg-type]


def asked(servers: dict[str, Backend]) -> dict[str, int]:
    return {name: len(backend.seen) for name, backend in servers.items() if backend.seen}


# --- the plain path


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_transport_sends_everything_and_hands_back_the_answer(servers: dict[str, Backend], transport: str) -> None:
    """Whichever HTTP client is there, a caller writes the same lines and reads the same answer."""

    async def scenario() -> None:
        async with client_of(servers, "a", transport=transport, headers={"X-App": "shop"}) as client:
            response = await client.post("/charge", params={"q": "1"}, headers={"X-More": "yes"}, json={"total": 3})
            assert response.status_code == 200
            assert response.json() == {"from": "a"}
            assert response.text == '{"from": "a"}'
            assert response.content == b'{"from": "a"}'
            assert response.headers["X-Instance"] == "a"
            response.raise_for_status()
            await client.put("/bytes", content=b"raw")
            await client.patch("/form", data={"a": "1"})
            await client.delete("/gone")
            assert (await client.head("/h")).status_code == 200
            servers["a"].status = 404
            missing = await client.get("/missing")
            assert missing.status_code == 404
            with pytest.raises(Exception, match="404"):
                missing.raise_for_status()

    asyncio.run(scenario())
    seen = servers["a"].seen
    assert [one["method"] for one in seen] == ["POST", "PUT", "PATCH", "DELETE", "HEAD", "GET"]
    assert (seen[0]["path"], seen[0]["query"], seen[0]["body"].replace(b" ", b"")) == ("/charge", "q=1", b'{"total":3}')
    assert (seen[0]["headers"]["x-app"], seen[0]["headers"]["x-more"]) == ("shop", "yes")
    assert (seen[1]["body"], seen[2]["body"]) == (b"raw", b"a=1")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_all_instances_are_asked_over_one_pool(servers: dict[str, Backend], transport: str) -> None:
    """A name stands for all of its instances; the keep-alive connection to the first must not pin the rest away."""

    async def scenario() -> None:
        async with client_of(servers, picker="round_robin", transport=transport) as client:
            for _ in range(30):
                await client.get("/x")

    asyncio.run(scenario())
    assert asked(servers) == {"a": 10, "b": 10, "c": 10}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_redirects_and_cookies_are_left_alone(servers: dict[str, Backend], transport: str) -> None:
    """A redirect leads past the balancer, and one instance's cookie is nothing to its siblings."""
    servers["a"].status, servers["a"].headers = 302, {"location": "http://127.0.0.1:1/evil", "set-cookie": "id=a; Path=/"}

    async def scenario() -> None:
        async with client_of(servers, "a b", picker="round_robin", transport=transport) as client:
            statuses = [(await client.get("/x")).status_code for _ in range(4)]
            assert sorted(statuses) == [200, 200, 302, 302]

    asyncio.run(scenario())
    assert not any("cookie" in one["headers"] for backend in servers.values() for one in backend.seen)


def test_a_registry_is_followed_while_the_client_is_open() -> None:
    """Register, find, call, deregister: the whole life cycle, with a real registry and a real server."""

    async def scenario() -> None:
        registry = Registry.open("memory:balancing-follow")
        with backends("one two") as found:
            one, two = (Instance("payments", port=backend.port) for backend in found.values())
            async with (
                registry.register(one),
                ServiceClient("payments", registry, pipeline=bare(), picker="round_robin") as client,
            ):
                assert (await client.get("/x")).json() == {"from": "one"}
                async with registry.register(two):
                    end = asyncio.get_running_loop().time() + 20
                    seen: set[str] = set()
                    while seen != {"one", "two"}:
                        assert asyncio.get_running_loop().time() < end
                        seen.add((await client.get("/x")).json()["from"])
                assert client.snapshot().source == "live"
                while len(client.snapshot().balancer.hosts) > 1:
                    assert asyncio.get_running_loop().time() < end
                    await asyncio.sleep(0.01)
                assert {(await client.get("/x")).json()["from"] for _ in range(5)} == {"one"}

    asyncio.run(scenario())


def test_headers_of_the_context_travel_and_keys_stay_the_same_through_retries(servers: dict[str, Backend]) -> None:
    """The callee can stop when the caller's time is over, and recognise a repeated charge."""
    servers["a"].status = servers["b"].status = 503

    async def scenario() -> None:
        pipeline = bare(sw.Timeout(5), quick_retry())
        async with client_of(servers, "a b", pipeline=pipeline) as client:
            response = await client.post("/charge", idempotency_key="order-42")
            assert response.status_code == 503
            await client.get("/levels")

    asyncio.run(scenario())
    posts = [one for backend in servers.values() for one in backend.seen if one["method"] == "POST"]
    assert [one["headers"]["idempotency-key"] for one in posts] == ["order-42"] * 2
    assert all(0 < int(one["headers"]["seawall-remaining-ms"]) <= 5000 for one in posts)
    gets = [one for backend in servers.values() for one in backend.seen if one["method"] == "GET"]
    assert not any("idempotency-key" in one["headers"] for one in gets)


def test_a_key_meets_one_instance(servers: dict[str, Backend]) -> None:
    """Sticky by what the request is about, without a cookie."""

    async def scenario() -> None:
        async with client_of(servers, picker="maglev") as client:
            for key in ("u1", "u2", "u3", "u4", "u5", "u6"):
                answers = {(await client.get("/x", key=key)).json()["from"] for _ in range(5)}
                assert len(answers) == 1

    asyncio.run(scenario())
    assert len(asked(servers)) > 1


# --- retries and hedges


def test_a_retry_goes_to_another_instance(servers: dict[str, Backend]) -> None:
    """The one that just failed is the least likely to answer well."""
    servers["a"].status = 500

    async def scenario() -> None:
        async with client_of(servers, "a b", pipeline=bare(quick_retry()), picker="round_robin") as client:
            statuses = [(await client.get("/x")).status_code for _ in range(20)]
            assert statuses == [200] * 20

    asyncio.run(scenario())
    assert asked(servers) == {"a": 3, "b": 20}


def test_a_retry_elsewhere_does_not_wait_for_the_one_that_asked_for_time(servers: dict[str, Backend]) -> None:
    """A draining instance says Retry-After about itself; its siblings can answer now."""
    servers["a"].status, servers["a"].headers = 503, {"retry-after": "20"}

    async def scenario() -> float:
        async with client_of(servers, "a b", pipeline=bare(quick_retry()), picker="round_robin") as client:
            began = asyncio.get_running_loop().time()
            assert {(await client.get("/x")).status_code for _ in range(6)} == {200}
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(scenario()) < 10
    assert len(servers["a"].seen) >= 1


def test_a_post_is_repeated_only_when_it_was_never_sent(servers: dict[str, Backend]) -> None:
    """A charge that may have happened is the caller's to judge; one that was refused at the door is not."""
    servers["a"].status = 500

    async def scenario() -> None:
        closed = Instance("stock", id="closed", port=free_port())
        pipeline, balancer = bare(quick_retry()), Balancer("round_robin", outliers=None)
        async with client_of(servers, "a", pipeline=pipeline) as client:
            assert (await client.post("/charge")).status_code == 500
        watch = ListedWatch(closed, servers["b"].instance)
        async with ServiceClient("stock", watch, pipeline=pipeline, balancer=balancer) as client:  # type: ignore[arg-type]
            for _ in range(6):
                assert (await client.post("/charge")).json() == {"from": "b"}
            assert watch.reported == ["closed"] * 6

    asyncio.run(scenario())
    assert asked(servers) == {"a": 1, "b": 6}


def test_a_hedge_goes_to_another_instance(servers: dict[str, Backend]) -> None:
    """A copy to the same slow instance would wait in the same queue."""
    servers["a"].delay = 2.0

    async def scenario() -> None:
        hedge = sw.Hedge(0.05, budget=None)
        async with client_of(servers, "a b", pipeline=bare(hedge), picker="round_robin") as client:
            answers = Counter([(await client.get("/x")).json()["from"] for _ in range(6)])
            assert answers == {"b": 6}
            assert all(host.pending == 0 for host in client.snapshot().balancer.hosts)

    asyncio.run(scenario())
    assert asked(servers)["a"] >= 2


def test_neither_goes_to_an_ejected_instance(servers: dict[str, Backend]) -> None:
    """With one of two ejected, a retry asks the good one again rather than the bad one."""
    servers["a"].status = 500

    async def scenario() -> None:
        async with client_of(servers, "a b", pipeline=bare(quick_retry(4)), picker="round_robin") as client:
            for _ in range(8):
                await client.get("/x")
            assert {host.instance.id: host.status for host in client.snapshot().balancer.hosts} == {"a": "ejected", "b": "ready"}
            before = len(servers["a"].seen)
            servers["b"].status = 500
            assert (await client.get("/x")).status_code == 500
            assert len(servers["a"].seen) == before

    asyncio.run(scenario())


# --- what is told of whom


def test_one_bad_instance_never_opens_the_services_circuit(servers: dict[str, Backend]) -> None:
    """A third of the service is ill; refusing all calls would make it the whole."""
    servers["a"].status = 500

    async def scenario() -> None:
        breaker = sw.CircuitBreaker(consecutive_failures=1, failure_ratio=0.05, minimum_calls=1)
        balancer = Balancer("random", outliers=None)
        async with client_of(servers, pipeline=bare(breaker), balancer=balancer) as client:
            await asyncio.gather(*(client.get("/x") for _ in range(60)))
            assert breaker.state == "closed"
            assert len(servers["a"].seen) > 5
            for backend in servers.values():
                backend.status = 500
            for _ in range(10):
                with pytest.raises(sw.CircuitOpen):
                    for _ in range(30):
                        await client.get("/x")
            assert breaker.state == "open"

    asyncio.run(scenario())


def test_one_hung_instance_does_not_open_it_either(servers: dict[str, Backend]) -> None:
    """A limit inside the circuit, or around it, that cuts a hung instance's requests is evidence about that instance."""
    servers["a"].hangs = True

    async def scenario() -> None:
        for inside in (True, False):
            breaker = sw.CircuitBreaker(consecutive_failures=1, failure_ratio=0.05, minimum_calls=1)
            limit = sw.Timeout(0.2)
            pipeline = bare(breaker, limit) if inside else bare(limit, breaker)
            async with client_of(servers, pipeline=pipeline, picker="round_robin") as client:
                endings = await asyncio.gather(*(client.get("/x") for _ in range(12)), return_exceptions=True)
                assert sum(isinstance(ending, sw.TimedOut) for ending in endings) == 4
                assert breaker.state == "closed", inside
                statuses = {host.instance.id: host.status for host in client.snapshot().balancer.hosts}
                assert statuses == {"a": "ejected", "b": "ready", "c": "ready"}

    asyncio.run(scenario())


def test_a_caller_that_gives_up_blames_nobody(servers: dict[str, Backend]) -> None:
    """Impatience is not evidence; but it says that the answer takes at least so long."""
    for backend in servers.values():
        backend.delay = 0.4

    async def scenario() -> None:
        async with client_of(servers) as client:
            for _ in range(9):
                with pytest.raises(TimeoutError), sw.deadline(0.02):
                    await client.get("/x")
            for _ in range(3):
                task = asyncio.create_task(client.get("/x"))  # type: ignore[arg-type]
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            hosts = client.snapshot().balancer.hosts
            assert {(host.status, host.pending, host.success) for host in hosts} == {("ready", 0, 1.0)}
            assert all(host.latency > 0.01 for host in hosts)

    asyncio.run(scenario())


def test_answers_of_400_and_429_eject_nobody(servers: dict[str, Backend]) -> None:
    """A client that sends nonsense must not take the service down for others."""
    for backend, status in zip(servers.values(), (404, 429, 400), strict=True):
        backend.status = status

    async def scenario() -> None:
        async with client_of(servers, picker="round_robin") as client:
            statuses = Counter([(await client.get("/x")).status_code for _ in range(30)])
            assert statuses == {404: 10, 429: 10, 400: 10}

    asyncio.run(scenario())


def test_a_refused_connection_is_told_to_the_watch_and_ejects(servers: dict[str, Backend]) -> None:
    """A registry that only holds an instance back lets go of it once somebody cannot connect."""
    closed = Instance("stock", id="closed", port=free_port())
    watch = ListedWatch(closed, servers["b"].instance)

    async def scenario() -> None:
        async with ServiceClient("stock", watch, pipeline=bare(quick_retry())) as client:  # type: ignore[arg-type]
            for _ in range(20):
                assert (await client.get("/x")).json() == {"from": "b"}

    asyncio.run(scenario())
    assert watch.reported == ["closed"]


# --- streams


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stream_counts_until_its_first_byte_and_holds_its_instance_until_the_end(
    servers: dict[str, Backend], transport: str
) -> None:
    """The length of a stream is no latency; but a request that runs is a request that runs."""
    servers["a"].chunks, servers["a"].pause = 5, 0.1

    async def scenario() -> None:
        async with client_of(servers, "a", transport=transport) as client:
            async with client.stream("GET", "/feed") as response:
                assert response.status_code == 200
                assert response.headers["X-Instance"] == "a"
                assert client.snapshot().balancer.hosts[0].pending == 1
                assert client.running == 1
                assert b"".join([piece async for piece in response.aiter_bytes()]) == b"piece;" * 5
            host = client.snapshot().balancer.hosts[0]
            assert (host.pending, client.running) == (0, 0)
            assert host.latency < 0.3
            async with client.stream("GET", "/feed") as response:
                assert await response.aread() == b"piece;" * 5

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stream_that_breaks_counts_against_the_instance_and_an_error_of_the_block_does_not(
    servers: dict[str, Backend], transport: str
) -> None:
    """Half an answer is no answer; but the caller's own mistakes are nobody else's."""
    servers["a"].chunks, servers["a"].pause = 3, 0.01

    async def scenario() -> None:
        breaker = sw.CircuitBreaker(consecutive_failures=1)
        balancer = Balancer(outliers=Outliers(consecutive_failures=1))
        async with client_of(servers, "a", transport=transport, pipeline=bare(breaker), balancer=balancer) as client:
            for _ in range(3):
                with pytest.raises(LookupError, match="mine"):
                    async with client.stream("GET", "/feed"):
                        raise LookupError("mine")
            async with client.stream("GET", "/feed"):
                pass  # left early
            assert breaker.state == "closed"
            assert client.snapshot().balancer.hosts[0].success == 1.0
            servers["a"].breaks = True
            with pytest.raises(Exception) as caught:  # each client has an error of its own for this
                async with client.stream("GET", "/feed") as response:
                    async for _ in response.aiter_bytes():
                        pass
            assert type(caught.value).__module__.partition(".")[0] == transport
            assert client.snapshot().balancer.hosts[0].success < 1.0
            assert breaker.state == "open"
            assert client.running == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_opening_a_stream_is_retried_elsewhere(servers: dict[str, Backend], transport: str) -> None:
    """Nothing was read yet, so nothing is lost."""
    servers["a"].status = 503
    servers["b"].chunks = 2

    async def scenario() -> None:
        async with client_of(servers, "a b", transport=transport, pipeline=bare(quick_retry()), picker="round_robin") as client:
            for _ in range(4):
                async with client.stream("GET", "/feed") as response:
                    assert await response.aread() == b"piece;" * 2
            servers["b"].status, servers["b"].chunks = 503, 1
            async with client.stream("GET", "/feed") as response:
                assert response.status_code == 503
                assert await response.aread() != b""
            assert all(host.pending == 0 for host in client.snapshot().balancer.hosts)

    asyncio.run(scenario())


# --- life


def test_nobody_known_is_said_at_once_and_the_wait_is_bounded() -> None:
    """A service that is not there must not hang its callers."""

    async def scenario() -> None:
        async with ServiceClient("nobody", "memory:", wait=0.05) as client:
            with pytest.raises(NoInstance, match="nobody knows no instance"):
                await client.get("/x")

    asyncio.run(scenario())


def test_leaving_the_block_lets_requests_end_and_takes_no_new_ones(servers: dict[str, Backend]) -> None:
    """A process that stops must not turn its last requests into errors."""
    servers["a"].delay = 0.3

    async def scenario() -> None:
        client = client_of(servers, "a")
        async with client:
            task = asyncio.create_task(client.get("/x"))  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
            assert client.running == 1
        assert task.done()
        assert (await task).status_code == 200
        with pytest.raises(RuntimeError, match="not open"):
            await client.get("/x")
        await client.aclose()

    asyncio.run(scenario())


def test_leaving_the_block_does_not_wait_for_ever(servers: dict[str, Backend]) -> None:
    """A hung instance must not hold a process up."""
    servers["a"].hangs = True

    async def scenario() -> None:
        client = client_of(servers, "a", drain=0.1)
        async with client:
            task = asyncio.create_task(client.get("/x"))  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert client.running == 0

    asyncio.run(scenario())


def test_a_client_that_cannot_begin_leaves_nothing_behind() -> None:
    """The watch of a client whose pool could not be made would go on for the life of the process."""

    async def scenario() -> None:
        registry = Registry.open("memory:")
        client = ServiceClient("stock", registry, pipeline=bare(), headers={"A": "b"})
        client._transport_name = "no such"  # as if its package had been taken away since
        with pytest.raises(ValueError, match="no such"):
            await client.start()
        assert registry.snapshot().watches == ()

    asyncio.run(scenario())


def test_a_client_made_elsewhere_is_used_and_left_open(servers: dict[str, Backend]) -> None:
    """Applications have clients with hooks and certificates of their own."""
    import httpx2

    from seawall.balancing.clients.over_httpx2 import AsyncTransport

    async def scenario() -> None:
        async with httpx2.AsyncClient(headers={"X-Mine": "1"}, trust_env=False) as mine:
            async with client_of(servers, "a", transport=AsyncTransport(client=mine)) as client:
                await client.get("/x")
            assert not mine.is_closed

    asyncio.run(scenario())
    assert servers["a"].seen[0]["headers"]["x-mine"] == "1"


def test_events_and_the_pipelines_own_listeners_hear_it(servers: dict[str, Backend]) -> None:
    """Who subscribed to the pipeline before it was given to a client still hears of its calls."""
    servers["a"].status = 500
    told: list[str] = []
    heard: list[str] = []

    async def scenario() -> None:
        pipeline = bare(quick_retry())
        pipeline.subscribe(lambda event: told.append(event.kind))
        client = client_of(servers, "a b", pipeline=pipeline, picker="round_robin")
        client.subscribe(lambda event: heard.append(event.kind))
        async with client:
            for _ in range(6):
                await client.get("/x")

    asyncio.run(scenario())
    assert told.count("call.ended") == 6
    assert {"call.ended", "balancer.changed", "balancer.ejected", "retry.scheduled"} <= set(heard)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"registry": 3}, "registry"),
        ({"pipeline": sw.Timeout(1)}, "pipeline"),
        ({"transport": "curl"}, "transport"),
        ({"transport": 3}, "transport"),
        ({"idle": -1}, "idle"),
        ({"wait": -1}, "wait"),
        ({"drain": "soon"}, "drain"),
        ({"service": "a b"}, "service"),
        ({"balancer": Balancer(PeakEwma()), "zone": "a"}, "balancer"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, Any], word: str) -> None:
    """A wrong word is found where it is written, not in the first request at night."""
    settings: dict[str, Any] = {"service": "stock", "registry": ListedWatch(), "pipeline": bare()} | wrong
    with pytest.raises((ValueError, TypeError), match=word):
        ServiceClient(settings.pop("service"), settings.pop("registry"), **settings)


@pytest.mark.parametrize(
    ("path", "options", "word"),
    [
        ("http://evil/x", {}, "path"),
        ("x", {}, "path"),
        ("/x", {"json": 1, "content": b""}, "one body"),
        ("/x", {"content": iter(())}, "content"),
        ("/x", {"timeout": 3}, "timeout"),
        ("/x", {"idempotency_key": ""}, "idempotency_key"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(servers: dict[str, Backend], path: str, options: Any, word: str) -> None:
    """Above all, a path must not choose the host."""

    async def scenario() -> None:
        async with client_of(servers, "a") as client:
            with pytest.raises((ValueError, TypeError), match=word):
                await client.post(path, **options)
            assert client.running == 0

    asyncio.run(scenario())
    assert asked(servers) == {}


def test_a_dead_server_that_comes_back_is_found_again() -> None:
    """kill and restart of one instance under traffic: no failed call, and its traffic returns."""

    async def scenario(found: dict[str, Backend]) -> None:
        balancer = Balancer("round_robin", outliers=Outliers(eject_for=0.3))
        async with client_of(found, "one two", pipeline=bare(quick_retry()), balancer=balancer) as client:
            for _ in range(10):
                await client.get("/x")
            await asyncio.to_thread(found["one"].stop)
            for _ in range(20):
                assert (await client.get("/x")).json() == {"from": "two"}
            await asyncio.to_thread(found["one"].start)
            end = asyncio.get_running_loop().time() + 20
            while (await client.get("/x")).json() != {"from": "one"}:
                assert asyncio.get_running_loop().time() < end
                await asyncio.sleep(0.02)

    with backends("one two") as found:
        asyncio.run(scenario(found))


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
