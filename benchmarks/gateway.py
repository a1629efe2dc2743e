"""What a request through the gateway costs in CPU, compared with a proxy written with aiohttp, interleaved."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks.measure import Row
from seawall.gateway import Gateway
from seawall.testing.servers import free_port


def rows(*, quick: bool = False) -> list[Row]:
    """CPU per request, Envoy over aiohttp: the median of the rounds."""
    return asyncio.run(_rows(rounds=3 if quick else 7, requests=2000 if quick else 6000))


async def _rows(*, rounds: int, requests: int) -> list[Row]:
    ports = {"backend": free_port(), "proxy": free_port(), "envoy": free_port()}
    children = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.gateway", "backend", str(ports["backend"])]),
        subprocess.Popen([sys.executable, "-m", "benchmarks.gateway", "proxy", str(ports["proxy"]), str(ports["backend"])]),
    ]
    try:
        for port in (ports["backend"], ports["proxy"]):
            await _listens(port)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gateway.toml"
            (Path(folder) / "services.toml").write_text(f"[[services.one]]\nport = {ports['backend']}\n")
            path.write_text(
                f'registry = "static:services.toml"\n[listeners.web]\nport = {ports["envoy"]}\n'
                '[services.one]\n[[routes]]\nto = "one"\n'
            )
            async with Gateway(path) as gateway:
                assert gateway.envoy is not None
                pids = {"proxy": children[1].pid, "envoy": gateway.envoy.pid or 0}
                for name, pid in pids.items():
                    await _cost(ports[name], pid, 500)  # warm
                found = [{name: await _cost(ports[name], pid, requests) for name, pid in pids.items()} for _ in range(rounds)]
    finally:
        for child in children:
            child.kill()
            child.wait()
    ratio = statistics.median(each["envoy"] / each["proxy"] for each in found)
    costs = {name: statistics.median(each[name] for each in found) * 1e6 for name in ("envoy", "proxy")}
    return [
        Row("CPU per request", ratio, "x", "<= 0.7", "an aiohttp proxy"),
        Row("CPU per request, Envoy", costs["envoy"], "us", None, "16 connections"),
        Row("CPU per request, aiohttp proxy", costs["proxy"], "us", None, "16 connections"),
    ]


async def _cost(port: int, pid: int, requests: int) -> float:
    """CPU seconds of a process per request."""
    left = requests
    async with aiohttp.ClientSession() as session:

        async def ask() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with session.get(f"http://127.0.0.1:{port}/") as answer:
                    assert answer.status == 200
                    await answer.read()

        before = _cpu(pid)
        await asyncio.gather(*(ask() for _ in range(16)))
        return (_cpu(pid) - before) / requests


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _listens(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


async def _answer(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


def _serve(words: list[str]) -> None:
    app = web.Application()
    if words[0] == "backend":
        app.router.add_get("/", _answer)
    else:
        target = f"http://127.0.0.1:{words[2]}"

        async def session(app: web.Application):  # type: ignore[no-untyped-def]
            async with aiohttp.ClientSession() as held:
                app["session"] = held
                yield

        async def forward(request: web.Request) -> web.Response:
            async with request.app["session"].request(
                request.method, target + request.path_qs, headers=request.headers
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        app.cleanup_ctx.append(session)
        app.router.add_route("*", "/{path:.*}", forward)
    web.run_app(app, host="127.0.0.1", port=int(words[1]), print=None, access_log=None)


if __name__ == "__main__":
    _serve(sys.argv[1:])
