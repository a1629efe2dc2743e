"""The service client for threads against real servers, over each of its transports."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.balancing.servers import Backend, ListedWatch, backends, until

import seawall as sw
from seawall.balancing import Balancer, NoInstance, Outliers, SyncServiceClient
from seawall.balancing.clients import transport_of
from seawall.core.errors import WrongTwin
from seawall.discovery import Instance, Registry

TRANSPORTS = ("httpx2", "httpx")


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


def bare(*policies: Any) -> sw.Pipeline:
    return sw.Pipeline(*policies, name="stock")


def quick_retry(attempts: int = 2) -> sw.Retry:
    return sw.Retry(attempts, backoff=sw.Backoff(base=0.001, cap=0.002), budget=None)


def client_of(servers: dict[str, Backend], names: str = "a b c", **more: Any) -> SyncServiceClient:
    watch = ListedWatch(*(servers[name].instance for name in names.split()))
    more.setdefault("pipeline", bare())
    return SyncServiceClient("stock", watch, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_transport_sends_everything_and_hands_back_the_answer(servers: dict[str, Backend], transport: str) -> None:
    """Code without an event loop gets the same verbs and the same answers."""
    with client_of(servers, "a", transport=transport, headers={"X-App": "shop"}) as client:
        response = client.post("/charge", params={"q": "1"}, json={"total": 3})
        assert (response.status_code, response.json(), response.headers["x-instance"]) == (200, {"from": "a"}, "a")
        client.put("/bytes", content=b"raw")
        client.patch("/form", data={"a": "1"})
        client.delete("/gone")
        assert client.head("/h").status_code == 200
        assert client.get("/x").content == b'{"from": "a"}'
    assert [one["method"] for one in servers["a"].seen] == ["POST", "PUT", "PATCH", "DELETE", "HEAD", "GET"]
    assert all(one["headers"]["x-app"] == "shop" for one in servers["a"].seen)


def test_threads_share_one_client(servers: dict[str, Backend]) -> None:
    """One pool and one balancer for all threads of a process, with counts that come out even."""
    with client_of(servers, picker="round_robin") as client, ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(lambda _: client.get("/x").json()["from"], range(120)))
        assert answers == {"a": 40, "b": 40, "c": 40}
        assert (client.running, {host.pending for host in client.snapshot().balancer.hosts}) == (0, {0})


def test_a_registry_is_followed_from_the_background(servers: dict[str, Backend]) -> None:
    """The watch runs on a thread of its own; the caller sees its news without asking for them."""
    registry = Registry.open("memory:balancing-sync")
    first, second = (Instance("payments", port=servers[name].port) for name in "ab")
    with registry.register(first), SyncServiceClient("payments", registry, pipeline=bare(), picker="round_robin") as client:
        assert client.get("/x").json() == {"from": "a"}
        with registry.register(second):
            until(lambda: client.get("/x").json() == {"from": "b"})
        until(lambda: len(client.snapshot().balancer.hosts) == 1)
        assert {client.get("/x").json()["from"] for _ in range(4)} == {"a"}


def test_a_retry_and_a_hedge_go_to_another_instance(servers: dict[str, Backend]) -> None:
    """The same promise as for tasks, with copies on worker threads."""
    servers["a"].status = 500
    with client_of(servers, "a b", pipeline=bare(quick_retry()), picker="round_robin") as client:
        assert {client.get("/x").status_code for _ in range(10)} == {200}
    servers["a"].behave()
    servers["a"].delay = 1.0
    with client_of(servers, "a b", pipeline=bare(sw.Hedge(0.05, budget=None)), picker="round_robin") as client:
        assert {client.get("/x").json()["from"] for _ in range(4)} == {"b"}
        until(lambda: all(host.pending == 0 for host in client.snapshot().balancer.hosts))


def test_one_bad_instance_never_opens_the_services_circuit(servers: dict[str, Backend]) -> None:
    """As for tasks: the classifier sees which attempt of this very thread failed."""
    servers["a"].status = 500
    breaker = sw.CircuitBreaker(consecutive_failures=1, failure_ratio=0.05, minimum_calls=1)
    with client_of(servers, pipeline=bare(breaker), balancer=Balancer("random", outliers=None)) as client:
        with ThreadPoolExecutor(8) as pool:
            statuses = Counter(pool.map(lambda _: client.get("/x").status_code, range(80)))
        assert statuses[500] > 5
        assert breaker.state == "closed"
        for backend in servers.values():
            backend.status = 500
        with pytest.raises(sw.CircuitOpen):
            for _ in range(50):
                client.get("/x")


@pytest.mark.parametrize("inside", [sw.Bulkhead.threads(8), sw.Timeout(0.3, sync="thread")])
def test_nor_when_attempts_run_on_threads_of_their_own(servers: dict[str, Backend], inside: Any) -> None:
    """The circuit then stands in another thread than the attempt, and must still know whose failure it is."""
    if isinstance(inside, sw.Timeout):
        servers["a"].hangs = True
    else:
        servers["a"].status = 500
    breaker = sw.CircuitBreaker(consecutive_failures=1, failure_ratio=0.05, minimum_calls=1)
    balancer = Balancer("round_robin", outliers=None)
    with client_of(servers, "a b c", pipeline=bare(breaker, inside), balancer=balancer) as client:
        endings = [client_try(client) for _ in range(9)]
    assert breaker.state == "closed"
    good = [ending for ending in endings if getattr(ending, "status_code", 0) == 200]
    assert len(good) == 6


def client_try(client: SyncServiceClient) -> object:
    """The answer, or the error."""
    try:
        return client.get("/x")
    except Exception as error:
        return error


def test_the_limit_of_an_attempt_reaches_the_socket(servers: dict[str, Backend]) -> None:
    """A thread cannot be cut, so the transport has to give up by itself; and the hung instance is to blame."""
    servers["a"].hangs = True
    balancer = Balancer("round_robin", outliers=Outliers(consecutive_failures=1))
    with client_of(servers, "a b", pipeline=bare(quick_retry(), sw.Timeout(0.2)), balancer=balancer) as client:
        began = time.monotonic()
        assert [client.get("/x").json()["from"] for _ in range(6)] == ["b"] * 6
        assert time.monotonic() - began < 3
        assert [host.status for host in client.snapshot().balancer.hosts] == ["ejected", "ready"]


def test_a_callers_own_deadline_blames_nobody(servers: dict[str, Backend]) -> None:
    """An impatient caller must not get a slow but healthy instance ejected."""
    for backend in servers.values():
        backend.delay = 0.3
    with client_of(servers) as client:
        for _ in range(6):
            with pytest.raises(Exception, match="timed out") as caught, sw.deadline(0.03):
                client.get("/x")
            assert type(caught.value).__module__.startswith("httpx2")
        assert {(host.status, host.success) for host in client.snapshot().balancer.hosts} == {("ready", 1.0)}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_streams_hold_their_instance_and_count_their_first_byte(servers: dict[str, Backend], transport: str) -> None:
    """As for tasks."""
    servers["a"].chunks, servers["a"].pause = 4, 0.1
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    with client_of(servers, "a", transport=transport, pipeline=bare(breaker)) as client:
        with client.stream("GET", "/feed") as response:
            assert client.snapshot().balancer.hosts[0].pending == 1
            assert b"".join(response.iter_bytes()) == b"piece;" * 4
        host = client.snapshot().balancer.hosts[0]
        assert (host.pending, client.running) == (0, 0)
        assert host.latency < 0.3
        with pytest.raises(LookupError, match="mine"), client.stream("GET", "/feed"):
            raise LookupError("mine")
        with client.stream("GET", "/feed"):
            pass
        assert (breaker.state, client.snapshot().balancer.hosts[0].success) == ("closed", 1.0)
        servers["a"].breaks = True
        with pytest.raises(Exception, match=r"peer|closed|incomplete"):
            with client.stream("GET", "/feed") as response:
                response.read()
        assert (breaker.state, client.running) == ("open", 0)


def test_opening_a_stream_is_retried_elsewhere(servers: dict[str, Backend]) -> None:
    """Nothing was read yet, so nothing is lost."""
    servers["a"].status, servers["b"].chunks = 503, 2
    with client_of(servers, "a b", pipeline=bare(quick_retry()), picker="round_robin") as client:
        for _ in range(4):
            with client.stream("GET", "/feed") as response:
                assert response.read() == b"piece;" * 2


def test_leaving_the_block_lets_requests_of_other_threads_end(servers: dict[str, Backend]) -> None:
    """A process that stops must not turn its last requests into errors."""
    servers["a"].delay = 0.4
    statuses: list[int] = []
    with client_of(servers, "a") as client:
        thread = threading.Thread(target=lambda: statuses.append(client.get("/x").status_code))
        thread.start()
        until(lambda: client.running == 1)
    thread.join(10)
    assert statuses == [200]
    with pytest.raises(RuntimeError, match="not open"):
        client.get("/x")
    client.close()
    with client_of(servers, "a") as again, pytest.raises(RuntimeError, match="open already"):
        again.start()


def test_a_client_that_cannot_begin_leaves_nothing_behind() -> None:
    """The watch's thread would go on for the life of the process."""
    registry = Registry.open("memory:")
    client = SyncServiceClient("stock", registry, pipeline=bare())
    client._transport_name = "no such"  # as if its package had been taken away since
    with pytest.raises(ValueError, match="no such"):
        client.start()
    assert registry.snapshot().watches == ()


def test_nobody_known_is_said_at_once() -> None:
    """A service that is not there must not hang its callers."""
    with SyncServiceClient("nobody", "memory:", wait=0.05) as client, pytest.raises(NoInstance, match="nobody"):
        client.get("/x")


def test_under_a_running_loop_the_twin_is_named(servers: dict[str, Backend]) -> None:
    """A sync client in a coroutine would block the loop that everything else runs on."""
    import asyncio

    async def scenario() -> None:
        with client_of(servers, "a", pipeline=bare(quick_retry())) as client:
            client.get("/x")

    with pytest.raises(WrongTwin):
        asyncio.run(scenario())


@pytest.mark.parametrize(("name", "way"), [("httpx2", "async"), ("httpx", "sync"), ("aiohttp", "async")])
def test_a_missing_client_is_said_with_the_line_that_installs_it(name: str, way: str) -> None:
    """A fresh machine has none of them; the message must be the cure."""
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        "from seawall.balancing.clients import transport_of\n"
        f"try:\n    transport_of({name!r}, {way!r})\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("MissingExtra")
    assert f'pip install "seawall[{name}]"' in done.stdout


def test_there_is_no_sync_aiohttp() -> None:
    """The message says why, and what there is."""
    with pytest.raises(ValueError, match=r"httpx2, httpx \(aiohttp has no sync client\)"):
        transport_of("aiohttp", "sync")


def test_no_http_client_is_loaded_before_one_is_opened() -> None:
    """Importing the balancer costs a worker that only consumes a queue nothing."""
    code = (
        "import sys, seawall.balancing as b; b.Balancer, b.ServiceClient\n"
        "print([name for name in ('httpx', 'httpx2', 'aiohttp', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.strip()
    assert "httpx" not in loaded
    assert "aiohttp" not in loaded
