"""What a service client needs of an HTTP client, and what callers get back whichever one it is."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypedDict

Params: TypeAlias = Mapping[str, str | int | float | Sequence[str | int | float]]


class Response(Protocol):
    """A whole answer. What else the transport's own response offers, it offers too."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by names of any case."""
        ...

    @property
    def content(self) -> bytes:
        """The body."""
        ...

    @property
    def text(self) -> str:
        """The body, decoded."""
        ...

    def json(self) -> Any:
        """The body, read as JSON. Raises ValueError when it is none."""
        ...

    def raise_for_status(self) -> Any:
        """Raise the transport's own error for a status of 400 and above."""
        ...


class Streamed(Protocol):
    """An answer whose body is still coming."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by names of any case."""
        ...

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        ...

    async def aread(self) -> bytes:
        """The rest of the body."""
        ...


class SyncStreamed(Protocol):
    """An answer whose body is still coming, for code without an event loop."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by names of any case."""
        ...

    def iter_bytes(self) -> Iterator[bytes]:
        """The body as it comes."""
        ...

    def read(self) -> bytes:
        """The rest of the body."""
        ...


class Options(TypedDict, total=False):
    """What can be said of a request.

    params: of the query. headers: by name. json: a value to send as JSON; content: bytes or text to send; data: fields of a form;
    at most one of the three.
    key: with the picker "maglev", requests of one key meet one instance. idempotent: whether the request may be repeated and
    hedged; default: by its method, as RFC 9110 9.2.2 says. idempotency_key: text that all attempts carry as Idempotency-Key; a
    request that has one may be repeated.
    """

    params: Params | None
    headers: Mapping[str, str] | None
    json: Any
    content: bytes | str | None
    data: Mapping[str, str] | None
    key: str | None
    idempotent: bool | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """One request, without the instance that it goes to. body: "json", "content" or "data" with its value, or nothing."""

    method: str
    path: str
    params: Params | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that the parts of one attempt may take: connecting, waiting for a piece of the answer. None = no limit here."""

    connect: float | None = None
    read: float | None = None


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a transport connects.

    idle: connections kept open while nothing is sent, in all. tls: None = the system's certificates.
    server_name: what certificates are checked against and the Host header says; None = the address of the instance.
    """

    idle: int = 100
    tls: ssl.SSLContext | None = None
    server_name: str | None = None


class Transport(Protocol):
    """An async HTTP client with one pool of connections."""

    async def send(
        self, url: str, request: Request, headers: Mapping[str, str], patience: Patience, *, streamed: bool = False
    ) -> Any:
        """Send a request to an instance. The whole answer, or with `streamed` one whose body is still coming. No redirects."""
        ...

    async def end(self, response: Any) -> None:
        """Give the connection of a streamed answer back."""
        ...

    def is_ours(self, error: BaseException) -> bool:
        """Whether an error arose on our side, before any instance had to do with it."""
        ...

    def broke(self, response: Any, error: BaseException) -> bool:
        """Whether an error arose while the body of this answer came."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class SyncTransport(Protocol):
    """An HTTP client for threads, with one pool of connections."""

    def send(self, url: str, request: Request, headers: Mapping[str, str], patience: Patience, *, streamed: bool = False) -> Any:
        """Send a request to an instance. The whole answer, or with `streamed` one whose body is still coming. No redirects."""
        ...

    def end(self, response: Any) -> None:
        """Give the connection of a streamed answer back."""
        ...

    def is_ours(self, error: BaseException) -> bool:
        """Whether an error arose on our side, before any instance had to do with it."""
        ...

    def broke(self, response: Any, error: BaseException) -> bool:
        """Whether an error arose while the body of this answer came."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
