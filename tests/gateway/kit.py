"""Backends, a registry file and a gateway for the tests, all on free ports of the loopback interface."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from seawall.testing.servers import free_port

__all__ = ["Backend", "backend", "certificates", "free_port", "load", "services_file", "until"]


class Backend:
    """One instance: answers with its name, or as told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.seen = 0
        self.statuses: list[int] = []
        self.headers: list[dict[str, str]] = []
        self.takes = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        self.seen += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        await asyncio.sleep(self.takes)
        return web.Response(text=self.name, status=self.statuses.pop(0) if self.statuses else 200)


@asynccontextmanager
async def backend(name: str) -> AsyncIterator[Backend]:
    """One that runs for as long as the block lasts."""
    one = Backend(name)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.port = runner.addresses[0][1]
    try:
        yield one
    finally:
        await runner.cleanup()


def services_file(path: Path, name: str, *ports: int, state: dict[int, str] | None = None) -> None:
    """Write a registry file whole."""
    rows = [f'[[services.{name}]]\nport = {port}\nstate = "{(state or {}).get(port, "ready")}"\n' for port in ports]
    fresh = path.with_suffix(".new")
    fresh.write_text("\n".join(rows))
    fresh.replace(path)


async def until(look: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> float:
    """Wait for something; the seconds that it took."""
    began = time.monotonic()
    while not await look():
        assert time.monotonic() - began < seconds, "it did not happen in time"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


class load:  # noqa: N801
    """Requests one after another from a few callers while the block lasts. seen: answers by text or status."""

    def __init__(self, url: str, callers: int = 4) -> None:
        self.url = url
        self.callers = callers
        self.seen: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def asked(self) -> int:
        return self.seen.total() + self.failed.total()

    async def _ask(self) -> None:
        while True:
            try:
                async with self.session.get(self.url) as answer:
                    text = await answer.text()
                    (self.seen if answer.status == 200 else self.failed)[
                        text if answer.status == 200 else str(answer.status)
                    ] += 1
            except (aiohttp.ClientError, OSError) as error:
                self.failed[type(error).__name__] += 1
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> load:
        self.session = aiohttp.ClientSession()
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self.callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.close()


def certificates(folder: Path, *names: str, authority: str = "ca") -> None:
    """An authority, `ca.pem`, and for each name `NAME.pem` and `NAME.key` that it has signed, for localhost and 127.0.0.1."""
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    ca = ["-keyout", f"{authority}.key", "-out", f"{authority}.pem"]
    openssl("req", "-x509", *made, "-days", "2", "-subj", f"/CN={authority}", *ca)
    (folder / "san.txt").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in names:
        openssl("req", *made, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-extfile", "san.txt", "-days", "2"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
