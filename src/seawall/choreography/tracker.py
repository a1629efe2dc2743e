"""The tracker: listens to every event of a choreography and writes the tables that orchestrated sagas are written in, so that
one view shows both. It commands nothing, except that it can publish an event when a saga is late."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from seawall.choreography.envelope import Envelope, wrap
from seawall.choreography.errors import ChoreographyError
from seawall.choreography.graph import Graph
from seawall.choreography.outbox import Tx, run
from seawall.choreography.stores.port import now
from seawall.saga.journals.schema import MIGRATING, migrate

if TYPE_CHECKING:
    from seawall.choreography.choreography import Service

_SAGA: Final = """INSERT INTO saga (id, name, version, def_hash, user_key, input_hash, input, status, epoch, stamp, deadline,
    created, updated) VALUES (?,?,1,?,?,'',?,'running',0,0,?,?,?) ON CONFLICT (user_key, name) DO NOTHING"""
_STEP: Final = """INSERT INTO saga_step (saga_id, seq, step, phase, outcome, round, attempt, result, error, worker,
    epoch,
    started, ended) VALUES (?,?,?,?,?,0,1,?,?,?,0,?,?)"""
_NEXT: Final = """UPDATE saga SET status=?, error=COALESCE(?, error), updated=?,
    deadline=CASE WHEN ? THEN NULL ELSE deadline END WHERE id=?"""
_LATE: Final = (
    "UPDATE saga SET deadline=NULL, status='stuck', error=?, updated=? WHERE name=? AND deadline < ? RETURNING user_key"
)
_DEFINITION: Final = (
    "INSERT INTO saga_definition (hash, name, version, graph, first_seen) VALUES (?,?,1,?,?) ON CONFLICT (hash) DO NOTHING"
)
_log = logging.getLogger("seawall.choreography")


class Tracker:
    """timeout: seconds that a saga may take from its first event, > 0, or None = for ever. late: the event to publish then, made
    from the correlation; without it the saga is only marked as stuck. every: seconds between looks for late sagas, > 0."""

    def __init__(self, *, timeout: float | None = None, late: Callable[[str], Any] | None = None, every: float = 0.25) -> None:
        if timeout is not None and not timeout > 0:
            raise ChoreographyError(f"timeout must be seconds > 0 or None; got {timeout!r}")
        if not every > 0:
            raise ChoreographyError(f"every must be seconds > 0; got {every!r}")
        self.timeout, self.late, self.every = timeout, late, every
        self._service: Service | None = None
        self._graph: Graph | None = None

    async def bind(self, service: Service) -> None:
        """Take the store and the graph of a service."""
        self._service, self._graph = service, service.of.graph()
        kind = "postgres" if service.store.kind == "postgresql" else "sqlite"
        async with service.store.transaction() as session:
            if kind == "postgres":
                await session.run(f"SELECT pg_advisory_xact_lock({MIGRATING})")
            await session.call(
                migrate, lambda sql, values=(): run(session.connection, sql, values), kind, f"of {service.of.name}"
            )
            await session.run(_DEFINITION, (self._graph.hash(), service.of.name, self._graph.text(), now()))

    async def see(self, envelope: Envelope) -> None:
        """Note one event, once."""
        service, _ = self._bound()
        name = f"{service.of.name}.tracker"
        await service.inbox.handle(name, envelope, None, self._note, lambda session: Tx(session, envelope, "tracker", "tracker"))

    def _bound(self) -> tuple[Service, Graph]:
        if self._service is None or self._graph is None:
            raise ChoreographyError("the tracker belongs to no service yet: give it to Choreography.open")
        return self._service, self._graph

    def _note(self, envelope: Envelope, tx: Tx) -> None:
        service, graph = self._bound()
        name, moment = service.of.name, now()
        id_ = f"{name}:{envelope.correlationid}"
        deadline = None if self.timeout is None else moment + self.timeout
        tx.execute(_SAGA, (id_, name, graph.hash(), envelope.correlationid, json.dumps(envelope.data), deadline, moment, moment))
        tx.execute("UPDATE saga SET updated=updated WHERE id=?", (id_,))  # its row is ours: lines get their numbers one by one
        step = envelope.sagastep or envelope.type
        undo = any(h.name == step and h.undoes is not None for h in graph.handlers)
        label = next((h.undoes for h in graph.handlers if h.name == step and h.undoes), step)
        failed = envelope.type in graph.failures()
        ((last,),) = tx.execute("SELECT COALESCE(MAX(seq), 0) FROM saga_step WHERE saga_id=?", (id_,))
        result = json.dumps({"event": envelope.type, "id": envelope.id})
        line = (
            id_,
            last + 1,
            label,
            "undo" if undo else "do",
            "rejected" if failed else "ok",
            result,
            envelope.type if failed else None,
        )
        tx.execute(_STEP, (*line, envelope.source, moment, moment))
        status, error = self._status(tx.execute("SELECT step, phase, outcome, result FROM saga_step WHERE saga_id=?", (id_,)))
        over = status in ("completed", "compensated")
        tx.execute(_NEXT, (status, error, moment, over, id_))

    def _status(self, rows: list[tuple[Any, ...]]) -> tuple[str, str | None]:
        """What the events seen so far say, whatever the order they came in."""
        _, graph = self._bound()
        seen = {json.loads(result)["event"] for _, _, _, result in rows}
        failed = next(
            (f"{step}: {json.loads(result)['event']}" for step, _, outcome, result in rows if outcome == "rejected"), None
        )
        ended = bool(seen & {graph.name(kind) for kind in graph.ends})
        if failed is None:
            return ("completed" if ended else "running"), None
        curable = {h.undoes for h in graph.handlers if h.undoes}
        done = {step for step, phase, outcome, _ in rows if phase == "do" and outcome == "ok"} & curable
        undone = {step for step, phase, outcome, _ in rows if phase == "undo" and outcome == "ok"}
        return ("compensated" if ended and done <= undone else "compensating"), failed

    async def watch(self) -> None:
        """Look for late sagas until cancelled."""
        while True:
            try:
                await self.overdue()
            except Exception as error:  # it looks again in a moment
                _log.warning("the tracker could not look for late sagas: %s", error)
            await asyncio.sleep(self.every)

    async def overdue(self) -> list[str]:
        """Mark the sagas whose time is over, and publish what is to be published; their correlations."""
        service, _ = self._bound()
        async with service.store.transaction() as session:
            why = f"timeout: not over {self.timeout} s after its first event"
            keys = [key for (key,) in await session.run(_LATE, (why, now(), service.of.name, now()))]
            if self.late is not None:
                late = self.late
                await service.inbox.put(session, (wrap(late(key), source="tracker", correlation=key) for key in keys))
        if keys:
            service.relay.wake()
        return keys
