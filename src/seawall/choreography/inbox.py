"""The inbox: each handler handles each event once, as far as commits go."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from seawall.choreography.envelope import Envelope, unwrap
from seawall.choreography.errors import ChoreographyError, EventError
from seawall.choreography.outbox import INSERT, LOCK, Tx, row_of
from seawall.choreography.stores.port import Session, Store, now

_FIRST: Final = """INSERT INTO inbox (consumer, message_id, received) VALUES (?,?,?)
    ON CONFLICT (consumer, message_id) DO UPDATE SET received = inbox.received RETURNING done"""
_COUNT: Final = """INSERT INTO inbox (consumer, message_id, received, receive_count) VALUES (?,?,?,1)
    ON CONFLICT (consumer, message_id) DO UPDATE SET receive_count = inbox.receive_count + 1 RETURNING receive_count, done"""
_DONE: Final = "UPDATE inbox SET done=? WHERE consumer=? AND message_id=?"
_BURY: Final = "INSERT INTO dead_letter (side, consumer, message_id, payload, error, died) VALUES (?,?,?,?,?,?)"
_SWEEP: Final = """DELETE FROM inbox WHERE (consumer, message_id) IN
    (SELECT consumer, message_id FROM inbox WHERE done < ? LIMIT ?) RETURNING message_id"""
SWEPT: Final = 1000
_REPLAYED: Final = "UPDATE dead_letter SET replayed=? WHERE id=?"
_log = logging.getLogger("seawall.choreography")


class Inbox:
    """Runs handlers behind the inbox row. tries: failures of one event in one handler before it goes to the dead letters, >= 1.
    limit: seconds that one handler may hold its transaction, > 0. retention: seconds that handled ids are kept, > 0; it must
    be longer than the broker's redelivery and any replay. ordered: whether events are written under their key's lock."""

    def __init__(
        self, store: Store, *, topic: str = "", tries: int = 5, limit: float = 30.0, retention: float = 1_209_600.0,
        ordered: bool = False,
    ) -> None:  # fmt: skip
        if tries < 1:
            raise ChoreographyError(f"tries must be >= 1; got {tries!r}")
        for name, value in (("limit", limit), ("retention", retention)):
            if not value > 0:
                raise ChoreographyError(f"{name} must be seconds > 0; got {value!r}")
        self.store, self.topic, self.tries, self.limit, self.retention = store, topic, tries, limit, retention
        self.ordered = ordered

    async def handle(
        self,
        consumer: str,
        envelope: Envelope,
        kind: type | None,
        function: Callable[[Any, Tx], Any],
        make: Callable[[Session], Tx],
    ) -> bool:
        """Handle once. False for an event that this handler has handled before, or that went to the dead letters now."""
        try:
            async with self.store.transaction() as session:
                ((done,),) = await session.run(_FIRST, (consumer, envelope.id, now()))
                if done is not None:
                    return False
                async with asyncio.timeout(self.limit):
                    tx = make(session)
                    await _call(session, function, envelope if kind is None else unwrap(envelope, kind), tx)
                    await self.put(session, tx.published)
                await session.run(_DONE, (now(), consumer, envelope.id))
            return True
        except Exception as error:
            if not await self._blame(consumer, envelope, error):
                raise
            return False

    async def put(self, session: Session, envelopes: Iterable[Envelope]) -> None:
        """Write events into the outbox."""
        for envelope in envelopes:
            if self.ordered and self.store.kind == "postgresql":
                await session.run(LOCK, (f"{self.topic}/{envelope.subject}",))
            await session.run(INSERT, row_of(self.topic, envelope))

    async def _blame(self, consumer: str, envelope: Envelope, error: Exception) -> bool:
        """Count a failure; True when the event is a dead letter from now on."""
        async with self.store.transaction() as session:
            ((count, done),) = await session.run(_COUNT, (consumer, envelope.id, now()))
            if done is not None:
                return True
            if count < self.tries and not isinstance(error, EventError):
                return False
            text = f"{type(error).__name__}: {error}"
            await session.run(_BURY, ("inbox", consumer, envelope.id, envelope.text(), text, now()))
            await session.run(_DONE, (now(), consumer, envelope.id))
        _log.error("event %s is a dead letter of %s: %s", envelope.id, consumer, text)
        return True

    async def dead(self) -> list[tuple[int, str, str, str, str]]:
        """The dead letters that were not replayed: number, side, consumer, event id, error."""
        async with self.store.transaction() as session:
            sql = "SELECT id, side, consumer, message_id, error FROM dead_letter WHERE replayed IS NULL ORDER BY id"
            return [(number, side, consumer, id_, error) for number, side, consumer, id_, error in await session.run(sql)]

    async def revive(self, number: int) -> tuple[str, str, Envelope]:
        """Let a dead letter be sent, or be handled once more: its side, consumer and envelope. What is to be handled stays
        a dead letter until `buried`, so that a crash cannot lose it. Raises ChoreographyError for a number that is none."""
        async with self.store.transaction() as session:
            sql = "SELECT side, consumer, message_id, payload FROM dead_letter WHERE id=? AND replayed IS NULL"
            rows = await session.run(sql, (number,))
            if not rows:
                raise ChoreographyError(f"there is no dead letter {number!r} that was not replayed yet")
            side, consumer, message, payload = rows[0]
            envelope = Envelope.read(payload)
            if side == "outbox":
                sql = "UPDATE outbox SET published=NULL, attempts=0, due=0 WHERE id=? RETURNING id"
                if not await session.run(sql, (message,)):  # it was swept
                    await session.run(INSERT, row_of(consumer, envelope))
                await session.run(_REPLAYED, (now(), number))
            else:
                await session.run("DELETE FROM inbox WHERE consumer=? AND message_id=?", (consumer, message))
        return side, consumer, envelope

    async def buried(self, number: int) -> None:
        """A dead letter was handled, or became another one."""
        async with self.store.transaction() as session:
            await session.run(_REPLAYED, (now(), number))

    async def sweep(self) -> int:
        """Forget the ids of events handled longer ago than the retention, at most `SWEPT` of them; how many."""
        async with self.store.transaction() as session:
            return len(await session.run(_SWEEP, (now() - self.retention, SWEPT)))

    async def keep_house(self) -> None:
        """Sweep once a minute, until cancelled."""
        while True:
            try:
                while await self.sweep() == SWEPT:
                    pass
            except Exception as error:  # the next minute will do
                _log.warning("the inbox could not be swept: %s: %s", type(error).__name__, error)
            await asyncio.sleep(60)


async def _call(session: Session, function: Callable[[Any, Tx], Any], value: Any, tx: Tx) -> None:
    """Run a handler, and publish what it returns."""
    result = function(value, tx) if inspect.iscoroutinefunction(function) else await session.call(function, value, tx)
    if inspect.isawaitable(result):
        result = await _awaited(result)
    for made in result if isinstance(result, (list, tuple)) else (result,):
        if made is not None:
            tx.publish(made)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
