"""What the transports over httpx and httpx2 have in common. The package itself is handed in by the file that imports it.

Certificates and proxies of the environment are not looked at, redirects are not followed, cookies are not kept: an instance that
sets one would have it sent to its siblings.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

from seawall.balancing.clients.port import Patience, Request, Wiring


def settings(httpx: Any, wiring: Wiring) -> dict[str, Any]:
    """The keywords of a client. Connections are as many as requests run: what runs at once is bounded by the pipeline."""
    return {
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=wiring.idle, keepalive_expiry=30.0),
        "verify": True if wiring.tls is None else wiring.tls,
        "trust_env": False,
        "follow_redirects": False,
    }


def built(wiring: Wiring, url: str, request: Request, headers: Mapping[str, str]) -> dict[str, Any]:
    """The request as the clients build it, but for its limits."""
    named = dict(headers)
    extensions = None
    if wiring.server_name is not None:
        named.setdefault("Host", wiring.server_name)
        extensions = {"sni_hostname": wiring.server_name}
    parts = {"params": request.params, "headers": named, "extensions": extensions, **request.body}
    return {"method": request.method, "url": url + request.path, **parts}


def broke(httpx: Any, response: Any, error: BaseException) -> bool:
    """Whether an error of the package belongs to the request of this answer."""
    return isinstance(error, httpx.RequestError) and error._request is response.request


class AsyncFamily:
    """A transport over the async client of a package.

    httpx: the package. client: one made elsewhere, which is then closed elsewhere; default None = one of our own.
    """

    def __init__(self, httpx: Any, wiring: Wiring | None = None, client: Any = None) -> None:
        self._httpx = httpx
        self._wiring = wiring or Wiring()
        self._given = client is not None
        self._client = httpx.AsyncClient(**settings(httpx, self._wiring)) if client is None else client
        self._client.cookies.jar.set_policy(_NO_COOKIES)

    async def send(
        self, url: str, request: Request, headers: Mapping[str, str], patience: Patience, *, streamed: bool = False
    ) -> Any:
        """Send it; the package's own response."""
        limits = self._httpx.Timeout(patience.read, connect=patience.connect, pool=None)
        out = self._client.build_request(**built(self._wiring, url, request, headers), timeout=limits)
        return await self._client.send(out, stream=streamed)

    async def end(self, response: Any) -> None:
        """Give the connection back."""
        await response.aclose()

    def is_ours(self, error: BaseException) -> bool:
        """A pool without a free connection is our own bottleneck."""
        return isinstance(error, self._httpx.PoolTimeout | self._httpx.UnsupportedProtocol)

    def broke(self, response: Any, error: BaseException) -> bool:
        """Whether an error arose while the body of this answer came."""
        return broke(self._httpx, response, error)

    async def close(self) -> None:
        """Close all connections, unless the client is somebody else's."""
        if not self._given:
            await self._client.aclose()


class SyncFamily:
    """A transport over the sync client of a package. Parameters: see `AsyncFamily`."""

    def __init__(self, httpx: Any, wiring: Wiring | None = None, client: Any = None) -> None:
        self._httpx = httpx
        self._wiring = wiring or Wiring()
        self._given = client is not None
        self._client = httpx.Client(**settings(httpx, self._wiring)) if client is None else client
        self._client.cookies.jar.set_policy(_NO_COOKIES)

    def send(self, url: str, request: Request, headers: Mapping[str, str], patience: Patience, *, streamed: bool = False) -> Any:
        """Send it; the package's own response."""
        limits = self._httpx.Timeout(patience.read, connect=patience.connect, pool=None)
        out = self._client.build_request(**built(self._wiring, url, request, headers), timeout=limits)
        return self._client.send(out, stream=streamed)

    def end(self, response: Any) -> None:
        """Give the connection back."""
        response.close()

    def is_ours(self, error: BaseException) -> bool:
        """A pool without a free connection is our own bottleneck."""
        return isinstance(error, self._httpx.PoolTimeout | self._httpx.UnsupportedProtocol)

    def broke(self, response: Any, error: BaseException) -> bool:
        """Whether an error arose while the body of this answer came."""
        return broke(self._httpx, response, error)

    def close(self) -> None:
        """Close all connections, unless the client is somebody else's."""
        if not self._given:
            self._client.close()


_NO_COOKIES = DefaultCookiePolicy(allowed_domains=[])
