"""The relay: takes committed events out of the outbox and gives them to the broker, in order per key."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

from seawall.choreography.brokers.port import Broker
from seawall.choreography.envelope import Envelope
from seawall.choreography.errors import ChoreographyError, EventError
from seawall.choreography.stores.port import Session, Store, now

BATCH: Final = 200
_WAITING: Final = """SELECT position, id, aggregateid, payload, attempts, due, aggregatetype FROM outbox
    WHERE published IS NULL{visible} AND (aggregatetype, aggregateid) NOT IN
    (SELECT aggregatetype, aggregateid FROM outbox WHERE published IS NULL AND due > ?) ORDER BY position LIMIT {batch}"""
_VISIBLE: Final = {"sqlite": "", "postgresql": " AND xid < pg_snapshot_xmin(pg_current_snapshot())"}
_SENT: Final = "UPDATE outbox SET published=?, error=NULL WHERE position IN ({marks})"
_BURY: Final = "INSERT INTO dead_letter (side, consumer, message_id, payload, error, died) VALUES ('outbox',?,?,?,?,?)"
SWEPT: Final = 1000
_log = logging.getLogger("seawall.choreography")


class Relay:
    """Sends what is committed. Of several relays on one database one works, the others stand by and take over when it ends.

    every: seconds between looks when nobody calls `wake`, > 0, default 0.05. tries: sends of one event before it is dead,
    >= 1, or None = for ever (the default: a broker that is down is no fault of the event). backoff: seconds after the first
    failed send, doubled each time up to `longest`. retention: seconds that a sent event is kept, >= 0, default 7 days.
    """

    def __init__(
        self, store: Store, broker: Broker, *, every: float = 0.05, tries: int | None = None, backoff: float = 0.1,
        longest: float = 30.0, retention: float = 604_800.0,
    ) -> None:  # fmt: skip
        for name, value in (("every", every), ("backoff", backoff), ("longest", longest)):
            if not value > 0:
                raise ChoreographyError(f"{name} must be seconds > 0; got {value!r}")
        if tries is not None and tries < 1:
            raise ChoreographyError(f"tries must be >= 1 or None; got {tries!r}")
        if not retention >= 0:
            raise ChoreographyError(f"retention must be seconds >= 0; got {retention!r}")
        self.store, self.broker = store, broker
        self.every, self.tries, self.backoff, self.longest, self.retention = every, tries, backoff, longest, retention
        self.sent = 0
        self._waiting = _WAITING.format(visible=_VISIBLE[store.kind], batch=BATCH)
        self._bell = asyncio.Event()
        self._swept = 0.0

    def wake(self) -> None:
        """Something was committed: look now."""
        self._bell.set()

    async def run(self) -> None:
        """Relay until cancelled. What goes wrong is logged, and tried again."""
        while True:
            self._bell.clear()
            moved = 0
            try:
                if await self.store.lead():
                    moved = await self.once()
                    await self.sweep()
            except Exception as error:  # a relay that ends loses nothing, but sends nothing either
                _log.warning("the relay could not work: %s: %s", type(error).__name__, error)
            if not moved:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.every):
                        await self._bell.wait()

    async def once(self) -> int:
        """Send one batch; how many the broker has taken. Events of one key one after the other, keys side by side."""
        async with self.store.transaction() as session:
            rows = await session.run(self._waiting, (now(),))
        keys: dict[tuple[str, str], list[Any]] = {}
        for row in rows:
            keys.setdefault((row[6], row[2]), []).append(row)
        lanes = [self._lane(lane) for lane in keys.values()]
        results = await asyncio.gather(*lanes)
        done = [position for positions, _ in results for position in positions]
        failed = [failure for _, failure in results if failure is not None]
        if done or failed:
            async with self.store.transaction() as session:
                if done:
                    await session.run(_SENT.format(marks=",".join("?" * len(done))), (now(), *done))
                for row, error in failed:
                    await self._blame(session, row, error)
        self.sent += len(done)
        return len(done)

    async def _lane(self, rows: list[Any]) -> tuple[list[int], tuple[Any, Exception] | None]:
        done: list[int] = []
        for row in rows:
            try:
                await self.broker.publish(row[6], Envelope.read(row[3]))
            except Exception as error:
                return done, (row, error)
            done.append(row[0])
        return done, None

    async def _blame(self, session: Session, row: Any, error: Exception) -> None:
        """Note a failed send: later, or with the dead letters. The key's other events wait behind it meanwhile."""
        tries = row[4] + 1
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, EventError) or (self.tries is not None and tries >= self.tries):
            await session.run(_BURY, (row[6], row[1], row[3], text, now()))
            await session.run("UPDATE outbox SET published=?, attempts=?, error=? WHERE position=?", (now(), tries, text, row[0]))
            _log.error("event %s is a dead letter: %s", row[1], text)
            return
        due = now() + min(self.longest, self.backoff * 2.0 ** min(tries - 1, 30))
        await session.run("UPDATE outbox SET attempts=?, due=?, error=? WHERE position=?", (tries, due, text, row[0]))

    async def sweep(self, *, at_once: bool = False) -> int:
        """Forget what was sent longer ago than the retention, once a minute at most; how many."""
        if not at_once and now() - self._swept < 60:
            return 0
        self._swept = now()
        gone = 0
        while True:
            async with self.store.transaction() as session:
                sql = "DELETE FROM outbox WHERE position IN (SELECT position FROM outbox WHERE published < ? LIMIT ?) RETURNING 1"
                count = len(await session.run(sql, (now() - self.retention, SWEPT)))
            gone += count
            if count < SWEPT:
                return gone

    async def republish(self, since: float) -> int:
        """Send again what was written at or after `since` (seconds since 1970): for a broker that lost what it had
        acknowledged. Inboxes drop what they already handled. How many events it will be."""
        async with self.store.transaction() as session:
            sql = "UPDATE outbox SET published=NULL, due=0, attempts=0 WHERE created >= ? AND published IS NOT NULL RETURNING 1"
            count = len(await session.run(sql, (since,)))
        self.wake()
        return count
