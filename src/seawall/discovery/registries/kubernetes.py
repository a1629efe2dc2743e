"""`kubernetes://namespace` the EndpointSlices of a service, listed once and then watched. No Kubernetes client is needed.

Inside a pod the API server, its CA, the token and the own namespace are found where Kubernetes puts them. The role needs the
verbs list and watch on endpointslices of discovery.k8s.io. Endpoints that terminate stay in their slice until they are gone
(KEP-1672): while they still serve they are told as "draining".
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.discovery.backend import Backend, Listing
from seawall.discovery.errors import Outdated, RegistryError, RegistryUnavailable
from seawall.discovery.http import TLS_OPTIONS, Answer, Http
from seawall.discovery.instance import Instance, State
from seawall.discovery.place import Place, read_host

SECRETS: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVICE_LABEL: Final = "kubernetes.io/service-name"
PORT: Final = 443
PAGE: Final = 500
MOST_PAGES: Final = 100
GONE: Final = 410
WATCH_FOR: Final = 300  # seconds after which the server is asked to end a watch, so that no connection lives for ever
PAUSE: Final = 1.0  # seconds before a watch that ended at once is begun again
_RANK: Final = {"down": 0, "starting": 1, "draining": 2, "ready": 3}


list_of = list  # the class below has a verb of that name


@dataclass(slots=True)
class Cursor:
    """Where a list stands: the slices by name, and the version of the collection."""

    version: str
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)


class KubernetesBackend(Backend):
    """List and watch over plain HTTP."""

    propagation = 2.0
    filled_by = "Kubernetes, from the readiness probes of its pods"

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known("api", "port", "scheme", *TLS_OPTIONS)
        super().__init__(place, clock)
        if len(place.hosts) > 1 or (place.hosts and place.hosts[0][1] is not None):
            raise ValueError(f"kubernetes: names a namespace and no server, as in 'kubernetes://default'; got {place.name!r}")
        self.port = place.options.get("port")
        self.scheme = place.text("scheme", "http")
        self._made: Http | None = None

    # --- reading

    async def list(self, service: str) -> Listing:
        """All slices of the service, page by page."""
        return self._listing(service, await self._list({"labelSelector": f"{SERVICE_LABEL}={service}"}))

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """The watch of the slices from where `listing` stands; bookmarks move that place on while nothing changes."""
        cursor, port = listing.cursor, self.clock.tasks
        if not isinstance(cursor, Cursor):
            raise Outdated("the list does not say where it stands")
        while True:
            began = port.now()
            query = {"labelSelector": f"{SERVICE_LABEL}={service}", "watch": "1", "allowWatchBookmarks": "true"}
            query |= {"resourceVersion": cursor.version, "timeoutSeconds": str(WATCH_FOR)}
            async for status, event in self._http.lines("GET", self._path, query=query, headers=self._headers()):
                changed = _take(cursor, status, event, self._http.base)
                if changed:
                    listing = self._listing(service, cursor)
                yield listing
            if port.now() - began < PAUSE:
                await port.sleep(PAUSE)

    async def services(self) -> tuple[str, ...]:
        """The services of the namespace that have slices."""
        cursor = await self._list({"labelSelector": SERVICE_LABEL})
        labels = [each.get("metadata", {}).get("labels", {}) for each in cursor.slices.values()]
        return tuple(sorted({label[SERVICE_LABEL] for label in labels if label.get(SERVICE_LABEL)}))

    async def close(self) -> None:
        """Close all connections."""
        if self._made is not None:
            made, self._made = self._made, None
            await made.close()

    # --- steps

    async def _list(self, query: dict[str, str]) -> Cursor:
        cursor, more = Cursor(""), ""
        for _ in range(MOST_PAGES):
            page = {**query, "limit": str(PAGE)} | ({"continue": more} if more else {})
            answer = await self._http.ask("GET", self._path, query=page, headers=self._headers())
            body = _good(answer, self._http.base)
            about = body.get("metadata") or {}
            cursor.version = str(about.get("resourceVersion", ""))
            cursor.slices |= {_name(each): each for each in body.get("items") or ()}
            more = about.get("continue") or ""
            if not more:
                return cursor
        raise RegistryError(f"{self._http.base} has more than {MOST_PAGES * PAGE} slices of one service")

    def _listing(self, service: str, cursor: Cursor) -> Listing:
        found: list_of[Instance] = []
        skipped: list_of[str] = []
        for name, each in sorted(cursor.slices.items()):
            for endpoint in each.get("endpoints") or ():
                try:
                    found += self._instances(service, each, endpoint)
                except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                    skipped.append(f"{name}: {type(error).__name__}: {error}")
        return Listing(merged(found), 0, tuple(skipped), cursor=cursor)

    def _instances(self, service: str, slice: dict[str, Any], endpoint: dict[str, Any]) -> tuple[Instance, ...]:
        port = next((each for each in slice.get("ports") or () if self.port in (None, each.get("name"))), None)
        if port is None or port.get("port") is None:
            return ()
        target = endpoint.get("targetRef") or {}
        notes = {"pod": target.get("name"), "pod_uid": target.get("uid"), "node": endpoint.get("nodeName")}
        return (
            Instance(
                service,
                host=endpoint["addresses"][0],  # the others are the same endpoint, says the API
                port=port["port"],
                scheme=self.scheme,
                zone=endpoint.get("zone"),
                metadata={name: value for name, value in notes.items() if value},
                state=_state(endpoint.get("conditions") or {}),
            ),
        )

    @property
    def _http(self) -> Http:
        if self._made is None:
            self._made = Http(self._placed(), port=PORT, tls=True, hosts=(self._server(),))
        return self._made

    @property
    def _path(self) -> str:
        namespace = self.place.hosts[0][0] if self.place.hosts else self._read("namespace") or "default"
        return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"

    def _server(self) -> tuple[str, int | None]:
        named = self.place.options.get("api")
        if named is not None:
            return read_host(named)
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise RegistryUnavailable("this is no pod: KUBERNETES_SERVICE_HOST is not set; say ?api=HOST:PORT")
        return host, int(port)

    def _placed(self) -> Place:
        """The place with the CA of the pod, unless another one was named."""
        own = SECRETS / "ca.crt"
        if "ca" in self.place.options or not own.exists() or not self.place.flag("tls", default=True):
            return self.place
        return replace(self.place, options={**self.place.options, "ca": str(own)})

    def _headers(self) -> dict[str, str]:
        token = self.place.secret() or self._read("token")  # read each time: Kubernetes renews it
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _read(self, name: str) -> str | None:
        with suppress(OSError):
            return (SECRETS / name).read_text(encoding="utf-8").strip()
        return None


def _good(answer: Answer, base: str) -> dict[str, Any]:
    if answer.status == GONE:
        raise Outdated("the list grew too old while it was read")
    if answer.status != 200 or not isinstance(answer.body, dict):
        message = answer.body.get("message") if isinstance(answer.body, dict) else answer.text
        raise RegistryUnavailable(f"{base} answered {answer.status}: {str(message)[:300]}")
    return answer.body


def _take(cursor: Cursor, status: int, event: Any, base: str) -> bool:
    """Put one event into the slices; whether it changed them. Raises Outdated when the place is too old."""
    if status != 200 or not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        code = event.get("code") if isinstance(event, dict) else None
        if GONE in (status, code):
            raise Outdated("the version to watch from is too old")
        raise RegistryUnavailable(f"{base} answered {status} to a watch: {str(event)[:300]}")
    kind, told = event.get("type"), event["object"]
    if kind == "ERROR":
        if told.get("code") == GONE:
            raise Outdated(str(told.get("message", "the version to watch from is too old"))[:300])
        raise RegistryUnavailable(f"{base} ended the watch: {str(told)[:300]}")
    cursor.version = str(told.get("metadata", {}).get("resourceVersion") or cursor.version)
    if kind == "BOOKMARK":
        return False
    if kind == "DELETED":
        return cursor.slices.pop(_name(told), None) is not None
    cursor.slices[_name(told)] = told
    return True


def _name(slice: dict[str, Any]) -> str:
    return str(slice.get("metadata", {}).get("name", ""))


def _state(conditions: dict[str, Any]) -> State:
    """What an endpoint's conditions mean; one that is not told counts as ready, says the API."""
    ready = conditions.get("ready") is not False
    if conditions.get("terminating"):
        return "draining" if conditions.get("serving", ready) else "down"
    return "ready" if ready else "starting"


def merged(instances: list[Instance]) -> tuple[Instance, ...]:
    """One instance per endpoint: a slice that is being split names some twice, a dual-stack service names each pod by two
    addresses, of which the IPv4 one is kept."""
    best: dict[str, Instance] = {}
    for one in sorted(instances, key=lambda each: (":" not in each.host, _RANK[each.state])):
        best[f"{one.metadata.get('pod_uid') or one.host}:{one.port}"] = one
    return tuple(sorted(best.values(), key=lambda each: each.id))
