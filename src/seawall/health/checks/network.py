"""Checks over the network, without any driver: TCP, HTTP, DNS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Collection, Mapping
from contextlib import suppress

from seawall.core import units
from seawall.health.ask import Unanswered, fetch, request
from seawall.health.checks.probe import AsyncProbe, Probe
from seawall.health.standing import Finding, Status


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
    tls: the context for https; default None = the system's authorities, names checked. Only the status is read.
    Raises ValueError for a URL or header that cannot be sent.
    """
    request(url, headers)  # what cannot be sent is told now

    async def look() -> Finding:
        try:
            status, _ = await fetch(url, headers=headers, tls=tls, body=False)
        except Unanswered as odd:
            return Finding(Status.FAIL, str(odd))
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


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, ssl.SSLError):  # the answer is read; how the connection ends tells nothing
        await writer.wait_closed()


def _host(host: object) -> None:
    if not isinstance(host, str) or not host:
        raise TypeError(f"host must be a name or an address; got {host!r}")
