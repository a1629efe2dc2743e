"""One HTTP GET without any driver and without redirects, bounded in every way, for checks and peers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

MOST_HEAD: Final = 16 * 1024  # bytes of the head of an answer
MOST_BODY: Final = 256 * 1024  # bytes of the body that are read
USER_AGENT: Final = "seawall-health"


class Unanswered(Exception):
    """What came back is no answer in HTTP/1."""


def request(url: str, headers: Mapping[str, str] | None = None) -> tuple[str, int, bool, bytes]:
    """Host, port, whether TLS, and the bytes to send. Raises ValueError for a URL or header that cannot be sent."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must begin with http:// or https:// and name a host; got {url!r}")
    if parts.username is not None:
        raise ValueError("url must hold no user and password, which logs and health bodies would show; use headers=")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", f"User-Agent: {USER_AGENT}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if any(sign in line for line in lines for sign in "\r\n\0") or " " in target:
        raise ValueError("url and headers must hold no line breaks, and the path no blanks")
    tls = parts.scheme == "https"
    return parts.hostname, parts.port or (443 if tls else 80), tls, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def fetch(
    url: str, *, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None, body: bool = True
) -> tuple[int, bytes]:
    """The status and the body (up to 256 KiB; empty without `body`). The time limit is the caller's.

    Raises OSError or EOFError when it cannot be reached or breaks off, Unanswered for what is no HTTP/1, ValueError for a URL
    that cannot be asked.
    """
    host, port, secure, asked = request(url, headers)
    context = (tls or ssl.create_default_context()) if secure else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=MOST_HEAD)
    try:
        writer.write(asked)
        try:
            line = (await reader.readuntil(b"\n")).decode("latin-1").split(None, 2)
            if len(line) < 2 or not line[0].startswith("HTTP/1.") or not line[1].isdigit():
                raise Unanswered("the answer is no HTTP/1")
            return int(line[1]), await _body(reader) if body else b""
        except asyncio.LimitOverrunError:
            raise Unanswered("the head of the answer is too long") from None
    finally:
        writer.close()
        with suppress(OSError, ssl.SSLError):  # the answer is read; how the connection ends tells nothing
            await writer.wait_closed()


async def _body(reader: asyncio.StreamReader) -> bytes:
    headers: dict[bytes, bytes] = {}
    while (line := await reader.readuntil(b"\n")).strip():
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip().lower()
        if len(headers) > 100:
            raise Unanswered("the answer has more than 100 headers")
    if headers.get(b"transfer-encoding") == b"chunked":
        return await _chunks(reader)
    length = headers.get(b"content-length")
    if length is not None and length.isdigit():
        return await reader.readexactly(min(int(length), MOST_BODY))
    return await reader.read(MOST_BODY)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    whole = b""
    while len(whole) < MOST_BODY:
        size = int((await reader.readuntil(b"\n")).split(b";")[0], 16)
        if size == 0:
            return whole
        whole += await reader.readexactly(min(size, MOST_BODY))
        await reader.readuntil(b"\n")
    raise Unanswered("the body is too long")
