"""Checks over the network, without any driver: TCP, HTTP, DNS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from seawall.core import units
from seawall.health.checks.probe import AsyncProbe, Probe
from seawall.health.standing import Finding, Status

MOST_HEAD: Final = 16 * 1024  # bytes of an answer that are read
USER_AGENT: Final = "seawall-health"


def tcp(host: str, port: int) -> AsyncProbe:
    """Whether `host` accepts a connection on `port` (1 to 65535). The connection is closed at once, nothing is sent.

    Raises TypeError or ValueError for a host or port that cannot be.
    """
    _host(host)
    units.whole("port", port, least=1, most=65535)

    async def look() -> None:
        _, writer = await asyncio.open_connection(host, port)
        await _close(writer)

    return AsyncProbe(look, kind="component")


def http(
    url: str,
    *,
    expect: Collection[int] = range(200, 300),
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncProbe:
    """Whether a GET of `url` is answered with an expected status. Redirects are not followed: who answers with one is not
    asked about.

    url: http or https, without user and password in it. expect: the statuses that pass; default 200 to 299. headers: sent with
        it.
    tls: the context for https; default None = the system's authorities, names checked. At most 16 KiB of the answer are read.
    Raises ValueError for a URL or header that cannot be sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must begin with http:// or https:// and name a host; got {url!r}")
    if parts.username is not None:
        raise ValueError("url must hold no user and password, which logs and health bodies would show; use headers=")
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    request = _request(parts.netloc, parts.path or "/", parts.query, headers or {})
    context = None if parts.scheme == "http" else tls or ssl.create_default_context()

    async def look() -> Finding:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=MOST_HEAD)
        try:
            writer.write(request)
            line = (await reader.readuntil(b"\n")).decode("latin-1").split(None, 2)
        finally:
            await _close(writer)
        if len(line) < 2 or not line[0].startswith("HTTP/1.") or not line[1].isdigit():
            return Finding(Status.FAIL, "the answer is no HTTP/1")
        status = int(line[1])
        good = status in expect
        return Finding(Status.PASS if good else Status.FAIL, None if good else f"answered {status}", status, "status")

    return AsyncProbe(look, kind="component")


def dns(name: str, *, least: int = 1) -> Probe:
    """Whether `name` resolves to at least so many addresses (default 1), by the system's resolver."""
    _host(name)
    units.whole("least", least)

    def look() -> Finding:
        found = {answer[4][0] for answer in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
        if len(found) >= least:
            return Finding(Status.PASS, None, len(found), "addresses")
        return Finding(Status.FAIL, f"resolves to {len(found)} addresses, {least} are needed", len(found), "addresses")

    return Probe(look, kind="component")


def _request(authority: str, path: str, query: str, headers: Mapping[str, str]) -> bytes:
    target = path + (f"?{query}" if query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {authority}", f"User-Agent: {USER_AGENT}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(sign in line for line in lines for sign in "\r\n\0") or " " in target:
        raise ValueError("url and headers must hold no line breaks, and the path no blanks")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, ssl.SSLError):  # the answer is read; how the connection ends tells nothing
        await writer.wait_closed()


def _host(host: object) -> None:
    if not isinstance(host, str) or not host:
        raise TypeError(f"host must be a name or an address; got {host!r}")
