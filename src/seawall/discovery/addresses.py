"""Which addresses a registry may send us to. Whoever can write to a registry can otherwise point clients at anything.

Loopback is for registries of this machine; link-local addresses are where clouds keep credentials.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final

# addresses of metadata services outside the link-local range: AWS over IPv6, Alibaba Cloud, Oracle Cloud's platform services
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
_METADATA_NAMES: Final = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_OLD_SPELLING: Final = re.compile(r"(?:0[xX][0-9A-Fa-f]+|[0-9]+)(?:\.(?:0[xX][0-9A-Fa-f]+|[0-9]+)){0,3}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class AddressRules:
    """The allow-list that every host from a registry passes.

    allow_loopback: 127.0.0.0/8, ::1 and localhost. Default False; memory:, static: and sqlite: registries say True.
    allow_link_local: 169.254.0.0/16, fe80::/10 and the metadata addresses and names of clouds. Default False.

    Unspecified, multicast and broadcast addresses never pass. A host name passes unless it is one of the names above: what
    it resolves to is not looked at here.
    """

    allow_loopback: bool = False
    allow_link_local: bool = False

    def refusal(self, host: str) -> str | None:
        """Why this host may not be called, or None when it may."""
        address = read_address(host)
        if address is None:
            return self._refusal_of_name(host.rstrip(".").lower())
        if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
            return "no instance can have an unspecified, multicast or broadcast address"
        if address.is_loopback and not self.allow_loopback:
            return "a loopback address is this machine to everybody who reads it; allow_loopback=True lets it pass"
        if (address.is_link_local or address in _METADATA) and not self.allow_link_local:
            return "a link-local address may be a cloud's metadata service; allow_link_local=True lets it pass"
        return None

    def _refusal_of_name(self, name: str) -> str | None:
        if (name == "localhost" or name.endswith((".localhost", ".localdomain"))) and not self.allow_loopback:
            return "localhost is this machine to everybody who reads it; allow_loopback=True lets it pass"
        if name in _METADATA_NAMES and not self.allow_link_local:
            return "this name is a cloud's metadata service; allow_link_local=True lets it pass"
        return None


def read_address(host: str) -> Address | None:
    """The address that a host is, in any spelling that resolvers take (`127.1`, `0x7f000001`), or None for a name.

    IPv4 inside IPv6 (mapped, 6to4, NAT64) is read as the IPv4 address that it leads to.
    """
    try:
        address: Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if _OLD_SPELLING.fullmatch(host) is None:
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    if isinstance(address, ipaddress.IPv6Address):
        return _inside(address) or address
    return address


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in ipaddress.IPv6Network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
