"""`sqlite:///registry.db` a registry in a file, for many processes on one machine, without a server.

Followers poll one row, the revision of their service, which changes with members and states but not with heartbeats. Time to
live is counted on the clock that all processes of a machine share since it was booted, not on the time of day, which may jump.
The file must be on a disk of this machine: SQLite's write-ahead log does not work over a network.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeVar

from seawall.core.clock import Clock
from seawall.discovery.backend import Backend, Hold, Listing
from seawall.discovery.errors import Lost, RegistryError, RegistryUnavailable, Taken
from seawall.discovery.instance import Instance, State, ordered
from seawall.discovery.place import Place
from seawall.discovery.records import decode, encode

T = TypeVar("T")
MOST_ROWS: Final = 10_000
LINGER: Final = 2.0  # seconds that a record stays as "down" after it was removed
SWEEP_AFTER: Final = 60.0  # seconds that a dead row may lie before somebody who writes takes it out
CONFIRM_EVERY: Final = 1.0  # seconds between looks at the file itself, and between words that nothing changed
BUSY: Final = 1.0  # seconds that a writer waits for another one

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS seawall_instances (
    service TEXT NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL, record TEXT NOT NULL,
    boot TEXT NOT NULL, beat REAL NOT NULL, ttl REAL NOT NULL, PRIMARY KEY (service, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seawall_services (service TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
"""
_BUMP: Final = (
    "INSERT INTO seawall_services VALUES (?, 1) ON CONFLICT (service) DO UPDATE SET revision = seawall_services.revision + 1"
)


class SqliteBackend(Backend):
    """Rows in a file, one worker thread per event loop."""

    propagation = 0.15
    local = True

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known("poll")
        super().__init__(place, clock)
        if place.path in ("", ":memory:"):
            raise ValueError("sqlite: needs a file, as in 'sqlite:///registry.db'; 'memory:' keeps a registry in memory")
        self.path = Path(place.path)
        self.poll = place.seconds("poll", 0.05)
        self._boot = boot_id()
        self._file: sqlite3.Connection | None = None
        self._inode = 0
        self._worker: ThreadPoolExecutor | None = None

    # --- reading

    async def list(self, service: str) -> Listing:
        """The rows that live now."""
        return (await self._run(self._read, service))[0]

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """Looks at the revision every `poll` seconds (default 0.05), and at the rows when it changed or one may have died."""
        listing, dies_at = await self._run(self._read, service)
        yield listing
        told_at = looked_at = self.clock.monotonic()
        while True:
            await self.clock.tasks.sleep(self.poll)
            now = self.clock.monotonic()
            if now - looked_at >= CONFIRM_EVERY:
                looked_at = now
                await self._run(self._recheck)
            revision = await self._run(self._revision, service)
            if revision != listing.revision or now >= dies_at:
                fresh, dies_at = await self._run(self._read, service)
                if fresh != listing:
                    listing, told_at = fresh, now
                    yield listing
            if now - told_at >= CONFIRM_EVERY:
                told_at = now
                yield listing

    async def services(self) -> tuple[str, ...]:
        """The services that have rows which live."""

        def read() -> tuple[str, ...]:
            query = "SELECT DISTINCT service FROM seawall_instances WHERE boot = ? AND beat + ttl > ? ORDER BY service"
            return tuple(name for (name,) in self._open().execute(query, (self._boot, self.clock.monotonic())))

        return await self._run(read)

    # --- writing

    async def put(self, hold: Hold) -> None:
        """Write the row over whatever is there."""
        await self._run(self._put, hold)

    async def beat(self, hold: Hold) -> None:
        """Let the own row live on; members did not change, so the revision stays."""

        def write() -> None:
            one, now = hold.instance, self.clock.monotonic()
            mine = "service = ? AND id = ? AND owner = ? AND boot = ? AND beat + ttl > ?"
            query = f"UPDATE seawall_instances SET beat = ? WHERE {mine}"
            self._recheck()
            with self._open() as file:
                if file.execute(query, (now, one.service, one.id, hold.owner, self._boot, now)).rowcount == 0:
                    raise Lost(f"{self.place.name} no longer holds {one.id}, or somebody else registered it")

        await self._run(write)

    async def check(self, hold: Hold) -> Instance:
        """The own row, as it is. Also takes out what died long ago."""

        def look() -> Instance:
            one = hold.instance
            query = "SELECT record FROM seawall_instances WHERE service = ? AND id = ? AND owner = ?"
            self._recheck()
            with self._open() as file:
                row = file.execute(query, (one.service, one.id, hold.owner)).fetchone()
                if row is None:
                    raise Lost(f"the record of {one.id} was taken out by somebody else")
                before = self.clock.monotonic() - SWEEP_AFTER
                file.execute("DELETE FROM seawall_instances WHERE boot != ? OR beat + ttl < ?", (self._boot, before))
            return decode(row[0], service=one.service)

        try:
            return await self._run(look)
        except RegistryUnavailable:
            raise
        except RegistryError as error:
            raise Lost(str(error)) from error

    async def mark(self, service: str, id: str, state: State) -> bool:
        """Change the state in a row that lives."""

        def write() -> bool:
            key = (service, id)
            with self._open() as file:
                file.execute("BEGIN IMMEDIATE")
                alive = "service = ? AND id = ? AND boot = ? AND beat + ttl > ?"
                query = f"SELECT record FROM seawall_instances WHERE {alive}"
                row = file.execute(query, (*key, self._boot, self.clock.monotonic())).fetchone()
                if row is None:
                    return False
                record = encode(decode(row[0], service=service).with_state(state))
                file.execute("UPDATE seawall_instances SET record = ? WHERE service = ? AND id = ?", (record, *key))
                file.execute(_BUMP, (service,))
                return True

        return await self._run(write)

    async def remove(self, hold: Hold) -> None:
        """Leave the row as "down" for a moment; then it counts as gone."""

        def write() -> None:
            one = hold.instance
            query = "UPDATE seawall_instances SET record = ?, beat = ?, ttl = ? WHERE service = ? AND id = ? AND owner = ?"
            down = encode(one.with_state("down"))
            with self._open() as file:
                file.execute("BEGIN IMMEDIATE")
                told = file.execute(query, (down, self.clock.monotonic(), LINGER, one.service, one.id, hold.owner))
                if told.rowcount:
                    file.execute(_BUMP, (one.service,))

        await self._run(write)

    async def close(self) -> None:
        """Close the file and end the thread."""
        if self._worker is not None:
            worker, loop = self._worker, asyncio.get_running_loop()
            await loop.run_in_executor(worker, self._shut)
            self._worker = None
            worker.shutdown(wait=False)

    # --- in the worker thread

    def _put(self, hold: Hold) -> None:
        one, now = hold.instance, self.clock.monotonic()
        key = (one.service, one.id)
        self._recheck()
        with self._open() as file:
            file.execute("BEGIN IMMEDIATE")
            query = "SELECT owner, boot, beat + ttl FROM seawall_instances WHERE service = ? AND id = ?"
            known = file.execute(query, key).fetchone()
            if known is None:
                count = file.execute("SELECT count(*) FROM seawall_instances WHERE service = ?", (one.service,)).fetchone()[0]
                if count >= MOST_ROWS:
                    raise RegistryError(f"{self.place.name} holds at most {MOST_ROWS} instances of one service")
            elif not hold.fresh and known[0] != hold.owner and known[1] == self._boot and known[2] > now:
                raise Taken(f"{one.id} was registered anew by another process")
            values = (*key, hold.owner, encode(one), self._boot, now, hold.ttl)
            file.execute("INSERT OR REPLACE INTO seawall_instances VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            file.execute(_BUMP, (one.service,))

    def _read(self, service: str) -> tuple[Listing, float]:
        """The list, and the moment at which the first of it would die."""
        now, instances, skipped, dies_at = self.clock.monotonic(), [], [], float("inf")
        file = self._open()
        revision = self._revision(service)  # before the rows: a change in between is then seen by the next look
        alive = "service = ? AND boot = ? AND beat + ttl > ? AND beat <= ?"
        query = f"SELECT id, record, beat + ttl FROM seawall_instances WHERE {alive}"
        for id, record, until in file.execute(query, (service, self._boot, now, now + BUSY)):
            dies_at = min(dies_at, until)
            try:
                instances.append(decode(record, service=service))
            except RegistryError as error:
                skipped.append(f"{id}: {error}")
        return Listing(ordered(instances), revision, tuple(skipped)), dies_at

    def _revision(self, service: str) -> int:
        row = self._open().execute("SELECT revision FROM seawall_services WHERE service = ?", (service,)).fetchone()
        return 0 if row is None else row[0]

    def _open(self) -> sqlite3.Connection:
        """The connection, made at its first use."""
        if self._file is None:
            file = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            try:
                with closing(file.execute("PRAGMA journal_mode = WAL")) as told:
                    told.fetchall()
                file.execute("PRAGMA synchronous = NORMAL")
                file.executescript(_SCHEMA)
            except BaseException:
                file.close()
                raise
            self._file, self._inode = file, os.stat(self.path).st_ino
        return self._file

    def _recheck(self) -> None:
        """Open anew when the file was deleted or replaced: a connection to a file without a name looks healthy for ever."""
        with suppress(FileNotFoundError):
            if self._file is None or os.stat(self.path).st_ino == self._inode:
                return
        self._shut()

    def _shut(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        """Run one piece of work on the worker thread; the loop never waits for a disk."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="seawall-registry")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)
        except sqlite3.Error as error:
            raise RegistryUnavailable(f"{self.place.name}: {error}") from error


def boot_id() -> str:
    """What names this boot of this machine: a monotonic moment from before it means nothing now. Empty where none is told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
