"""`consul://host:8500` services of the local Consul agent, with TTL checks, followed by blocking queries.

A blocking query that returns does not prove a change, and an index that goes back must be forgotten: both are documented by
Consul ("Blocking Queries"). A heartbeat for a check that the agent has forgotten ("does not have associated TTL") can never
succeed again: the instance registers anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

from seawall.core.clock import Clock
from seawall.discovery.backend import Backend, Hold, Listing
from seawall.discovery.errors import Lost, Outdated, RegistryError, RegistryUnavailable, Taken
from seawall.discovery.http import TLS_OPTIONS, Answer, Http
from seawall.discovery.instance import Instance, State, ordered
from seawall.discovery.place import Place
from seawall.discovery.records import state_of

PORT: Final = 8500
OURS: Final = "seawall-"
FLOOR: Final = 0.1  # seconds from one blocking query to the next: a check that flaps must not become a storm of questions
LINGER: Final = 0.25  # seconds between "down" and the end, so that a blocking query sees both
DEREGISTER_AFTER: Final = "1m"  # Consul's least: it takes out what has been critical for so long
MAINTENANCE: Final = ("_service_maintenance:", "_node_maintenance")


class ConsulBackend(Backend):
    """One service of the agent per instance; state, zone and the rest travel as metadata."""

    propagation = 0.5

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known("dc", "wait", *TLS_OPTIONS)
        super().__init__(place, clock)
        self.wait = place.seconds("wait", 10.0, least=1.0)
        self._dc = {"dc": place.options["dc"]} if "dc" in place.options else {}
        self._made: Http | None = None

    # --- reading

    async def list(self, service: str) -> Listing:
        """All instances whose checks are not critical."""
        answer = await self._ask("GET", f"/v1/health/service/{quote(service)}", query=self._dc)
        return _listing(answer, service)

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """Questions that wait for a change for up to `wait` seconds (default 10), then are asked again."""
        port = self.clock.tasks
        while True:
            began = port.now()
            query = {**self._dc, "index": str(max(1, listing.revision)), "wait": f"{self.wait:g}s"}
            answer = await self._ask("GET", f"/v1/health/service/{quote(service)}", query=query, patience=self.wait * 2)
            fresh = _listing(answer, service)
            if fresh.revision < listing.revision:
                raise Outdated(f"the index went back from {listing.revision} to {fresh.revision}")
            if fresh != listing:
                listing = fresh
            yield listing
            await port.sleep(max(0.0, began + FLOOR - port.now()))

    async def services(self) -> tuple[str, ...]:
        """The services of the catalogue."""
        answer = await self._ask("GET", "/v1/catalog/services", query=self._dc)
        return tuple(sorted(answer.body)) if isinstance(answer.body, dict) else ()

    # --- writing

    async def put(self, hold: Hold) -> None:
        """Register with the agent. The first write takes the id over; later ones do so unless another owner lives there."""
        if not hold.fresh:
            await self._not_taken(hold)
        await self._register(hold)

    async def beat(self, hold: Hold) -> None:
        """Renew the TTL check. Raises Lost when the agent does not know it."""
        path = f"/v1/agent/check/update/{_quoted(_check_id(hold.instance))}"
        answer = await self._send("PUT", path, body={"Status": _status(hold.instance)})
        unknown = answer.status in (404, 500) and ("TTL" in str(answer.text) or "nknown check" in str(answer.text))
        if unknown or answer.status == 404:
            raise Lost(f"the agent does not know the check of {hold.instance.id}")
        _good(answer, self._http.base)

    async def check(self, hold: Hold) -> Instance:
        """The agent must know the service as it was written."""
        known = await self._known(hold)
        if known is None or known.get("Meta") != _service(hold)["Meta"]:
            raise Lost(f"the agent lost or changed the service {hold.instance.id}")
        return hold.instance

    async def mark(self, service: str, id: str, state: State) -> bool:
        """Maintenance mode for "draining" and "down", its end for "ready". Only the agent that has the service can do it."""
        if state == "starting":
            raise RegistryError("consul: knows maintenance or none; say draining, down or ready")
        query = {"enable": "false" if state == "ready" else "true", "reason": f"seawall: {state}"}
        answer = await self._send("PUT", f"/v1/agent/service/maintenance/{_quoted(f'{service}-{id}')}", query=query)
        if answer.status == 404:
            return False
        _good(answer, self._http.base)
        return True

    async def remove(self, hold: Hold) -> None:
        """Say "down", give those who watch a moment to see it, and deregister. Somebody else's registration is left alone."""
        known = await self._known(hold)
        if known is None or known.get("Meta", {}).get(OURS + "owner") != hold.owner:
            return
        hold.instance = hold.instance.with_state("down")
        await self._register(hold)
        await self.clock.tasks.sleep(LINGER)
        await self._ask("PUT", f"/v1/agent/service/deregister/{_quoted(_service_id(hold.instance))}")

    async def close(self) -> None:
        """Close all connections."""
        if self._made is not None:
            made, self._made = self._made, None
            await made.close()

    # --- steps

    async def _register(self, hold: Hold) -> None:
        """Write the service, and its check's status: an agent keeps the status of a check that it knows already."""
        await self._ask("PUT", "/v1/agent/service/register", body=_service(hold), query={"replace-existing-checks": "true"})
        await self.beat(hold)

    async def _not_taken(self, hold: Hold) -> None:
        known = await self._known(hold)
        if known is None or known.get("Meta", {}).get(OURS + "owner") == hold.owner:
            return
        answer = await self._send("GET", f"/v1/agent/health/service/id/{_quoted(_service_id(hold.instance))}")
        if answer.status in (200, 429):  # it passes or warns: somebody lives there
            raise Taken(f"{hold.instance.id} was registered anew by another process")

    async def _known(self, hold: Hold) -> dict[str, Any] | None:
        answer = await self._send("GET", f"/v1/agent/service/{_quoted(_service_id(hold.instance))}")
        if answer.status == 404:
            return None
        return _good(answer, self._http.base).body or {}

    @property
    def _http(self) -> Http:
        if self._made is None:
            self._made = Http(self.place, port=PORT)
        return self._made

    async def _send(self, method: str, path: str, **said: Any) -> Answer:
        token = self.place.secret()
        return await self._http.ask(method, path, headers={"X-Consul-Token": token} if token else {}, **said)

    async def _ask(self, method: str, path: str, **said: Any) -> Answer:
        return _good(await self._send(method, path, **said), self._http.base)


def _good(answer: Answer, base: str) -> Answer:
    if answer.status != 200:
        raise RegistryUnavailable(f"{base} answered {answer.status}: {answer.text[:200]}")
    return answer


def _service(hold: Hold) -> dict[str, Any]:
    """An instance as Consul wants it: metadata as it is, and what is ours under names of ours."""
    one, meta = hold.instance, dict(hold.instance.metadata)
    ours = {"id": one.id, "owner": hold.owner, "state": one.state, "scheme": one.scheme, "weight": repr(one.weight)}
    ours |= {name: value for name, value in (("zone", one.zone), ("version", one.version)) if value is not None}
    meta |= {OURS + name: value for name, value in ours.items()}
    passing = {"Passing": max(1, round(one.weight)), "Warning": 1}
    ttl = {"CheckID": _check_id(one), "Name": "heartbeat", "TTL": f"{hold.ttl:g}s", "Status": _status(one)}
    ttl["DeregisterCriticalServiceAfter"] = DEREGISTER_AFTER
    body: dict[str, Any] = {"ID": _service_id(one), "Name": one.service, "Address": one.host, "Port": one.port, "Meta": meta}
    return {**body, "Tags": list(one.tags), "Weights": passing, "Check": ttl}


def _status(one: Instance) -> str:
    """What other clients of Consul should think: a state that takes no new work is a warning."""
    return "passing" if one.state == "ready" else "warning"


def _service_id(one: Instance) -> str:
    return f"{one.service}-{one.id}"


def _check_id(one: Instance) -> str:
    return f"service:{_service_id(one)}"


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _listing(answer: Answer, service: str) -> Listing:
    try:
        index = int(answer.headers.get("x-consul-index", "0"))
    except ValueError:
        index = 0
    found, skipped = [], []
    for entry in answer.body if isinstance(answer.body, list) else ():
        try:
            one = _instance(entry, service)
        except (RegistryError, KeyError, TypeError, ValueError, AttributeError) as error:
            skipped.append(f"{str(entry)[:60]}: {error}")
        else:
            found += [one] if one is not None else []
    return Listing(ordered(found), max(0, index), tuple(skipped))


def _instance(entry: dict[str, Any], service: str) -> Instance | None:
    """One entry of a health answer: ours or anybody's. None when a check of it is critical."""
    told, meta = entry["Service"], entry["Service"].get("Meta") or {}
    state = state_of(meta.get(OURS + "state"))
    critical = [check for check in entry.get("Checks", ()) if check.get("Status") == "critical"]
    if any(str(check.get("CheckID", "")).startswith(MAINTENANCE) for check in critical):
        state = "draining"
    elif critical:
        return None
    weight = meta.get(OURS + "weight") or (told.get("Weights") or {}).get("Passing", 1)
    return Instance(
        service,
        id=meta.get(OURS + "id") or told["ID"],
        host=told.get("Address") or entry["Node"]["Address"],
        port=told["Port"],
        scheme=meta.get(OURS + "scheme", "http"),
        weight=float(weight),
        zone=meta.get(OURS + "zone"),
        version=meta.get(OURS + "version"),
        tags=tuple(told.get("Tags") or ()),
        metadata={name: value for name, value in meta.items() if not name.startswith(OURS)},
        state=state,
    )
