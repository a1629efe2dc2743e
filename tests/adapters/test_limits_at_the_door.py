"""Limits in front of real servers: what callers are told, whom they are counted as, and what is shed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import fastapi
import http_sf
import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import seawall as sw
from seawall.adapters import limits_asgi, limits_wsgi
from seawall.adapters.client_ip import NOBODY, client_ip
from seawall.adapters.limits_fastapi import RateLimited
from seawall.adapters.ratelimit_fields import fields, obey, pause
from seawall.testing import VirtualClock
from seawall.testing.servers import RedisServer


@contextmanager
def served(app: Any) -> Iterator[httpx2.Client]:
    """An ASGI application on a real server."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join(20)


async def hello(request: Any) -> PlainTextResponse:
    """Answers at once."""
    return PlainTextResponse("hello")


def app() -> Starlette:
    """An application with a health endpoint."""
    return Starlette(routes=[Route("/", hello), Route("/livez", hello)])


# --- 429


def test_callers_are_told_what_is_left_and_refused_with_429() -> None:
    """The door's whole conversation, on a real server with a real store behind it."""
    with RedisServer() as redis:
        limiter = sw.RateLimiter("2/min", store=redis.url, budget=5, name="door")
        with served(limits_asgi.RateLimitMiddleware(app(), limiter, legacy=True, spread=0)) as client:
            first, second, third = (client.get("/") for _ in range(3))
            assert [answer.status_code for answer in (first, second, third)] == [200, 200, 429]
            assert http_sf.parse(first.headers["ratelimit-policy"].encode(), tltype="list") == [("default", {"q": 2, "w": 60})]
            ((name, state),) = http_sf.parse(first.headers["ratelimit"].encode(), tltype="list")
            assert (name, state["r"], state["t"]) == ("default", 1, 30)
            assert first.headers["x-ratelimit-remaining"] == "1"
            assert third.headers["content-type"] == "application/problem+json"
            assert third.json()["status"] == 429
            ((_, state),) = http_sf.parse(third.headers["ratelimit"].encode(), tltype="list")
            assert state["r"] == 0
            assert third.headers["retry-after"] == str(state["t"])  # both point at the same moment
            assert 28 <= state["t"] <= 30
            assert client.get("/livez").status_code == 200
            assert "ratelimit" not in client.get("/livez").headers


def test_a_dependency_limits_one_route_of_fastapi() -> None:
    """Single routes have limits of their own; the decision is theirs to look at."""
    limiter = sw.RateLimiter("1/h")
    guarded = RateLimited(limiter, key=lambda request: request.headers.get("x-tenant"))
    app = fastapi.FastAPI()

    @app.get("/costly")
    async def costly(decision: Any = fastapi.Depends(guarded)) -> dict[str, Any]:  # noqa: B008  # FastAPI's way
        return {"left": None if decision is None else decision.remaining}

    with served(app) as client:
        assert client.get("/costly").json() == {"left": None}  # no key, not counted
        answer = client.get("/costly", headers={"x-tenant": "a"})
        assert answer.json() == {"left": 0}
        assert answer.headers["ratelimit"] in ('"default";r=0;t=3600', '"default";r=0;t=3601')  # rounded up to whole seconds
        refused = client.get("/costly", headers={"x-tenant": "a"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 3599
        assert client.get("/costly", headers={"x-tenant": "b"}).status_code == 200


def test_wsgi_is_limited_as_well() -> None:
    """Flask and Django stand behind the same door."""

    def plain(environ: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    class Quiet(WSGIRequestHandler):
        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    guarded: Any = limits_wsgi.RateLimitMiddleware(plain, sw.RateLimiter("1/h"))
    with make_server("127.0.0.1", 0, guarded, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with httpx2.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            answer = client.get("/")
            assert answer.text == "hello"
            assert answer.headers["ratelimit"] in ('"default";r=0;t=3600', '"default";r=0;t=3601')  # rounded up to whole seconds
            refused = client.get("/", headers={"x-forwarded-for": "1.2.3.4"})
            assert (refused.status_code, json.loads(refused.text)["title"]) == (429, "Too Many Requests")
            assert client.get("/livez").status_code == 200
        server.shutdown()
        thread.join(20)


# --- 503


def test_too_much_at_once_is_shed_with_503_and_the_critical_pass() -> None:
    """Under overload the sheddable go first, the answer comes at once, and health endpoints always answer."""
    gate = asyncio.Event()

    async def slow(request: Any) -> PlainTextResponse:
        await gate.wait()
        return PlainTextResponse("done")

    inner = Starlette(routes=[Route("/", slow), Route("/livez", hello)])
    limit = sw.AdaptiveLimit(initial=10, least=10, most=11)
    levels = {b"s": "sheddable", b"c": "critical"}
    shed = limits_asgi.ShedMiddleware(
        inner, limit, priority=lambda scope: levels.get(dict(scope["headers"]).get(b"x-level"), "default")
    )

    async def ask(client: httpx2.AsyncClient, level: str) -> httpx2.Response:
        return await client.get("/", headers={"x-level": level})

    async def scene() -> None:
        transport = httpx2.ASGITransport(app=shed)
        async with httpx2.AsyncClient(transport=transport, base_url="http://door") as client:
            running = [asyncio.ensure_future(ask(client, "d")) for _ in range(8)]
            while limit.snapshot().taken < 8:
                await asyncio.sleep(0.001)
            refused = await ask(client, "s")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            running += [asyncio.ensure_future(ask(client, "d")) for _ in range(2)]
            while limit.snapshot().taken < 10:
                await asyncio.sleep(0.001)
            assert (await ask(client, "d")).status_code == 503
            running.append(asyncio.ensure_future(ask(client, "c")))
            while limit.snapshot().taken < 11:
                await asyncio.sleep(0.001)
            assert (await client.get("/livez")).status_code == 200
            gate.set()
            assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}

    asyncio.run(scene())
    assert limit.snapshot().taken == 0


def test_a_refusal_inside_the_application_is_not_taken_for_the_doors() -> None:
    """A full dependency is the application's answer to give, not a sign that this process is overloaded."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise sw.CircuitOpen("stock is open", policy="stock")

    async def scene() -> None:
        shed = limits_asgi.ShedMiddleware(broken, sw.Bulkhead(1))
        with pytest.raises(sw.CircuitOpen):
            await shed({"type": "http", "path": "/", "headers": []}, None, None)  # type: ignore[arg-type]

    asyncio.run(scene())


def test_other_protocols_pass_untouched() -> None:
    """Lifespan and websockets have no status to refuse with."""
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def scene() -> None:
        for kind in ("lifespan", "websocket"):
            await limits_asgi.RateLimitMiddleware(inner, sw.RateLimiter("1/h"))({"type": kind}, None, None)  # type: ignore[arg-type]
            await limits_asgi.ShedMiddleware(inner, sw.Bulkhead(1))({"type": kind}, None, None)  # type: ignore[arg-type]

    asyncio.run(scene())
    assert seen == ["lifespan", "lifespan", "websocket", "websocket"]


# --- who asks


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "key"),
    [
        ((), "203.0.113.1", "6.6.6.6", "203.0.113.1"),  # nobody is trusted: the header says nothing
        (["10.0.0.0/8"], "203.0.113.1", "6.6.6.6", "203.0.113.1"),  # the peer itself is no proxy of ours
        (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 203.0.113.9, 10.2.2.2", "203.0.113.9"),  # what the client wrote is left of it
        (["10.0.0.0/8"], "10.0.0.1", "10.9.9.9", "10.9.9.9"),  # all of them are ours
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9, nonsense, 10.2.2.2", "10.2.2.2"),  # nobody is read past nonsense
        (["10.0.0.0/8"], "10.0.0.1", None, "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        (["::1"], "::1", "[2001:db8:1:2:3::4]:443", "2001:db8:1:2::/64"),  # one customer has a whole network
        (["10.0.0.0/8"], "::ffff:10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        (["unix"], None, "203.0.113.9", "203.0.113.9"),
        ((), None, "203.0.113.9", NOBODY),
        ((), "not an address", None, NOBODY),
        (["10.0.0.0/8"], "10.0.0.1", ",".join(["10.0.0.2"] * 5000), "10.0.0.2"),  # bounded work
    ],
)
def test_the_client_is_who_a_trusted_proxy_says(trusted: Any, peer: Any, forwarded: Any, key: str) -> None:
    """Whoever may write the key chooses the limit."""
    find = client_ip(trusted=trusted)
    assert find.of(peer, forwarded) == key
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    assert find({"client": None if peer is None else (peer, 1), "headers": headers}) == key
    environ = {"wsgi.version": (1, 0), "REMOTE_ADDR": peer or "", "HTTP_X_FORWARDED_FOR": forwarded}
    assert find(environ) == key


def test_networks_that_cannot_be_read_are_named() -> None:
    """A typing error must not trust the world."""
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        client_ip(trusted=["10.0.0.0/33"])
    with pytest.raises(TypeError, match="list"):
        client_ip(trusted="10.0.0.0/8")
    with pytest.raises(ValueError, match="ipv6_prefix"):
        client_ip(ipv6_prefix=8)


# --- the fields


def test_the_fields_name_the_limit_that_binds() -> None:
    """With several limits the caller must know which window to wait for."""
    limiter = sw.RateLimiter(["10/s", "15/min"])
    assert limiter.decide("k", 10).allowed
    told = fields(limiter.decide("k", 6), limiter.snapshot().limits, name="api")
    assert told["RateLimit-Policy"] == '"api";q=10;w=1, "api-2";q=15;w=60'
    assert told["RateLimit"].startswith('"api-2";r=')
    never = fields(limiter.decide("k", 100), limiter.snapshot().limits)
    assert "Retry-After" not in never  # coming back would not help


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "86400"}, 60),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:47 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 10),
        ({"RateLimit": '"api";r=0;t=12'}, 12),
        ({"RateLimit": "api;r=0;t=12, other;r=0;t=30"}, 30),
        ({"RateLimit": '"api";r=3;t=12'}, None),
        ({"RateLimit": '"api";r=0;t=12', "Retry-After": "5"}, 5),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9"}, 9),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2000000020"}, 20),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "4"}, 4),
        ({"X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "9"}, None),
        ({"RateLimit": "((("}, None),
        ({"RateLimit": '"api";r=0;t=' + "9" * 5000}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-5"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "inf"}, None),
        ({}, None),
    ],
)
def test_what_a_callee_asks_is_read_and_bounded(headers: dict[str, str], seconds: float | None) -> None:
    """A hostile callee must not stop us for a year, and nonsense says nothing."""
    assert pause(headers, now=2_000_000_000.0) == seconds


def test_a_callees_pause_is_shared_by_all_who_call_it() -> None:
    """One 429 is enough for the fleet."""
    with RedisServer() as redis:
        one = sw.RateLimiter("100/s", store=redis.url, budget=5, name="upstream")
        two = sw.RateLimiter("100/s", store=redis.url, budget=5, name="upstream")
        assert obey(one, "api.example", {"RateLimit": '"x";r=0;t=30'}) == 30
        refused = two.decide("api.example")
        assert not refused.allowed
        assert 28 < refused.retry_after <= 30.01
        assert obey(two, "other", {}) is None
        assert two.try_acquire("other")


def test_a_throttled_call_pauses_its_key_for_the_fleet() -> None:
    """`penalise=True` does the same for whatever client raises the error."""

    class Throttled(Exception):
        status_code = 429
        retry_after = 20.0

    def call(host: str) -> None:
        raise Throttled

    with RedisServer() as redis:
        one = sw.RateLimiter("100/s", store=redis.url, budget=5, name="upstream", key="host", penalise=True)
        two = sw.RateLimiter("100/s", store=redis.url, budget=5, name="upstream")
        with pytest.raises(Throttled):
            one.call(call, "a")
        assert two.decide("a").retry_after == pytest.approx(20, abs=1)


def test_virtual_time_is_enough_for_the_door() -> None:
    """The middleware is tested by its users without waiting."""
    clock = VirtualClock(seed=0)
    limiter = sw.RateLimiter("1/min", clock=clock)
    assert limiter.try_acquire("k")
    clock.advance(60)
    assert limiter.try_acquire("k")
