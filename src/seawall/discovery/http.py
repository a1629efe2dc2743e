"""How this room speaks HTTP: bounded answers, no redirects, no proxies, streams of JSON lines. Only this file knows httpx2."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from seawall.discovery.errors import RegistryUnavailable
from seawall.discovery.place import Place

LARGEST_ANSWER: Final = 32 * 1024 * 1024
LARGEST_LINE: Final = 8 * 1024 * 1024
PATIENCE: Final = 10.0  # seconds for a connection or an answer; callers cut much earlier
CONNECTIONS: Final = 100
TLS_OPTIONS: Final = ("tls", "ca", "cert", "key", "token_file")


@dataclass(frozen=True, slots=True)
class Answer:
    """status: of HTTP. headers: by lower-case name. body: what the JSON says, None for no JSON. text: its beginning."""

    status: int
    headers: Mapping[str, str]
    body: Any
    text: str = ""


class Http:
    """Asks one of several servers; after an error the next question goes to the next one.

    place: names the hosts, and TLS by its options `tls`, `ca`, `cert`, `key`. port: the one to use where none is named.
    """

    def __init__(self, place: Place, *, port: int, tls: bool = False, hosts: tuple[tuple[str, int | None], ...] = ()) -> None:
        scheme = "https" if place.flag("tls", default=tls or "ca" in place.options) else "http"
        verify = _context(place) if scheme == "https" else True
        self._bases = [
            f"{scheme}://{_bracketed(host)}:{own or port}" for host, own in hosts or place.hosts or (("127.0.0.1", None),)
        ]
        self._turn = 0
        self.client = httpx2.AsyncClient(
            verify=verify,
            trust_env=False,  # a registry is not on the other side of a proxy
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=4),
            timeout=httpx2.Timeout(PATIENCE),
        )

    @property
    def base(self) -> str:
        """The server that is asked now."""
        return self._bases[self._turn % len(self._bases)]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """One question, one answer. patience: seconds to wait for bytes. Raises RegistryUnavailable when there is none."""
        timeout = httpx2.Timeout(PATIENCE, read=patience)
        said = {"json": body} if body is not None else {}
        request = self.client.build_request(method, self.base + path, params=query, headers=headers, timeout=timeout, **said)
        try:
            answer = await self.client.send(request, stream=True)
            try:
                text = bytearray()
                async for chunk in answer.aiter_bytes():
                    text += chunk
                    if len(text) > LARGEST_ANSWER:
                        raise RegistryUnavailable(f"{self.base} answered more than {LARGEST_ANSWER} bytes")
            finally:
                await answer.aclose()
        except httpx2.HTTPError as error:
            raise self._away(error) from error
        except BaseException:
            self._turn += 1  # cut while it waited: somebody else may be quicker
            raise
        found = None
        with suppress(ValueError, RecursionError):
            found = json.loads(text) if text else None
        headers_told = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status_code, headers_told, found, text[:1000].decode(errors="replace"))

    async def lines(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[tuple[int, Any]]:
        """A question whose answer comes bit by bit: the status with each JSON object, one per line, until it ends.

        Raises RegistryUnavailable when the connection breaks or a line is no JSON.
        """
        said = {"json": body} if body is not None else {}
        timeout = httpx2.Timeout(PATIENCE, read=None)
        request = self.client.build_request(method, self.base + path, params=query, headers=headers, timeout=timeout, **said)
        try:
            answer = await self.client.send(request, stream=True)
            try:
                rest = b""
                async for chunk in answer.aiter_bytes():
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        if line.strip():
                            yield answer.status_code, self._read(line)
                    if len(rest) > LARGEST_LINE:
                        raise RegistryUnavailable(f"{self.base} sent a line of more than {LARGEST_LINE} bytes")
                if rest.strip():
                    yield answer.status_code, self._read(rest)
            finally:
                await answer.aclose()
        except httpx2.HTTPError as error:
            raise self._away(error) from error

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    def _away(self, error: Exception) -> RegistryUnavailable:
        told = RegistryUnavailable(f"{self.base} does not answer: {type(error).__name__}: {error}")
        self._turn += 1
        return told

    def _read(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RegistryUnavailable(f"{self.base} sent a line that is no JSON") from error


def _context(place: Place) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=place.options.get("ca"))
    certificate = place.options.get("cert")
    if certificate is not None:
        context.load_cert_chain(certificate, place.options.get("key"))
    return context


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
