"""Group commit: one batch for all that waits, one bad operation alone, and lost answers that are asked for again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ledger import Ledger, Order, PlaceOrder

from seawall.core.errors import Overloaded
from seawall.saga import JournalError, LeaseLost, Sagas, UnknownSaga, store
from seawall.saga.commit import Committer
from seawall.saga.journals import open_journal
from seawall.saga.plan import Record
from seawall.saga.port import Append, Op, Start, Verb

Conduct = Callable[..., Sagas]


def start(id_: str, owner: str | None = None) -> Start:
    return Start(id_, "echo", 1, "hash", id_, "print", None, None, owner=owner)


def line(seq: int, outcome: str = "ok") -> Record:
    return Record(seq, "say", "do", outcome)  # type: ignore[arg-type]


class Lane:
    """A committer over this test's journal, and what it was asked to apply."""

    def __init__(self, url: str) -> None:
        self.journal = open_journal(url)
        self.journal.open()
        self.journal.register("me", 60, ["hash"])
        self.sizes: list[int] = []
        self.faults: list[BaseException] = []
        self.hold = threading.Event()
        self.hold.set()
        self.committer = Committer(self.journal, hooks=self, most=3)

    def before(self, ops: list[Op]) -> None:
        assert self.hold.wait(20)
        self.sizes.append(len(ops))

    def after(self, ops: list[Op]) -> None:
        if self.faults:
            raise self.faults.pop()

    def together(self, *ops: Op) -> list[Any]:
        """The results of operations that wait in line together."""

        async def main() -> list[Any]:
            tasks = [asyncio.ensure_future(self.committer.send(op)) for op in ops]
            await asyncio.sleep(0)
            self.committer.open()
            return await asyncio.gather(*tasks, return_exceptions=True)

        return asyncio.run(main())

    def count(self, sql: str = "SELECT count(*) FROM saga") -> int:
        return int(self.journal.read(lambda tx: tx.execute(sql))[0][0])


@pytest.fixture
def lane(url: str) -> Iterator[Lane]:
    made = Lane(url)
    yield made
    made.hold.set()
    made.committer.close()
    made.journal.leave()
    made.journal.close()


def gone(lane: Lane) -> BaseException:
    """What the driver raises when the answer never came."""
    if "postgres" in type(lane.journal).__module__:
        return psycopg.OperationalError("server closed the connection unexpectedly")
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = 5  # type: ignore[misc]
    return error


def test_what_waits_is_one_commit_and_everybody_gets_their_own_answer(lane: Lane) -> None:
    """The reason for group commit: one sync carries all."""
    found = lane.together(start("a"), start("b"), Verb(lambda tx: tx.execute("SELECT 7")[0][0]))
    assert [found[0].new, found[1].new, found[2]] == [True, True, 7]
    assert lane.sizes == [3]


def test_a_poisoned_batch_is_halved_until_the_bad_one_stands_alone(lane: Lane) -> None:
    """One bad saga must not fail its neighbours."""
    poison = Verb(lambda tx: tx.execute("INSERT INTO saga (id) VALUES ('no name')"))
    found = lane.together(start("a"), start("b"), poison)
    assert [found[0].new, found[1].new] == [True, True]
    assert isinstance(found[2], JournalError)
    assert lane.count() == 2


def test_an_operation_that_refuses_takes_back_its_own_rows_only_and_costs_no_second_commit(lane: Lane) -> None:
    """A signal for an unknown id is everyday business; it must not split everybody's batch."""

    def refuse(tx: Any) -> None:
        tx.execute("DELETE FROM saga")
        store.find(tx, "nobody")

    found = lane.together(start("a"), Verb(refuse), Verb(lambda tx: len(tx.execute("SELECT id FROM saga"))))
    assert isinstance(found[1], UnknownSaga)
    assert (found[2], lane.sizes, lane.count()) == (1, [3], 1)


def test_a_lost_answer_is_asked_for_again_with_the_whole_batch_and_nothing_is_doubled(lane: Lane) -> None:
    """The commit was made, its answer was not heard: sent again, compared, and told as made."""
    lane.faults = [gone(lane), gone(lane)]
    found = lane.together(start("a", "me"), start("b"))
    assert [(item.id, item.new) for item in found] == [("a", True), ("b", True)]
    lane.faults = [gone(lane)]
    assert lane.committer.send_sync(Append("a", "me", 1, 1, 0, [line(1)], "running")) is None
    assert lane.sizes == [2, 2, 2, 1, 1], "what can succeed when it is sent again is never halved"
    assert lane.count("SELECT count(*) FROM saga_step") == 1
    assert lane.committer.figures.resent == 3
    other = Append("a", "me", 1, 1, 0, [line(1, "rejected")], "running")
    other.tries = 1
    with pytest.raises(LeaseLost):
        lane.committer.send_sync(other)  # something else stands there, so this one was not made


def test_an_append_is_refused_from_another_owner_an_older_epoch_or_over_a_gap(lane: Lane) -> None:
    """The fence: in one statement with the rows it protects; and nothing is built on a record that a server lost."""
    lane.together(start("a", "me"))
    good = Append("a", "me", 1, 1, 0, [line(1)], "running")
    lane.journal.apply([Verb(lambda tx: tx.execute("UPDATE saga SET epoch=2"))], sync=True)
    wrong = [
        Append("a", "me", 1, 1, 0, [line(1)], "running"),
        Append("a", "you", 2, 1, 0, [line(1)], "running"),
        Append("a", "me", 2, 2, 1, [line(2)], "running"),
        Append("b", "me", 2, 1, 0, [line(1)], "running"),
    ]
    assert all(isinstance(lane.journal.apply([op], sync=True)[0], LeaseLost) for op in wrong)
    assert lane.count("SELECT count(*) FROM saga_step") == 0
    good.epoch = 2
    follower = Append("a", "me", 2, 2, 1, [line(2)], "completed", wake=None, release=True, ends=True)
    assert lane.journal.apply([good, follower], sync=True) == [None, None], "a saga may come twice in one batch, in order"
    assert lane.count("SELECT count(*) FROM saga_step") == 2


def test_more_starts_than_may_wait_are_refused_at_once(lane: Lane) -> None:
    """Back-pressure: a journal that is slower than its starters says so, while what runs can still write."""
    lane.hold.clear()
    lane.committer.open()

    async def main() -> None:
        waiting = []
        for n in range(4):  # one is being committed, three wait
            waiting.append(asyncio.ensure_future(lane.committer.send(start(f"s{n}"))))
            await asyncio.sleep(0.05)
        with pytest.raises(Overloaded, match="3 operations wait for the journal, 3 may") as told:
            await lane.committer.send(start("late"))
        assert (told.value.policy, told.value.retry_after) == ("journal", 0.1)
        waiting.append(asyncio.ensure_future(lane.committer.send(Verb(lambda tx: True))))
        lane.hold.set()
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert lane.count() == 4


def test_a_real_deadlock_is_sent_again_whole(postgres: Any) -> None:
    """Two transactions that wait for each other: the server ends ours, and ours is simply repeated."""
    url = postgres.database()
    lane = Lane(url)
    lane.together(start("a"), start("b"))
    met = threading.Event()

    def cross(tx: Any) -> int:
        tx.execute("UPDATE saga SET notes='ours' WHERE id='a'")
        met.set()
        tx.execute("UPDATE saga SET notes='ours' WHERE id='b'")
        return 1

    with psycopg.connect(url) as other:
        other.execute("SET deadlock_timeout = '60s'")  # so that it is the server's look at ours that finds it
        other.execute("UPDATE saga SET notes='theirs' WHERE id='b'")
        answer: list[Any] = []
        thread = threading.Thread(target=lambda: answer.append(lane.committer.send_sync(Verb(cross))))
        thread.start()
        assert met.wait(20)
        other.execute("UPDATE saga SET notes='theirs' WHERE id='a'")
        other.commit()
    thread.join(30)
    assert answer == [1]
    assert lane.committer.figures.resent == 1
    lane.committer.close()
    lane.journal.leave()
    lane.journal.close()
    postgres.drop(url)


@pytest.mark.parametrize(
    ("durability", "synced"),
    [
        ("strict", [True, True, True, True, True]),
        ("edges", [True, False, True, True, True]),  # reserve rides along; quote brings the pivot's turn
        ("relaxed", [False, False, True, False, False]),
    ],
)
def test_each_durability_syncs_what_it_promises(
    conduct: Conduct, tmp_path: Path, durability: str, synced: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is synced is what a power cut cannot take: everything; starts, pivots and ends; or what a pivot stands on."""
    told: list[bool] = []

    async def main() -> None:
        async with conduct(PlaceOrder(Ledger(tmp_path / "ledger.db")), durability=durability) as sagas:
            apply = sagas.journal.apply

            def watched(ops: list[Op], *, sync: bool) -> list[Any]:
                told.extend(sync for op in ops if isinstance(op, (Start, Append)))
                return apply(ops, sync=sync)

            monkeypatch.setattr(sagas.journal, "apply", watched)
            await (await sagas.start(PlaceOrder, Order("a"))).result(20)

    asyncio.run(main())
    assert told == synced
