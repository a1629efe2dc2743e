"""`etcd://host:2379` records under leases, followed by a watch, over etcd's JSON gateway: no gRPC is needed.

A lease that has ended answers its keep-alive with 200 and no TTL; a watch that was compacted away is told so in a stream that
stays open; a frozen server says nothing at all. The first two are read here, the last one is the watcher's watchdog's.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import groupby
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.discovery.backend import Backend, Hold, Listing
from seawall.discovery.errors import Lost, Outdated, RegistryError, RegistryUnavailable, Taken
from seawall.discovery.http import TLS_OPTIONS, Answer, Http
from seawall.discovery.instance import Instance, State, ordered
from seawall.discovery.place import Place
from seawall.discovery.records import as_record, decode

PORT: Final = 2379
MOST: Final = 10_001
UNAUTHENTICATED: Final = 16
NOT_FOUND: Final = 5


class EtcdBackend(Backend):
    """One key per instance: `PREFIX/SERVICE/ID`, with a lease of its own."""

    propagation = 0.5

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known("prefix", *TLS_OPTIONS)
        super().__init__(place, clock)
        self.prefix = "/" + place.text("prefix", "/seawall/services").strip("/") + "/"
        self._made: Http | None = None
        self._token: str | None = None

    # --- reading

    async def list(self, service: str) -> Listing:
        """All keys of the service, as a majority of the cluster knows them."""
        body = await self._ask("/v3/kv/range", {**_under(f"{self.prefix}{service}/"), "limit": str(MOST)})
        found, skipped = {}, []
        for pair in body.get("kvs", ()):
            try:
                found[pair["key"]] = decode(b64decode(pair["value"]), service=service)
            except RegistryError as error:
                skipped.append(f"{_text(pair['key'])}: {error}")
        return Listing(ordered(found.values()), _revision(body), tuple(skipped))

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """Changes since the revision of `listing`, one list for each revision."""
        known = {one.id: one for one in listing.instances}
        start = {**_under(f"{self.prefix}{service}/"), "start_revision": str(listing.revision + 1), "progress_notify": True}
        async for status, line in self._http.lines("POST", "/v3/watch", body={"create_request": start}, headers=self._headers()):
            if status != 200 or "error" in line or not isinstance(line.get("result"), dict):
                raise _failure(Answer(status, {}, line), self._http.base)
            result = line["result"]
            if result.get("canceled"):
                if "compact_revision" in result:
                    raise Outdated(f"revisions before {result['compact_revision']} were compacted away")
                raise RegistryUnavailable(f"{self._http.base} ended the watch: {result.get('cancel_reason', 'no reason told')}")
            revision, events = _revision(result), result.get("events", ())
            if not events and revision < listing.revision:
                raise Outdated(f"the revision went back from {listing.revision} to {revision}")
            for at, group in groupby(events, lambda event: int(event["kv"].get("mod_revision", 0))):
                skipped = _apply(known, list(group), service)
                listing = Listing(ordered(known.values()), at, skipped)
                yield listing
            if not events:
                yield listing

    async def services(self) -> tuple[str, ...]:
        """The services that have keys."""
        body = await self._ask("/v3/kv/range", {**_under(self.prefix), "keys_only": True, "limit": str(MOST)})
        return tuple(sorted({_text(pair["key"]).removeprefix(self.prefix).partition("/")[0] for pair in body.get("kvs", ())}))

    # --- writing

    async def put(self, hold: Hold) -> None:
        """Renew the lease, or grant one, and write the key under it. The first write takes the key over; later ones do so only
        while nobody else has it."""
        if hold.lease is not None:
            with suppress(Lost):
                await self.beat(hold)
        if hold.lease is None:
            granted = await self._ask("/v3/lease/grant", {"TTL": str(math.ceil(hold.ttl))})
            hold.lease = granted["ID"]
        try:
            if hold.fresh:
                await self._ask("/v3/kv/put", self._pair(hold))
            else:
                await self._put_own(hold, hold.instance)
        except Lost as lost:
            if not isinstance(lost, Taken):
                hold.lease = None
            raise

    async def beat(self, hold: Hold) -> None:
        """Keep the lease alive. An answer without a TTL means that it has ended."""
        body = await self._ask("/v3/lease/keepalive", {"ID": hold.lease})
        if int(body.get("result", {}).get("TTL", 0)) <= 0:
            hold.lease = None
            raise Lost(f"the lease of {hold.instance.id} has ended")

    async def check(self, hold: Hold) -> Instance:
        """The own key, under the own lease, as it is."""
        pair = await self._mine(hold)
        if pair is None or pair.get("lease") != hold.lease:
            raise Lost(f"the key of {hold.instance.id} was taken out or lost its lease")
        try:
            return decode(b64decode(pair["value"]), service=hold.instance.service)
        except RegistryError as error:
            raise Lost(str(error)) from error

    async def mark(self, service: str, id: str, state: State) -> bool:
        """Change the state in a key, which keeps its lease, unless it changes at the same moment."""
        key = _b64(f"{self.prefix}{service}/{id}")
        for pair in (await self._ask("/v3/kv/range", {"key": key})).get("kvs", ()):
            record = {**json.loads(b64decode(pair["value"])), "state": state}
            compare = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": pair["mod_revision"]}
            put = {"requestPut": {"key": key, "value": _b64(json.dumps(record, sort_keys=True)), "ignore_lease": True}}
            body = await self._ask("/v3/kv/txn", {"compare": [compare], "success": [put]})
            if not body.get("succeeded"):
                raise RegistryUnavailable(f"the key of {id} changed while it was written")
            return True
        return False

    async def remove(self, hold: Hold) -> None:
        """Write "down", which those who watch see first, and revoke the lease: the key goes with it."""
        if hold.lease is None:
            return
        with suppress(Lost):  # the key may be somebody else's by now; the lease is still ours
            await self._put_own(hold, hold.instance.with_state("down"))
        with suppress(Lost):  # it may have ended by itself
            await self._ask("/v3/lease/revoke", {"ID": hold.lease})
        hold.lease = None

    async def close(self) -> None:
        """Close all connections."""
        if self._made is not None:
            made, self._made = self._made, None
            await made.close()

    # --- steps

    async def _put_own(self, hold: Hold, instance: Instance) -> None:
        """Write the key unless it belongs to another owner. Raises Taken then."""
        pair = await self._mine(hold)
        revision = pair["mod_revision"] if pair is not None else "0"
        compare = {"key": self._key(hold), "target": "MOD", "result": "EQUAL", "mod_revision": revision}
        put = {"requestPut": self._pair(hold, instance)}
        body = await self._ask("/v3/kv/txn", {"compare": [compare], "success": [put]})
        if not body.get("succeeded"):
            raise RegistryUnavailable(f"the key of {instance.id} changed while it was written")

    async def _mine(self, hold: Hold) -> Any:
        """The pair under the own key, or None. Raises Taken when somebody else wrote it."""
        body = await self._ask("/v3/kv/range", {"key": self._key(hold)})
        for pair in body.get("kvs", ()):
            try:
                owner = json.loads(b64decode(pair["value"])).get("owner")
            except (ValueError, AttributeError):
                owner = None
            if owner != hold.owner:
                raise Taken(f"{hold.instance.id} was registered anew by another process")
            return pair
        return None

    def _key(self, hold: Hold) -> str:
        return _b64(f"{self.prefix}{hold.instance.service}/{hold.instance.id}")

    def _pair(self, hold: Hold, instance: Instance | None = None) -> dict[str, str]:
        record = {**as_record(instance or hold.instance), "owner": hold.owner}
        return {"key": self._key(hold), "value": _b64(json.dumps(record, sort_keys=True)), "lease": hold.lease}

    @property
    def _http(self) -> Http:
        if self._made is None:
            self._made = Http(self.place, port=PORT)
        return self._made

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": self._token}

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._http.ask("POST", path, body=body, headers=self._headers())
        if self.place.user is not None and _refused(answer):
            await self._log_in()
            answer = await self._http.ask("POST", path, body=body, headers=self._headers())
        if answer.status != 200 or not isinstance(answer.body, dict):
            raise _failure(answer, self._http.base)
        return answer.body

    async def _log_in(self) -> None:
        body = {"name": self.place.user, "password": self.place.password or ""}
        answer = await self._http.ask("POST", "/v3/auth/authenticate", body=body)
        if answer.status != 200 or not isinstance(answer.body, dict) or "token" not in answer.body:
            raise _failure(answer, self._http.base)
        self._token = answer.body["token"]


def _apply(known: dict[str, Instance], events: list[dict[str, Any]], service: str) -> tuple[str, ...]:
    """Put the events of one revision into what is known; the records that could not be read."""
    skipped = []
    for event in events:
        id = _text(event["kv"]["key"]).rpartition("/")[2]
        known.pop(id, None)
        if event.get("type") == "DELETE":
            continue
        try:
            known[id] = decode(b64decode(event["kv"].get("value", "")), service=service)
        except RegistryError as error:
            skipped.append(f"{id}: {error}")
    return tuple(skipped)


def _failure(answer: Answer, base: str) -> RegistryError:
    told: dict[str, Any] = answer.body if isinstance(answer.body, dict) else {}
    error = told.get("error")
    inner: dict[str, Any] = error if isinstance(error, dict) else told
    message = str(inner.get("message") or inner.get("error") or "")[:200]
    if inner.get("code", inner.get("grpc_code")) == NOT_FOUND or "lease not found" in message:
        return Lost(message)
    return RegistryUnavailable(f"{base} answered {answer.status}: {message}")


def _refused(answer: Answer) -> bool:
    code = answer.body.get("code") if isinstance(answer.body, dict) else None
    return answer.status == 401 or code == UNAUTHENTICATED or "user name is empty" in str(answer.body)


def _revision(body: dict[str, Any]) -> int:
    return int(body.get("header", {}).get("revision", 0))


def _under(prefix: str) -> dict[str, Any]:
    """The range of all keys that begin with `prefix`."""
    return {"key": _b64(prefix), "range_end": _b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()


def _text(key: str) -> str:
    return b64decode(key).decode(errors="replace")
