"""The transport over aiohttp: its session for the sending, answers in the form that all transports give."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from seawall.balancing.clients.port import Patience, Request, Wiring

PIECE_BYTES = 65_536


class Answer:
    """An answer of aiohttp's. raw: aiohttp's own response. whole: whether the body was read."""

    def __init__(self, raw: aiohttp.ClientResponse, body: bytes | None = None) -> None:
        self.raw = raw
        self.whole = body is not None
        self._body = body or b""

    @property
    def content(self) -> bytes:
        """The body; empty while it is still coming."""
        return self._body

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        return self.raw.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by names of any case."""
        return self.raw.headers

    @property
    def text(self) -> str:
        """The body, decoded by the charset that the answer names, else UTF-8."""
        return self._body.decode(self.raw.charset or "utf-8", "replace")

    def json(self) -> Any:
        """The body, read as JSON. Raises ValueError when it is none."""
        return json.loads(self._body)

    def raise_for_status(self) -> Answer:
        """Raise `aiohttp.ClientResponseError` for a status of 400 and above."""
        self.raw.raise_for_status()
        return self

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        if self.whole:
            yield self._body
            return
        async for piece in self.raw.content.iter_chunked(PIECE_BYTES):
            yield piece

    async def aread(self) -> bytes:
        """The rest of the body."""
        if not self.whole:
            self._body, self.whole = await self.raw.read(), True
        return self._body


class AsyncTransport:
    """One `aiohttp.ClientSession`, made at the first request. client: one made elsewhere, which is then closed elsewhere."""

    def __init__(self, wiring: Wiring | None = None, client: aiohttp.ClientSession | None = None) -> None:
        self._wiring = wiring or Wiring()
        self._given = client is not None
        self._session = client

    async def send(
        self, url: str, request: Request, headers: Mapping[str, str], patience: Patience, *, streamed: bool = False
    ) -> Answer:
        """Send it, and read the body unless it is to be streamed."""
        named, body = dict(headers), dict(request.body)
        if self._wiring.server_name is not None:
            named.setdefault("Host", self._wiring.server_name)
        if "content" in body:
            body["data"] = body.pop("content")
        raw = await self._open().request(
            request.method,
            url + request.path,
            params=request.params,
            headers=named,
            allow_redirects=False,
            server_hostname=self._wiring.server_name if url.startswith("https") else None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.connect, sock_read=patience.read),
            **body,
        )
        if streamed:
            return Answer(raw)
        async with raw:
            return Answer(raw, await raw.read())

    async def end(self, response: Answer) -> None:
        """Give the connection back; one whose body was not read is closed."""
        raw = response.raw
        if raw.content.at_eof():
            raw.release()
        else:
            raw.close()

    def is_ours(self, error: BaseException) -> bool:
        """What cannot be said in HTTP never left this process."""
        return isinstance(error, aiohttp.InvalidURL)

    def broke(self, response: Answer, error: BaseException) -> bool:
        """Whether an error arose while the body of this answer came."""
        return error is response.raw.content.exception() or isinstance(error, aiohttp.ClientPayloadError)

    async def close(self) -> None:
        """Close all connections, unless the session is somebody else's."""
        session, self._session = self._session, None
        if session is not None and not self._given:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls: Any = True if self._wiring.tls is None else self._wiring.tls
            connector = aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=30.0)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        return self._session
