"""`seawall saga`: the real command on real journals with sagas in every state, and each word's effect."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from shop_sagas import FAILING, BothWays, Careful, Older, Order, Through, Young

from seawall.saga import Saga, Sagas

pytest.importorskip("cyclopts", reason="the command line is an extra")

HERE = Path(__file__).parent
Command = Callable[[list[str]], int]
BY = ("--actor", "ann", "--reason", "asked by phone")


@pytest.fixture
def url(place: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A journal of each kind, also named by the environment."""
    made: str = place.url
    monkeypatch.setenv("SEAWALL_SAGAS", made)
    FAILING["undo"] = False
    return made


def run(
    url: str, *started: tuple[str, dict[str, Any]], until: dict[str, str] | None = None, by: Saga[Any, Any] | None = None
) -> None:
    """Start these and run a worker until each of `until` is in its state, by its row or by its stuck-alert."""

    async def work() -> None:
        async with Sagas(url, [by or Order()], poll=0.05) as sagas:
            for id, value in started:
                await sagas.start(type(by or Order()), value, id=id)
            for id, status in (until or {}).items():
                end = time.monotonic() + 20
                handle = await sagas.handle(id)
                while (now := await handle.status()) != status:
                    assert time.monotonic() < end, f"{id} is {now}"
                    await asyncio.sleep(0.02)

    asyncio.run(work())


def told(command: Command, capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What a command printed, on either stream."""
    found = command(["saga", *words])
    out = capsys.readouterr()
    assert found == status, out
    return out.out + out.err


def write(url: str, sql: str) -> None:
    """Bring a journal into a state that only a crash can."""
    connect: Any = sqlite3.connect if url.startswith("sqlite") else psycopg.connect
    with closing(connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute(sql)
        connection.commit()


def test_ls_and_show_tell_what_is_there_and_hide_payloads(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """The first two questions of whoever is on call; and what customers wrote is not for every terminal."""
    run(url, ("a", {"card": "4711"}), ("b", {"fails": "reserve"}), until={"a": "waiting", "b": "failed"})
    listed = told(command, capsys, "ls")
    assert [line.split()[:3] for line in listed.splitlines()[1:]] == [["order", "b", "failed"], ["order", "a", "waiting"]]
    assert told(command, capsys, "ls", "--status", "failed", "--name", "order").count("order") == 1
    assert told(command, capsys, "ls", "--name", "other").splitlines()[1:] == []
    assert {row["id"]: row["status"] for row in json.loads(told(command, capsys, "ls", "--json"))} == {
        "a": "waiting",
        "b": "failed",
    }
    shown = told(command, capsys, "show", "a")
    assert "reserve" in shown
    assert "not done: approved, ship" in shown
    assert "4711" not in shown
    assert "4711" in told(command, capsys, "show", "a", "--payloads")
    whole = json.loads(told(command, capsys, "show", "a", "--json"))
    assert (whole["steps"][0]["step"], whole["steps"][0]["outcome"]) == ("reserve", "ok")
    assert "4711" not in json.dumps(whole)


def test_why_says_what_a_saga_waits_for_and_who_could_run_it(
    url: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, because whoever asks did not write it."""
    run(url, ("a", {}), ("b", {"fails": "reserve"}), until={"a": "waiting", "b": "failed"})
    waiting = told(command, capsys, "why", "a")
    assert "order a is waiting." in waiting
    assert "approved waits: signal approved." in waiting
    assert "No worker that lives can run order version 1" in waiting
    assert "It was refused before it had any effect" in told(command, capsys, "why", "b")
    assert "No: nothing left" in told(command, capsys, "why", "b")
    assert json.loads(told(command, capsys, "why", "a", "--json"))["status"] == "waiting"


def test_cancel_takes_back_and_resolve_gives_results(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ways out of a wait that nobody will end; both are kept with a name and a reason."""
    run(url, ("a", {}), ("b", {}), until={"a": "waiting", "b": "waiting"})
    assert "order a is compensating now: cancel by ann is kept" in told(command, capsys, "cancel", "a", *BY)
    assert "order b is running now" in told(command, capsys, "resolve", "b", "--step", "approved", "--result", "true", *BY)
    run(url, until={"a": "compensated", "b": "completed"})
    assert "It was taken back" in told(command, capsys, "why", "a")
    assert "ann: resolve approved: asked by phone" in told(command, capsys, "show", "b")
    assert "is completed; nothing more can be done" in told(command, capsys, "cancel", "b", *BY, status=2)
    run(url, until={})
    assert "It completed" in told(command, capsys, "why", "b")


WAYS = {"retry": [], "skip": [], "resolve": ["--alternate", "by_post"]}


@pytest.mark.parametrize("verb", WAYS)
def test_an_undo_that_fails_for_ever_is_told_and_helped(
    url: str, command: Command, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """A saga that cannot be taken back is nobody's until a human says how."""
    FAILING["undo"] = True
    run(url, ("c", {}), until={"c": "waiting"})
    told(command, capsys, "cancel", "c", *BY)
    run(url, until={"c": "stuck"})
    words = told(command, capsys, "why", "c")
    assert "OSError: the warehouse is on fire" in words
    assert "seawall saga skip c --step reserve" in words
    FAILING["undo"] = verb != "retry"
    told(command, capsys, verb, "c", "--step", "reserve", *WAYS[verb], *BY)
    run(url, until={"c": "compensated_partially" if verb == "skip" else "compensated"})


def test_diff_names_who_may_move_and_move_is_refused_for_the_others(
    url: str, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy that strands sagas should be seen before it, not after."""
    monkeypatch.syspath_prepend(str(HERE))
    run(url, ("a", {}), until={"a": "waiting"})
    assert "Nothing in flight runs by another definition." in told(command, capsys, "diff", "shop_sagas:build")
    words = told(command, capsys, "diff", "shop_sagas:newer", status=1)
    assert "order version 1 -> 2: 0 in flight may move, 1 may not" in words
    assert "reserve: is gone" in words
    assert "a stays: step" in words
    found = json.loads(told(command, capsys, "diff", "shop_sagas:newer", "--json", status=1))
    assert (found[0]["was"], found[0]["safe"], list(found[0]["unsafe"])) == (1, 0, ["a"])
    assert "start one first" in told(command, capsys, "resolve", "a", "--to-version", "2", *BY, status=2)


def test_a_saga_moves_to_the_version_that_it_fits(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """The way out of a deploy that changed what comes next."""
    run(url, ("a", {}), until={"a": "waiting"}, by=Older())
    run(url, ("b", {}), until={"b": "completed"}, by=Young())
    assert "order a is" in told(command, capsys, "resolve", "a", "--to-version", "2", *BY)
    run(url, until={"a": "completed"}, by=Young())
    assert json.loads(told(command, capsys, "show", "a", "--json"))["version"] == 2


def test_a_saga_that_went_back_goes_forward_again(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """What made it fail is mended, and nobody wants to begin anew."""
    FAILING["undo"] = FAILING["send"] = True
    run(url, ("a", {}), until={"a": "stuck"}, by=BothWays())
    FAILING["send"] = False
    assert "order a is running now: forward by ann" in told(command, capsys, "resolve", "a", "--forward", *BY)
    run(url, until={"a": "completed"}, by=BothWays())


def test_an_open_circuit_is_told_with_the_time_it_takes(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever is on call should see that the other side is down, not that the saga is broken."""
    saga = Through()
    saga.circuit.reset()
    with pytest.raises(OSError, match="down"), saga.circuit.permit():
        raise OSError("down")
    run(url, ("a", {}), until={"a": "waiting"}, by=saga)
    words = told(command, capsys, "why", "a")
    assert "send waits: refused by partner" in words
    assert "Next: send." in words
    assert "A worker may take it in" in words


def test_a_step_that_may_run_once_is_told_as_such(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody knows whether it ran: only a human can find out, and is told how to say it."""
    with Sagas(url, [Careful()], worker=False) as sagas:
        for id in ("a", "b"):
            sagas.start_sync(Careful, {}, id=id)
    write(
        url,
        "INSERT INTO saga_step (saga_id, seq, step, phase, outcome, round, attempt, epoch) "
        "SELECT id, 1, 'send', 'intent', 'intended', 0, 1, 1 FROM saga",
    )
    write(url, "UPDATE saga SET status='running', wake_at=0, owner='gone', epoch=1")
    run(url, until={"a": "stuck", "b": "stuck"}, by=Careful())
    words = told(command, capsys, "why", "a")
    assert "at_most_once: send may have been started, and has no probe" in words
    assert "seawall saga resolve a --step send --result JSON" in words
    told(command, capsys, "resolve", "a", "--step", "send", "--result", '"by hand"', *BY)
    told(command, capsys, "retry", "b", "--step", "send", *BY)
    run(url, until={"a": "completed", "b": "completed"}, by=Careful())


def test_a_saga_that_kills_its_workers_is_told_as_such(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Three owners died over it: it is set aside, and a retry gives it another chance."""
    run(url, ("a", {}), until={"a": "waiting"})
    write(url, "UPDATE saga SET status='running', wake_at=0, owner='gone', takeovers=3")
    run(url, until={"a": "stuck"})
    assert "crash_loop: 4 workers in a row died over it" in told(command, capsys, "why", "a")
    told(command, capsys, "retry", "a", *BY)
    run(url, until={"a": "waiting"})


def test_a_journal_that_does_not_fit_its_definition_is_told_as_such(
    url: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A history that no code explains must not be guessed at."""
    run(url, ("a", {}), until={"a": "waiting"})
    write(url, "UPDATE saga_step SET step='paint'")
    write(url, "UPDATE saga SET wake_at=0")
    run(url, until={"a": "stuck"})
    assert "definition_mismatch: the journal knows paint, the definition does not" in told(command, capsys, "why", "a")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "nobody"], "there is no saga 'nobody'"),
        (["cancel", "nobody", *BY], "there is no saga 'nobody'"),
        (["resolve", "a", *BY], "exactly one of --result"),
        (["resolve", "a", "--step", "approved", "--result", "{", *BY], "the result must be JSON"),
        (["skip", "a", "--step", "ship", *BY], "does not wait for anything now"),
        (["retry", "a", "--actor", " ", "--reason", "x"], "actor must be text"),
        (["ls", "--url", "sqlite:////nowhere/sagas.db"], "there is no journal at"),
        (["ls", "--url", "oracle://x"], "url must begin with one of"),
        (["diff", "shop_sagas:nothing"], "module must be like"),
        (["diff", "shop_sagas:wrong"], "list of instances of Saga classes"),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    url: str, command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    """A typo at three in the morning must cost nothing."""
    monkeypatch.syspath_prepend(str(HERE))
    run(url, ("a", {}), until={"a": "waiting"})
    assert says in told(command, capsys, *words, status=2)
    assert json.loads(told(command, capsys, "show", "a", "--json"))["operators"] == []


def test_looking_writes_nothing_into_a_file_that_is_no_journal(
    url: str, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A slip in the path must not leave tables in somebody's database."""
    other = tmp_path / "customers.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
        connection.commit()
    assert "there is no journal at" in told(command, capsys, "ls", "--url", f"sqlite:///{other}", status=2)
    with closing(sqlite3.connect(other)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]


def test_looking_makes_no_tables_in_a_database_without_a_journal(
    postgres: Any, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for a database on a server, whose URL may hold a password that must not be shown."""
    url = postgres.database()
    asked = url.replace("shop@", "shop:hush@") if "shop@" in url else url
    told_ = told(command, capsys, "ls", "--url", asked, status=2)
    assert "there is no journal at" in told_
    assert "hush" not in told_
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname='public'").fetchone()
    assert found == (0,)
    postgres.drop(url)


def test_a_word_without_actor_is_refused(url: str, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody may change a saga namelessly."""
    run(url, ("a", {}), until={"a": "waiting"})
    assert command(["saga", "cancel", "a", "--reason", "x"]) == 2
    capsys.readouterr()


@pytest.mark.parametrize("json_", [False, True])
def test_a_worker_runs_sagas_until_it_is_told_to_end(url: str, json_: bool) -> None:
    """The command that stands in a service file: it takes what is there, and hands over on SIGTERM."""
    with Sagas(url, [Order()], worker=False) as sagas:
        handle = sagas.start_sync(Order, {}, id="a")
        words = [sys.executable, "-c", "from seawall.cli import main; raise SystemExit(main())", "saga", "worker", url]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])}
        more = ["shop_sagas:build", *(["--json"] if json_ else [])]
        with subprocess.Popen([*words, *more], stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert json.loads(first)["sagas"] == ["order v1"] if json_ else "runs order v1" in first
            end = time.monotonic() + 30
            while asyncio.run(handle.status()) != "waiting":
                assert time.monotonic() < end
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            if json_:
                kinds = [json.loads(line)["kind"] for line in rest.splitlines()]
                assert "saga.step_do" in kinds
                assert kinds[-1] == "saga.worker_leaving"
            else:
                assert rest == "handing over\n"
        assert process.returncode == 0
