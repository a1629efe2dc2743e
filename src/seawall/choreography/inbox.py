"""The inbox: each handler handles each event once, as far as commits go."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from seawall.choreography.envelope import Envelope, unwrap
from seawall.choreography.errors import ChoreographyError, EventError
from seawall.choreography.outbox import Tx, put, run
from seawall.choreography.stores import Store, now

_FIRST: Final = """INSERT INTO inbox (consumer, message_id, received) VALUES (?,?,?)
    ON CONFLICT (consumer, message_id) DO UPDATE SET received = inbox.received RETURNING done"""
_COUNT: Final = """INSERT INTO inbox (consumer, message_id, received, receive_count) VALUES (?,?,?,1)
    ON CONFLICT (consumer, message_id) DO UPDATE SET receive_count = inbox.receive_count + 1 RETURNING receive_count, done"""
_REPLAYED: Final = "UPDATE dead_letter SET replayed=? WHERE id=?"
_log = logging.getLogger("seawall.choreography")


class Inbox:
    """Runs handlers behind the inbox row. tries: failures of one event in one handler before it goes to the dead letters, >= 1.
    limit: seconds that one handler may hold its transaction, > 0. retention: seconds that handled ids are kept, > 0; it must
    be longer than the broker's redelivery and any replay."""

    def __init__(self, store: Store, *, tries: int = 5, limit: float = 30.0, retention: float = 1_209_600.0) -> None:
        if tries < 1:
            raise ChoreographyError(f"tries must be >= 1; got {tries!r}")
        for name, value in (("limit", limit), ("retention", retention)):
            if not value > 0:
                raise ChoreographyError(f"{name} must be seconds > 0; got {value!r}")
        self.store, self.tries, self.limit, self.retention = store, tries, limit, retention

    async def handle(
        self, consumer: str, envelope: Envelope, kind: type | None, function: Callable[[Any, Tx], Any], make: Callable[[Any], Tx]
    ) -> bool:
        """Handle once. False for an event that this handler has handled before, or that went to the dead letters now."""
        try:
            async with self.store.transaction() as connection:
                (done,) = run(connection, _FIRST, (consumer, envelope.id, now())).fetchone()
                if done is not None:
                    return False
                async with asyncio.timeout(self.limit):
                    await self._call(function, envelope if kind is None else unwrap(envelope, kind), make(connection))
                run(connection, "UPDATE inbox SET done=? WHERE consumer=? AND message_id=?", (now(), consumer, envelope.id))
            return True
        except Exception as error:
            if not await self._blame(consumer, envelope, error):
                raise
            return False

    async def _call(self, function: Callable[[Any, Tx], Any], value: Any, tx: Tx) -> None:
        result = function(value, tx)
        if inspect.isawaitable(result):
            result = await _awaited(result)
        for made in result if isinstance(result, (list, tuple)) else (result,):
            if made is not None:
                tx.publish(made)

    async def _blame(self, consumer: str, envelope: Envelope, error: Exception) -> bool:
        """Count a failure; True when the event is a dead letter from now on."""
        async with self.store.transaction() as connection:
            count, done = run(connection, _COUNT, (consumer, envelope.id, now())).fetchone()
            if done is not None:
                return True
            if count < self.tries and not isinstance(error, EventError):
                return False
            text = f"{type(error).__name__}: {error}"
            sql = "INSERT INTO dead_letter (side, consumer, message_id, payload, error, died) VALUES ('inbox',?,?,?,?,?)"
            run(connection, sql, (consumer, envelope.id, envelope.text(), text, now()))
            run(connection, "UPDATE inbox SET done=? WHERE consumer=? AND message_id=?", (now(), consumer, envelope.id))
        _log.error("event %s is a dead letter of %s: %s", envelope.id, consumer, text)
        return True

    async def dead(self) -> list[tuple[int, str, str, str, str]]:
        """The dead letters that were not replayed: number, side, consumer, event id, error."""
        async with self.store.transaction() as connection:
            sql = "SELECT id, side, consumer, message_id, error FROM dead_letter WHERE replayed IS NULL ORDER BY id"
            return [tuple(row) for row in run(connection, sql).fetchall()]

    async def revive(self, number: int) -> tuple[str, str, Envelope]:
        """Let a dead letter be sent, or be handled once more: its side, consumer and envelope. What is to be handled stays
        a dead letter until `buried`, so that a crash cannot lose it. Raises ChoreographyError for a number that is none."""
        async with self.store.transaction() as connection:
            sql = "SELECT side, consumer, message_id, payload FROM dead_letter WHERE id=? AND replayed IS NULL"
            row = run(connection, sql, (number,)).fetchone()
            if row is None:
                raise ChoreographyError(f"there is no dead letter {number!r} that was not replayed yet")
            side, consumer, message, payload = row
            envelope = Envelope.read(payload)
            if side == "outbox":
                waits = run(connection, "UPDATE outbox SET published=NULL, attempts=0, due=0 WHERE id=?", (message,))
                if not waits.rowcount:  # it was swept
                    put(connection, consumer, envelope)
                run(connection, _REPLAYED, (now(), number))
            else:
                run(connection, "DELETE FROM inbox WHERE consumer=? AND message_id=?", (consumer, message))
        return side, consumer, envelope

    async def buried(self, number: int) -> None:
        """A dead letter was handled, or became another one."""
        async with self.store.transaction() as connection:
            run(connection, _REPLAYED, (now(), number))

    async def sweep(self) -> int:
        """Forget the ids of events handled longer ago than the retention; how many."""
        async with self.store.transaction() as connection:
            return int(run(connection, "DELETE FROM inbox WHERE done < ?", (now() - self.retention,)).rowcount)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
