"""The doors in front of applications: ASGI, WSGI, gRPC, a port of its own. Nothing of the application's is swallowed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from fastapi import FastAPI
from flask import Flask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import seawall as sw
from seawall.health import Health, HealthAsgi, HealthWsgi
from seawall.health import threads as health_threads

Answer = tuple[int, dict[str, str], bytes]


async def send(app: Any, path: str, method: str = "GET", **scope: Any) -> Answer:
    """One request to an ASGI application, without a server."""
    messages: list[dict[str, Any]] = []
    whole = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
        "root_path": "",
    }
    whole |= {"asgi": {"version": "3.0"}, "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), **scope}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def take(message: Any) -> None:
        messages.append(message)

    await app(whole, receive, take)
    headers = {name.decode(): value.decode() for name, value in messages[0].get("headers", [])}
    return messages[0]["status"], headers, b"".join(message.get("body", b"") for message in messages[1:])


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything with its path."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    body = f"own {scope['method']} {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


def test_the_five_paths_are_answered_and_everything_else_passes() -> None:
    """A health door that swallows a route breaks the application that it should look after."""

    async def scene() -> None:
        health = Health("orders", version="1.2")
        app = health.install(raw)
        for path in ("/livez", "/readyz", "/startupz", "/health", "/ready"):
            status, headers, body = await send(app, path)
            assert (status, headers["content-type"]) == (200, "application/health+json"), path
            assert headers["cache-control"] == "no-store"
            assert json.loads(body)["serviceId"] == "orders"
            assert (await send(app, path, "HEAD"))[2] == b""
        passing = [("/", "GET"), ("/readyz/", "GET"), ("/readyz/x", "GET"), ("/healthy", "GET"), ("/READYZ", "GET")]
        passing += [("/readyz", "POST"), ("/health", "PUT"), ("/livez", "OPTIONS")]
        for path, method in passing:
            assert (await send(app, path, method))[2] == f"own {method} {path}".encode()
        messages: list[Any] = []

        async def take(message: Any) -> None:
            messages.append(message)

        await app({"type": "websocket", "path": "/readyz", "headers": []}, None, take)
        assert messages == [{"type": "websocket.close", "code": 1000}]
        assert health.traffic.in_flight == 0
        assert health.traffic.served == len(passing) + 1
        await health.stop()

    asyncio.run(scene())


def test_routes_of_the_application_go_first_and_prefixes_and_mounts_work() -> None:
    """Who has had a /health for years must keep his own, and still gets /readyz."""

    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse("mine")

    async def scene() -> None:
        health = Health()
        app = Starlette(routes=[Route("/health", own), Mount("/files", raw), Route("/things/{name}", own)])
        assert health.install(app) is app
        assert (await send(app, "/health"))[2] == b"mine"
        assert (await send(app, "/readyz"))[1]["content-type"] == "application/health+json"
        assert (await send(app, "/things/readyz"))[2] == b"mine"
        assert b"own GET" in (await send(app, "/files/readyz"))[2]
        assert (await send(app, "/api/readyz", root_path="/api"))[0] == 200
        await health.stop()
        fast = FastAPI()
        under = Health()
        under.install(fast, prefix="/internal")
        fast.get("/readyz")(lambda: "mine")
        assert (await send(fast, "/readyz"))[2] == b'"mine"'
        assert (await send(fast, "/internal/readyz"))[1]["content-type"] == "application/health+json"
        await under.stop()

    asyncio.run(scene())


def test_draining_answers_ask_for_the_connection_to_be_closed_but_not_on_http_2() -> None:
    """A kept-alive connection leads back to an instance that leaves; on HTTP/2 the header is a protocol error."""

    async def scene() -> None:
        health = Health()
        app = health.install(raw)
        assert "connection" not in (await send(app, "/work"))[1]
        health.drain_begins()
        assert (await send(app, "/work"))[1]["connection"] == "close"
        assert (await send(app, "/readyz"))[0] == 503
        assert (await send(app, "/livez"))[0] == 200
        assert "connection" not in (await send(app, "/work", http_version="2"))[1]
        await health.stop()

    asyncio.run(scene())


def test_the_checks_live_as_long_as_the_lifespan_and_its_failure_passes() -> None:
    """Checks that outlive their application keep its loop busy; one that hides a failed start hides the failure."""
    seen: list[bool] = []
    health = Health()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield

    app = Starlette(lifespan=lifespan)
    health.install(app)

    async def scene() -> None:
        asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        told: asyncio.Queue[Any] = asyncio.Queue()
        living = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, asked.get, told.put))
        await asked.put({"type": "lifespan.startup"})
        assert (await told.get())["type"] == "lifespan.startup.complete"
        seen.append(health.running)
        await asked.put({"type": "lifespan.shutdown"})
        assert (await told.get())["type"] == "lifespan.shutdown.complete"
        seen.append(health.running)
        await living

        async def none(scope: Any, receive: Any, send: Any) -> None:
            raise NotImplementedError

        with pytest.raises(NotImplementedError):
            await HealthAsgi(none, Health())({"type": "lifespan"}, asked.get, told.put)

    asyncio.run(scene())
    assert seen == [True, False]


def test_the_period_of_a_load_balancer_is_seen_and_a_kubelets_is_not(ask: Any) -> None:
    """A kubelet's probes tell nothing of how long callers need to hear: the platform takes out a pod that ends without asking."""

    async def scene() -> None:
        health = Health()
        app = health.install(raw)
        for _ in range(4):
            await send(app, "/readyz", headers=[(b"user-agent", b"kube-probe/1.31")])
        assert health.traffic.probe_period() is None
        with health.listen(0) as own:
            for _ in range(4):
                await ask(own.port, "/readyz")
        period = health.traffic.probe_period()
        assert period is not None
        assert period < 5
        await health.stop()

    asyncio.run(scene())


# --- WSGI


def call(app: Any, path: str, method: str = "GET") -> Answer:
    """One request to a WSGI application, closed as servers do."""
    said: list[Any] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80", "SCRIPT_NAME": ""}
    environ |= {"wsgi.input": None, "wsgi.url_scheme": "http", "QUERY_STRING": "", "wsgi.errors": None}
    body = app(environ, lambda status, headers, exc_info=None: said.append((status, headers)))
    whole = b"".join(body)
    if hasattr(body, "close"):
        body.close()
    return int(said[0][0].split()[0]), {name.lower(): value for name, value in said[0][1]}, whole


def plain(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [f"own {environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode()]


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def test_wsgi_applications_are_answered_for_and_their_routes_pass() -> None:
    """Flask and Django have no event loop: the checks run on one in a thread, started by the first request."""
    health = Health()
    health.ready("database", lambda: True, every=0.1)
    app = health.install(plain)
    assert isinstance(app, HealthWsgi)
    assert call(app, "/things")[2] == b"own GET /things"
    wait_for(lambda: call(app, "/readyz")[0] == 200)
    assert call(app, "/readyz", "POST")[2] == b"own POST /readyz"
    assert call(app, "/readyz", "HEAD")[2] == b""
    assert health.traffic.in_flight == 0
    health_threads.stop(health)
    assert not health.running
    assert not [thread for thread in threading.enumerate() if thread.name == "seawall-health"]


def test_wsgi_requests_are_counted_until_their_body_is_closed_even_when_they_fail() -> None:
    """A request that is lost from the count is one that a drain does not wait for."""
    health = Health()

    class Body:
        closed = False

        def __iter__(self) -> Any:
            return iter([b"x"])

        def close(self) -> None:
            self.closed = True

    body = Body()
    app = health.install(lambda environ, start_response: body)
    answer = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/x"}, None)
    assert (list(answer), health.traffic.in_flight) == ([b"x"], 1)
    answer.close()
    answer.close()
    assert (body.closed, health.traffic.in_flight, health.traffic.served) == (True, 0, 1)

    def broken(environ: Any, start_response: Any) -> Any:
        raise KeyError("x")

    with pytest.raises(KeyError):
        HealthWsgi(broken, health)({"REQUEST_METHOD": "GET", "PATH_INFO": "/x"}, None)
    assert health.traffic.in_flight == 0
    health_threads.stop(health)


def test_flask_keeps_its_own_routes() -> None:
    """A rule of the application goes first here as well."""
    flask, health = Flask("served"), Health()
    flask.add_url_rule("/health", "own", lambda: "mine")
    assert health.install(flask) is flask
    answers = flask.test_client()
    assert answers.get("/health").text == "mine"
    assert answers.get("/livez").content_type == "application/health+json"
    assert answers.get("/nowhere").status_code == 404
    health_threads.stop(health)


def test_django_is_wrapped_sync_and_async() -> None:
    """Django's handlers are plain callables: what install returns is what is served."""
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(b"django")

    import sys
    import types

    urls = types.ModuleType("health_urls")
    urls.urlpatterns = [path("things", view)]
    sys.modules["health_urls"] = urls
    if not settings.configured:
        settings.configure(ROOT_URLCONF="health_urls", ALLOWED_HOSTS=["*"], SECRET_KEY="tests")
    health = Health()
    app = health.install(get_wsgi_application())
    assert isinstance(app, HealthWsgi)
    assert call(app, "/livez")[0] == 200
    health_threads.stop(health)
    other = Health()
    asgi = other.install(get_asgi_application())
    assert isinstance(asgi, HealthAsgi)

    async def scene() -> None:
        assert (await send(asgi, "/livez"))[0] == 200
        await other.stop()

    asyncio.run(scene())


def test_what_is_no_application_is_refused() -> None:
    """A mistake at the import must not wait for the first probe."""
    health = Health()
    with pytest.raises(TypeError, match="ASGI or WSGI"):
        health.install(3)
    with pytest.raises(TypeError, match="takes 1"):
        health.install(lambda one: one)
    with pytest.raises(ValueError, match="prefix"):
        health.install(raw, prefix="internal/")


# --- a port of its own


def test_the_own_port_answers_while_the_application_is_stuck(ask: Any) -> None:
    """A stuck event loop is what liveness is for, and the one thing that a stuck application cannot say itself."""
    health = Health(max_lag=0.4)
    said: list[int] = []

    def probe(port: int) -> None:
        time.sleep(0.9)
        said.append(asyncio.run(ask(port, "/livez"))[0])

    async def scene() -> None:
        async with health:
            with health.listen(0) as own:
                assert own.host == "127.0.0.1"
                assert (await ask(own.port, "/readyz"))[0] == 200
                assert (await ask(own.port, "/work"))[0] == 404
                thread = threading.Thread(target=probe, args=(own.port,))
                thread.start()
                time.sleep(1.5)
                thread.join()
                await asyncio.sleep(0.6)
                assert (await ask(own.port, "/livez"))[0] == 200

    asyncio.run(scene())
    assert said == [503]


def test_the_own_port_is_bounded_against_slow_and_large_requests(ask: Any) -> None:
    """A port that anybody can fill with half a request is one that no probe gets through."""

    async def scene() -> None:
        health = Health()
        async with health:
            with health.listen(0) as own:
                slow = [await asyncio.open_connection("127.0.0.1", own.port) for _ in range(80)]
                begun = time.monotonic()
                while True:
                    try:
                        status = (await ask(own.port, "/livez"))[0]
                        break
                    except (OSError, EOFError):
                        assert time.monotonic() - begun < 10
                        await asyncio.sleep(0.1)
                assert status == 200
                reader, writer = await asyncio.open_connection("127.0.0.1", own.port)
                writer.write(b"GET /livez HTTP/1.1\r\n" + b"x: " + b"y" * 100_000)
                with pytest.raises((OSError, EOFError)):
                    await reader.readexactly(1)
                for _, each in [*slow, (reader, writer)]:
                    each.transport.abort()

    asyncio.run(scene())


def test_the_own_port_refuses_what_it_does_not_serve(ask: Any) -> None:
    """It is for probes and nothing else; starting and closing it twice is harmless."""

    async def exchange(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.split(b"\r\n", 1)[0]

    async def scene() -> None:
        own = Health().listen(0)
        assert own.start() is own.start()
        with pytest.raises(OSError, match="in use"):
            Health().listen(own.port).start()
        assert await exchange(own.port, b"POST /livez HTTP/1.1\r\n\r\n") == b"HTTP/1.1 405 Method Not Allowed"
        assert await exchange(own.port, b"nonsense\r\n\r\n") == b"HTTP/1.1 400 Bad Request"
        assert await exchange(own.port, b"HEAD /livez?x=1 HTTP/1.0\r\n\r\n") == b"HTTP/1.1 200 OK"
        own.close()
        own.close()
        with pytest.raises(OSError):
            await ask(own.port, "/livez")
        with pytest.raises(ValueError, match="port"):
            Health().listen(70_000)

    asyncio.run(scene())


# --- gRPC


def test_grpc_health_checks_and_watches_on_an_async_server() -> None:
    """gRPC clients and Kubernetes ask by grpc.health.v1; a watcher must hear of the drain and must not hold it up."""

    async def scene() -> None:
        health = Health()
        good = True
        health.ready("database", lambda: good, every=0.05, fall=1)
        server = grpc.aio.server()
        health.install_grpc(server, services=["shop.Orders"])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with health, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def check(service: str) -> Any:
                return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status

            seen: list[int] = []

            async def watch() -> None:
                async for answer in stub.Watch(health_pb2.HealthCheckRequest(service="shop.Orders")):
                    seen.append(answer.status)

            watching = asyncio.create_task(watch())
            async with asyncio.timeout(10):
                while await check("") != health_pb2.HealthCheckResponse.SERVING:
                    await asyncio.sleep(0.02)
                listed = (await stub.List(health_pb2.HealthListRequest())).statuses
                assert {name: each.status for name, each in listed.items()} == dict.fromkeys(
                    ("", "ready", "live", "startup", "shop.Orders"), 1
                )
                assert await check("live") == await check("startup") == await check("shop.Orders") == 1
                with pytest.raises(grpc.aio.AioRpcError) as missing:
                    await check("nobody")
                assert missing.value.code() is grpc.StatusCode.NOT_FOUND
                good = False
                while seen[-1:] != [2]:
                    await asyncio.sleep(0.02)
                good = True
                while seen[-1:] != [1]:
                    await asyncio.sleep(0.02)
                drain = health.drain(delay=0.2, timeout=5, server=server)
                async with drain:
                    drain.begin()
                    while seen[-1:] != [2]:
                        await asyncio.sleep(0.02)
                    assert await check("") == 2, "not ready"
                    assert await check("live") == 1, "and alive"
                    begun = time.monotonic()
                    await watching
                    await server.wait_for_termination()
                    assert time.monotonic() - begun < 4, "a watcher must not hold up the end"

    asyncio.run(scene())


def test_grpc_health_works_on_a_sync_server_and_bounds_its_watchers() -> None:
    """On a sync server each watcher holds one of its threads: a few, not all."""
    from concurrent.futures import ThreadPoolExecutor

    health = Health()
    server = grpc.server(ThreadPoolExecutor(8))
    health.install_grpc(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        wait_for(lambda: stub.Check(request).status == 1)
        watches = [stub.Watch(request) for _ in range(4)]
        assert [next(watch).status for watch in watches] == [1, 1, 1, 1]
        with pytest.raises(grpc.RpcError) as full:
            next(stub.Watch(request))
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with health.drain_threads(delay=0.1, timeout=5, server=server) as drain:
            drain.begin()
            assert next(watches[0]).status == 2
            assert drain.wait(10)
            assert server.wait_for_termination(10) is False
    health_threads.stop(health)


def test_what_is_no_grpc_server_is_refused() -> None:
    """An HTTP application handed over by mistake must be told at once."""
    with pytest.raises(TypeError, match="grpc"):
        Health().install_grpc(raw)


# --- what our errors mean to callers


@pytest.mark.parametrize("made", [FastAPI, Starlette])
def test_our_rejections_are_503_and_our_timeouts_504(made: Any) -> None:
    """A 429 blames the caller for our own limits; a 500 hides that trying again is safe."""
    app = made()
    sw.fastapi.install(app)
    errors: dict[str, Exception] = {
        "/open": sw.CircuitOpen("open", policy="stock", retry_after=2.2),
        "/limited": sw.RateLimited("spent", policy="outbound", retry_after=float("inf")),
        "/full": sw.BulkheadFull("full", policy="seats"),
        "/late": sw.TimedOut("late", policy="total", limit=2),
    }

    async def fail(request: Request) -> None:
        raise errors[request.url.path]

    for path in errors:
        app.add_route(path, fail) if made is FastAPI else app.router.routes.append(Route(path, fail))

    async def scene() -> None:
        found = {path: await send(app, path) for path in errors}
        assert {path: answer[0] for path, answer in found.items()} == {"/open": 503, "/limited": 503, "/full": 503, "/late": 504}
        assert found["/open"][1]["retry-after"] == "3"
        assert "retry-after" not in found["/limited"][1]
        assert "retry-after" not in found["/full"][1]
        assert found["/open"][1]["content-type"] == "application/problem+json"
        assert json.loads(found["/open"][2])["policy"] == "stock"

    asyncio.run(scene())
    with pytest.raises(TypeError, match="FastAPI"):
        sw.fastapi.install(raw)
