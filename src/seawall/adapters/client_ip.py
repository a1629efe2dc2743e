"""Who asks: the client's address as a key for a limit. A header is believed only when it was written by somebody trusted."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any, Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LONGEST: Final = 2048
MOST_HOPS: Final = 32
NOBODY: Final = "unknown"


class client_ip:  # noqa: N801  # used as a function is
    """The key of a request: the address of its client. Takes an ASGI scope, a WSGI environ, or a Starlette request.

    trusted: addresses and networks of our own proxies, such as ["10.0.0.0/8", "::1"]. Default () = nobody: the peer's address
        counts and X-Forwarded-For is not looked at. Otherwise the header is read from the right, past trusted addresses, and
        the first other one is the client. What stands further left was written by the client and says nothing.
    ipv6_prefix: bits of an IPv6 address that count, in [32, 128], because one customer has a whole network. Default 64.
    Requests whose peer has no address (a Unix socket) count as "unknown", unless "unix" is among the trusted.
    Raises ValueError or TypeError for a network that cannot be read.

    >>> client_ip(trusted=["10.0.0.0/8"]).of("10.1.1.1", "6.6.6.6, 203.0.113.9, 10.2.2.2")
    '203.0.113.9'
    """

    def __init__(self, trusted: Iterable[str] = (), *, ipv6_prefix: int = 64) -> None:
        if isinstance(trusted, str):
            raise TypeError(f"trusted must be a list of addresses and networks; got {trusted!r}")
        words = list(trusted)
        self._unix = "unix" in words
        self._trusted: list[Network] = [ipaddress.ip_network(word) for word in words if word != "unix"]
        if isinstance(ipv6_prefix, bool) or not isinstance(ipv6_prefix, int) or not 32 <= ipv6_prefix <= 128:
            raise ValueError(f"ipv6_prefix must be a whole number in [32, 128]; got {ipv6_prefix!r}")
        self._prefix = ipv6_prefix

    def __call__(self, request: Any) -> str:
        """The key of a request."""
        scope = getattr(request, "scope", request)
        if "REMOTE_ADDR" in scope or "wsgi.version" in scope:
            return self.of(scope.get("REMOTE_ADDR") or None, scope.get("HTTP_X_FORWARDED_FOR"))
        peer = scope.get("client")
        lines = [value for name, value in scope.get("headers", ()) if name.lower() == b"x-forwarded-for"]
        return self.of(peer[0] if peer else None, b", ".join(lines).decode("latin-1") if lines else None)

    def of(self, peer: str | None, forwarded: str | None = None) -> str:
        """The key for a peer's address and the X-Forwarded-For that it sent."""
        address = _read(peer)
        if address is None and not (peer is None and self._unix):
            return NOBODY
        if address is not None and not self._is_trusted(address):
            return self._key(address)
        for word in reversed((forwarded or "")[-LONGEST:].split(",")[-MOST_HOPS:]):
            hop = _read(word.strip())
            if hop is None:
                break
            address = hop
            if not self._is_trusted(hop):
                break
        return NOBODY if address is None else self._key(address)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)

    def _key(self, address: Address) -> str:
        if isinstance(address, ipaddress.IPv4Address) or self._prefix == 128:
            return str(address)
        return str(ipaddress.ip_network((address, self._prefix), strict=False))


def _read(word: str | None) -> Address | None:
    """An address, also with a port or in brackets; None for what is none."""
    if not word or len(word) > 64:
        return None
    if word.startswith("["):
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    try:
        address = ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
