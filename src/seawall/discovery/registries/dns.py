"""`dns://server/zone` services that a name server knows: SRV records first, addresses after them.

Made for headless services of Kubernetes (`dns:///default.svc.cluster.local?port=http`) and for any zone that follows RFC 2782.
Every answer is asked for anew, after its TTL and at least every 5 seconds: nothing on the way may cache for longer than the
record says. A name that does not exist is an empty service, not an error; the watcher's brake doubts it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from seawall.core import units
from seawall.core.clock import Clock
from seawall.discovery.backend import Backend, Listing
from seawall.discovery.errors import RegistryError, RegistryUnavailable
from seawall.discovery.instance import Instance, ordered
from seawall.discovery.place import Place

PORT: Final = 53
SLOWEST: Final = 5.0
FASTEST: Final = 1.0
LIFETIME: Final = 5.0  # seconds for one question with its repeats; callers cut earlier
MOST_TARGETS: Final = 1000
AT_ONCE: Final = 16
FAMILIES: Final = {"4": ("A",), "6": ("AAAA",), "both": ("A", "AAAA")}


class DnsBackend(Backend):
    """Questions to a name server, in the order SRV, then A and AAAA."""

    propagation = SLOWEST + 1.0
    filled_by = "whoever keeps the zone"

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known("port", "proto", "default_port", "family", "scheme")
        super().__init__(place, clock)
        self.zone = place.path.strip("/.")
        self.port = place.text("port", "http")
        self.proto = place.text("proto", "tcp")
        self.scheme = place.text("scheme", "http")
        own = place.options.get("default_port")
        self.default_port = None if own is None else units.whole("default_port", int(own) if own.isdigit() else own, most=65535)
        self.family = units.one_of("family", place.text("family", "both"), tuple(FAMILIES))
        self._made: dns.asyncresolver.Resolver | None = None

    # --- reading

    async def list(self, service: str) -> Listing:
        """What the name server says now."""
        return (await self._look(service))[0]

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """Asks again after the TTL, from 1 to 5 seconds."""
        while True:
            fresh, ttl = await self._look(service)
            if fresh != listing:
                listing = fresh
            yield listing
            await self.clock.tasks.sleep(min(SLOWEST, max(FASTEST, ttl)))

    async def services(self) -> tuple[str, ...]:
        """A zone does not tell what it holds."""
        raise RegistryError("dns: cannot list services; ask for one by its name")

    # --- steps

    async def _look(self, service: str) -> tuple[Listing, float]:
        """The list, and the seconds for which it is true."""
        name = f"{service}.{self.zone}." if self.zone else f"{service}."
        told = await self._ask(f"_{self.port}._{self.proto}.{name}", "SRV")
        if told is not None and told.rrset:
            return await self._from_srv(service, told)
        addresses, ttl = await self._addresses(name)
        if addresses and self.default_port is None:
            raise RegistryError(f"dns: {name} has addresses and no SRV record; say ?default_port=")
        found = [self._instance(service, address, self.default_port or 0, 1.0) for address in addresses]
        return Listing(ordered(found)), ttl

    async def _from_srv(self, service: str, told: Any) -> tuple[Listing, float]:
        first = min(record.priority for record in told.rrset)
        records = [record for record in told.rrset if record.priority == first and str(record.target) != "."]
        if len(records) > MOST_TARGETS:
            raise RegistryError(f"dns: {service} has {len(records)} SRV records; {MOST_TARGETS} are the most")
        weighted = any(record.weight for record in records)
        seats = asyncio.Semaphore(AT_ONCE)

        async def addresses(record: Any) -> tuple[Sequence[str], float]:
            async with seats:
                beside = self._beside(told.response, record.target)
                return (beside, SLOWEST) if beside else await self._addresses(str(record.target))

        looked_up = await asyncio.gather(*map(addresses, records))
        found = [
            self._instance(service, address, record.port, float(record.weight) if weighted else 1.0)
            for record, (known, _) in zip(records, looked_up, strict=True)
            for address in known
        ]
        return Listing(ordered(found)), min([float(told.rrset.ttl), *(ttl for _, ttl in looked_up)])

    def _beside(self, response: Any, target: Any) -> Sequence[str]:
        """The addresses that came along with the SRV records."""
        wanted = {dns.rdatatype.from_text(kind) for kind in FAMILIES[self.family]}
        sets = [each for each in response.additional if each.name == target and each.rdtype in wanted]
        return sorted(record.address for each in sets for record in each)

    async def _addresses(self, name: str) -> tuple[Sequence[str], float]:
        told = await asyncio.gather(*(self._ask(name, kind) for kind in FAMILIES[self.family]))
        sets = [answer.rrset for answer in told if answer is not None and answer.rrset]
        found = sorted({record.address for each in sets for record in each})[:MOST_TARGETS]
        return found, min((float(each.ttl) for each in sets), default=FASTEST)

    def _instance(self, service: str, address: str, port: int, weight: float) -> Instance:
        return Instance(service, host=address, port=port, weight=weight, scheme=self.scheme)

    async def _ask(self, name: str, kind: str) -> Any:
        """One question; None when the name does not exist. Raises RegistryUnavailable without an answer."""
        try:
            resolver = self._resolver()
            return await resolver.resolve(name, kind, raise_on_no_answer=False, lifetime=LIFETIME, search=False)
        except dns.resolver.NXDOMAIN:
            return None
        except (dns.exception.DNSException, OSError) as error:
            raise RegistryUnavailable(f"{self.place.name}: {type(error).__name__}: {error}") from error

    def _resolver(self) -> dns.asyncresolver.Resolver:
        if self._made is None:
            resolver = dns.asyncresolver.Resolver(configure=not self.place.hosts)
            if self.place.hosts:
                resolver.nameservers = list(_servers(self.place.hosts))
            resolver.cache = None
            self._made = resolver
        return self._made


def _servers(hosts: Iterable[tuple[str, int | None]]) -> Iterable[dns.nameserver.Nameserver]:
    for host, port in hosts:
        yield dns.nameserver.Do53Nameserver(host, port or PORT)
