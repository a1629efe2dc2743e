"""What a journal promises beside the happy path: ageing, secrets, versions of its tables, and databases that cannot be used."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger import Ledger, Order, PlaceOrder
from postgres_server import Server

import seawall.saga.journals.schema as schema
from seawall.core.errors import MissingExtra
from seawall.saga import (
    Context,
    InputChanged,
    JournalError,
    NotSerialisable,
    PayloadTooLarge,
    Saga,
    SagaCompensated,
    Sagas,
    Unknown,
    UnknownSaga,
    step,
)
from seawall.saga.errors import JournalFull, JournalLocked, JournalMissing, JournalReadOnly, JournalTooNew
from seawall.saga.journals import disk, open_journal
from seawall.saga.journals.alive import Alive, boot_id, boot_now
from seawall.saga.journals.postgres_sql import can_heal, dialect, problem
from seawall.saga.port import Verb

Conduct = Callable[..., Sagas]


class Echo(Saga[str, str]):
    """Gives back what it was given."""

    name = "echo"

    @step(undo="none")
    async def say(self, ctx: Context, text: str) -> str:
        return text


def opened(url: str, **options: Any) -> Any:
    """The error that opening and starting gives."""
    with pytest.raises(JournalError) as told:
        with Sagas(url, [Echo()], worker=False, **options) as sagas:
            sagas.start_sync(Echo, "x", id="x")
    return told.value


# --- ageing


def test_ended_sagas_move_into_the_archive_by_age_and_free_their_id(place: Any, conduct: Conduct) -> None:
    """A journal that only grows becomes slow; what is archived is whole, and what is in flight stays."""

    async def main() -> None:
        async with conduct(Echo()) as sagas:
            for id_ in "abc":
                await (await sagas.start(Echo, id_ * 3, id=id_, tags={"of": id_})).result(20)
            assert await sagas.archive("1h") == 0
            assert await sagas.archive(0, limit=2) == 2
            assert await sagas.archive(0) == 1
            with pytest.raises(UnknownSaga):
                await sagas.handle("a")
            assert (await sagas.start(Echo, "other", id="a")).new

    asyncio.run(main())
    assert place.rows("SELECT count(*) FROM saga_archive WHERE status='completed'") == [(3,)]
    kept = json.loads(place.rows("SELECT saga FROM saga_archive WHERE user_key='a'")[0][0])
    assert (kept["saga"]["input"], kept["steps"][0][6]) == ('"aaa"', '"aaa"')


def test_a_worker_archives_by_itself(place: Any, conduct: Conduct) -> None:
    """What must be done by a cron job is forgotten."""

    async def main() -> None:
        async with conduct(Echo(), worker=False) as asks:
            await asks.start(Echo, "x", id="x")
        async with conduct(Echo()) as sagas:
            await (await sagas.handle("x")).result(20)
        await asyncio.sleep(0.15)
        async with conduct(Echo(), archive_after=0.1):
            until = time.monotonic() + 20
            while place.rows("SELECT count(*) FROM saga_archive") != [(1,)]:
                assert time.monotonic() < until
                await asyncio.sleep(0.05)

    asyncio.run(main())
    assert place.rows("SELECT count(*) FROM saga") == [(0,)]


# --- payloads


class Mirror:
    """A stand-in for a cipher: nothing of the text is readable in what it seals."""

    def seal(self, text: str) -> str:
        return "sealed:" + base64.b85encode(text.encode()[::-1]).decode()

    def open(self, text: str) -> str:
        assert text.startswith("sealed:")
        return base64.b85decode(text.removeprefix("sealed:"))[::-1].decode()


class Secret(Saga[str, str]):
    """Carries a secret through input, result, signal and output."""

    name = "secret"

    @step()
    async def say(self, ctx: Context, text: str) -> str:
        return f"{text} again"

    @say.undo
    async def unsay(self, ctx: Context, text: str, said: str | Unknown) -> None: ...

    @step(after=say, undo="none")
    async def then(self, ctx: Context, text: str) -> str:
        return ctx.result(self.say)


def test_a_cipher_hides_every_payload(place: Any, conduct: Conduct) -> None:
    """Card data in a journal is card data in every backup; the id still finds its saga, and another input is still noticed."""

    async def main() -> None:
        async with conduct(Secret(), cipher=Mirror()) as sagas:
            handle = await sagas.start(Secret, "4111-1111", id="a")
            assert await handle.result(20) == "4111-1111 again"
            assert not (await sagas.start(Secret, "4111-1111", id="a")).new
            with pytest.raises(InputChanged):
                await sagas.start(Secret, "4222", id="a")
            await sagas.archive(0)

    asyncio.run(main())
    for table in ("saga", "saga_step", "saga_archive", "saga_signal"):
        assert "4111" not in repr(place.rows(f"SELECT * FROM {table}")), table


def test_what_cannot_be_written_starts_nothing_and_says_what_to_do(place: Any, conduct: Conduct) -> None:
    """Bad input is told to the caller, before anything is half-written."""

    class Loose(Saga[Any, Any]):
        name = "loose"

        @step(undo="none")
        async def say(self, ctx: Context, text: Any) -> Any:
            return object() if text == "bad" else "x" * 5000

    async def main() -> None:
        async with conduct(Echo(), Loose(), largest=1000) as sagas:
            with pytest.raises(PayloadTooLarge, match="has 2002 bytes, the limit is 1000; store it elsewhere"):
                await sagas.start(Echo, "x" * 2000)
            with pytest.raises(NotSerialisable, match="the input of loose q cannot be written as JSON"):
                await sagas.start(Loose, object(), id="q")
            with pytest.raises(NotSerialisable, match="no str"):
                await sagas.start(Echo, 5)  # type: ignore[arg-type]
            assert await sagas.read(lambda tx: tx.execute("SELECT count(*) FROM saga")) == [(0,)]
            for text, what in (("bad", "cannot be written as JSON"), ("long", "has 5002 bytes")):
                with pytest.raises(SagaCompensated, match=f"WrongResult: .*{what}"):
                    await (await sagas.start(Loose, text)).result(20)
            with pytest.raises(ValueError, match="id must be text of 1 to 200"):
                await sagas.start(Echo, "x", id="x" * 201)
            with pytest.raises(ValueError, match="tags must be at most 20"):
                await sagas.start(Echo, "x", tags={str(n): "" for n in range(21)})

    asyncio.run(main())


# --- versions of the tables


def test_older_tables_are_brought_up_to_date_and_keep_their_sagas(
    place: Any, conduct: Conduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of Seawall must not need a weekend; nor may an old program write into tables that it does not know."""

    async def start(id_: str) -> None:
        async with conduct(Echo(), worker=False) as asks:
            await asks.start(Echo, "x", id=id_)

    async def finish(id_: str) -> None:
        async with conduct(Echo()) as sagas:
            assert await (await sagas.handle(id_)).result(20) == "x"

    asyncio.run(start("a"))
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("ALTER TABLE saga ADD COLUMN mood TEXT DEFAULT 'calm'",)))
    asyncio.run(finish("a"))
    asyncio.run(finish("a"))
    assert place.rows("SELECT mood FROM saga") == [("calm",)]
    monkeypatch.undo()
    told = opened(place.url)
    assert isinstance(told, JournalTooNew)
    assert "has tables of version 2, this Seawall knows 1: upgrade Seawall" in str(told)


# --- databases that cannot be used: SQLite


def test_a_full_file_is_told_and_the_sagas_go_on_when_there_is_room(tmp_path: Path) -> None:
    """A full disk fails the start that meets it, cleanly; a saga in flight waits and then goes on, without doing a step again."""
    calls: list[str] = []

    class Fill(Saga[str, str]):
        name = "fill"

        @step(undo="none")
        async def say(self, ctx: Context, text: str) -> str:
            calls.append(ctx.key)
            pages = sagas.journal._writer.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
            sagas.journal._writer.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[attr-defined]
            return "x" * 200_000

    sagas = Sagas(f"sqlite:///{tmp_path}/a.db", [Fill(), Echo()], poll=0.05)

    async def main() -> None:
        async with sagas:
            seen: list[Any] = []
            sagas.subscribe(lambda event: seen.append(event) if event.kind == "saga.journal_failed" else None)
            handle = await sagas.start(Fill, "x")
            while not seen:
                await asyncio.sleep(0.01)
            assert isinstance(seen[0].data["error"], JournalFull)
            with pytest.raises(JournalFull, match="the disk is full: free some space"):
                await sagas.start(Echo, "y" * 100_000, id="y")
            sagas.journal._writer.execute("PRAGMA max_page_count=1000000")  # type: ignore[attr-defined]
            assert len(await handle.result(20)) == 200_000
            with pytest.raises(UnknownSaga):
                await sagas.handle("y")

    asyncio.run(main())
    assert len(calls) == 1


def test_a_file_that_somebody_keeps_locked_is_told(tmp_path: Path) -> None:
    """A forgotten shell with an open transaction must not look like a hanging program."""
    url = f"sqlite:///{tmp_path}/a.db"
    with Sagas(url, [Echo()], worker=False):
        pass
    other = sqlite3.connect(tmp_path / "a.db")
    other.execute("BEGIN IMMEDIATE")
    told = opened(url, busy=0.05)
    assert isinstance(told, JournalLocked)
    assert "end that program, or its transaction" in str(told)
    other.rollback()
    other.close()


def as_nobody(work: Callable[[], Any]) -> str:
    """What `work` says in a process that may not write here: another user's when we are root."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
        except BaseException as error:  # it is what we are asked for
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_files_and_folders_that_may_not_be_written_are_told(tmp_path: Path) -> None:
    """A wrong owner after a deployment: the message names the file and the right to look at."""
    for folder in [tmp_path, *tmp_path.parents][:4]:
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    url = f"sqlite:///{tmp_path}/a.db"
    with Sagas(url, [Echo()], worker=False):
        pass
    for path in tmp_path.iterdir():
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert as_nobody(lambda: opened_raises(url)).startswith(f"JournalReadOnly: the journal {tmp_path}/a.db cannot be written")
    finally:
        tmp_path.chmod(0o755)
    gone = opened(f"sqlite:///{tmp_path}/nowhere/a.db")
    assert isinstance(gone, JournalMissing)
    assert "there is no folder" in str(gone)
    (tmp_path / "b.db").write_bytes(b"this is no database, but it is long enough to be read as one" * 20)
    assert "file is not a database" in str(opened(f"sqlite:///{tmp_path}/b.db"))


def opened_raises(url: str) -> None:
    with Sagas(url, [Echo()], worker=False) as sagas:
        sagas.start_sync(Echo, "x")


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks do not hold there, and nobody notices until two workers run one saga."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs4 rw 0 0\nother /else nfs4 rw 0 0\n")
    assert disk.file_system(tmp_path, mounts) == "nfs4"
    assert disk.file_system(Path("/"), mounts) == "ext4"
    monkeypatch.setattr(disk, "file_system", lambda folder: "nfs4")
    told = opened(f"sqlite:///{tmp_path}/a.db")
    assert "lies on nfs4, a network file system" in str(told)
    assert "move it to a local disk, or use PostgreSQL" in str(told)
    assert not (tmp_path / "a.db").exists()


# --- databases that cannot be used: PostgreSQL


def test_a_postgresql_that_cannot_be_used_is_told_without_the_password(postgres: Server) -> None:
    """Each wrong setting has its own type and advice."""
    url = postgres.database()
    with Sagas(url, [Echo()], worker=False):
        pass
    name = url.rsplit("/", 1)[1]
    closed = url.replace(f":{postgres.port}/", ":1/")
    found = [opened(closed), opened(postgres.url("nowhere"))]
    assert [type(told) for told in found] == [JournalMissing, JournalMissing]
    assert "check that the server runs" in str(found[0])
    assert 'database "nowhere" does not exist' in str(found[1])
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as root:
        root.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        found.append(opened(url))
        assert isinstance(found[-1], JournalReadOnly)
        root.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        root.execute("CREATE ROLE guest LOGIN")
        found.append(opened(url.replace("shop:hunter2@", "guest@")))
        assert isinstance(found[-1], JournalReadOnly)
        assert "grant it the rights" in str(found[-1])
        root.execute("DROP ROLE guest")
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE saga IN ACCESS EXCLUSIVE MODE")
        found.append(opened(url, busy=0.1))
    assert isinstance(found[-1], JournalLocked)
    assert all("hunter2" not in str(told) for told in found)
    with pytest.raises(ValueError, match="the driver cannot read it") as unreadable:
        open_journal("postgresql://shop:hunter2@[")
    assert "hunter2" not in str(unreadable.value)
    postgres.drop(url)


def test_what_no_server_can_be_made_to_show_is_mapped_by_its_code() -> None:
    """A full disk on the server is told as what it is, and only what can heal is sent again."""
    assert isinstance(problem("p", RuntimeError("no space"), "53100"), JournalFull)
    assert type(problem("p", RuntimeError("x"), "23505")) is JournalError
    assert [can_heal(code, lost=False) for code in ("40001", "40P01", "57P01", "23505", "53100", None)] == [True] * 3 + [
        False
    ] * 3
    assert can_heal(None, lost=True)
    assert dialect("SELECT '?' || ? WHERE x LIKE 'a%'") == "SELECT '?' || %s WHERE x LIKE 'a%%'"


def test_a_promoted_standby_has_a_later_timeline_and_so_a_higher_fence(tmp_path: Path) -> None:
    """After a failover the copy may lack the last claims, so its epochs may repeat; its timeline does not."""
    server = Server()
    standby = None
    try:
        url = server.database()
        with Sagas(url, [Echo()], worker=False) as sagas:
            before = sagas.journal.timeline
            sagas.start_sync(Echo, "x", id="x")
        standby = server.standby()
        there = standby.url(url.rsplit("/", 1)[1])
        assert isinstance(opened(there), JournalReadOnly)
        server.stop(crash=True)
        standby.promote()

        async def main() -> None:
            async with Sagas(there, [Echo()], poll=0.05) as promoted:
                assert promoted.journal.timeline > before >= 1
                assert await (await promoted.handle("x")).result(20) == "x"

        asyncio.run(main())
    finally:
        server.close()
        if standby is not None:
            standby.close()


def test_the_ledger_saga_is_the_same_on_both_journals(place: Any, conduct: Conduct, tmp_path: Path) -> None:
    """Same tables, same lines: moving from one database to the other is a copy."""
    ledger = Ledger(tmp_path / "ledger.db")

    async def main() -> None:
        async with conduct(PlaceOrder(ledger)) as sagas:
            with pytest.raises(SagaCompensated):
                await (await sagas.start(PlaceOrder, Order("a", "charge"), id="a")).result(20)

    asyncio.run(main())
    assert place.rows("SELECT seq, step, phase, outcome, round, attempt, result, epoch FROM saga_step ORDER BY seq") == [
        (1, "reserve", "do", "ok", 0, 1, "7", 1),
        (2, "quote", "do", "ok", 0, 1, '"7 of a"', 1),
        (3, "charge", "do", "rejected", 0, 1, None, 1),
        (4, "quote", "undo", "ok", 0, 1, None, 1),
        (5, "reserve", "undo", "ok", 0, 1, None, 1),
    ]


def test_a_missing_driver_and_an_unknown_scheme_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error that many will meet: one line that can be copied."""
    monkeypatch.delitem(sys.modules, "seawall.saga.journals.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r'pip install "seawall\[postgres\]"'):
        Sagas("postgresql://localhost/x")
    with pytest.raises(ValueError, match="url must begin with one of postgres, postgresql, sqlite; got 'mysql'"):
        Sagas("mysql://x")
    for bad in ("orders.db", "sqlite://orders.db", "sqlite:///"):
        with pytest.raises(ValueError, match="must read like"):
            Sagas(bad)


def test_liveness_on_one_machine_is_a_lock_and_a_moment_of_the_clock_since_boot(tmp_path: Path) -> None:
    """A dead process is seen at once, a frozen one when its moment passes; the time of day has no part in it."""
    ours, theirs = Alive(tmp_path / "w"), Alive(tmp_path / "w")
    ours.begin("a", 60)
    assert theirs.lives("a")
    assert not theirs.lives("b")
    theirs.begin("short", 0.05)
    time.sleep(0.06)
    assert not ours.lives("short"), "its lock holds, its moment has passed"
    assert not theirs.beat(), "who was late counts as dead, and stays so"
    (tmp_path / "w" / "dead").write_text(f"{boot_now() + 60:020.6f} {boot_now() + 60:020.6f}\n")
    assert not ours.lives("dead"), "its moment has not come, and nobody holds its lock"
    assert ours.beat()
    assert ours.end() == "a"
    assert not theirs.lives("a")
    assert boot_id() == boot_id()


def test_dead_workers_are_forgotten_once_they_own_nothing(place: Any, conduct: Conduct) -> None:
    """A pod that restarts every hour for a year must not leave nine thousand rows to look through."""

    async def main() -> None:
        for n in range(3):
            sagas = conduct(Echo())
            await sagas.__aenter__()
            if n == 1:
                sagas.journal.apply([Verb(own)], sync=True)
            sagas.abandon()
            if place.kind == "postgres":
                place.rows("UPDATE saga_worker SET until=0")
            else:
                os.close(sagas.journal._alive._mine[0])  # type: ignore[attr-defined]
            sagas._close()
        async with conduct(Echo()):
            pass

    def own(tx: Any) -> None:
        tx.execute("UPDATE saga_worker SET host='owner'")
        sql = "INSERT INTO saga (id,name,version,def_hash,user_key,input_hash,status,epoch,stamp,owner,created,updated)"
        tx.execute(sql + " SELECT 'x','x',1,'x','x','x','running',1,0,id,0,0 FROM saga_worker LIMIT 1")

    asyncio.run(main())
    assert place.rows("SELECT host FROM saga_worker") == [("owner",)]
