"""A worker: takes sagas whose time has come, runs each in a task of its own, proves that it lives, and gives everything back."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Final

from seawall.core.errors import SeawallError
from seawall.saga import operate, store
from seawall.saga.errors import JournalError, LeaseLost
from seawall.saga.port import Row, Verb
from seawall.saga.run import Runner

if TYPE_CHECKING:
    from seawall.saga.sagas import Sagas

CLAIM: Final = 50
SWEEP: Final = 2.0  # seconds between looks for deadlocks
ARCHIVE: Final = 60.0  # seconds between looks for what is old enough for the archive


class Worker:
    """What a `Sagas` runs when it is a worker. All of it lives on one event loop, but the heartbeat, which has its own thread."""

    def __init__(
        self, sagas: Sagas, *, running: int, threads: int, lease: float, poll: float, grace: float, archive_after: float | None
    ) -> None:
        self._sagas = sagas
        self.id = ""
        self.runners: dict[str, tuple[Runner, asyncio.Task[None]]] = {}
        self.taken_over = 0
        self.fenced = 0
        self.rejoined = 0
        self._most = running
        self._lease = lease
        self._every = poll
        self._grace = grace
        self._archive_after = archive_after
        self._archived = -ARCHIVE
        self._kick = asyncio.Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="seawall-saga")
        self._stopped = threading.Event()
        self._beating: threading.Thread | None = None
        self._polling: asyncio.Task[None] | None = None
        self._unlisten: Any = None
        self._swept = 0.0
        self._strays: dict[str, int] = {}
        self._lost = False

    # --- beginning and end

    async def open(self) -> None:
        """Register, and begin to take sagas."""
        self._loop = asyncio.get_running_loop()
        self._join()
        self._unlisten = self._sagas.journal.listen(self._heard)
        self._polling = self._task(self._poll())

    def _join(self) -> None:
        self.id = f"{self._sagas.name}-{uuid.uuid4().hex[:12]}"
        self._sagas.worker_id = self.id
        self._sagas.journal.register(self.id, self._lease, self._sagas.hashes)
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, args=(self._stopped,), name="seawall-heartbeat", daemon=True)
        self._beating.start()

    async def close(self) -> None:
        """Take nothing more, let what runs come to its next record, and give every saga back at once."""
        self._sagas.closing = True
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.wait([self._polling])
        if self._unlisten is not None:
            self._unlisten()
        tasks = [task for _, task in self.runners.values()]
        for runner, _ in list(self.runners.values()):
            runner.nudged.set()
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace)
        for runner, task in list(self.runners.values()):
            task.cancel()
            await asyncio.wait([task])
            await self._give_back(runner)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stopped.set()
        if self._beating is not None:
            await asyncio.to_thread(self._beating.join)
        try:
            await asyncio.to_thread(self._sagas.journal.leave)
        except SeawallError as error:  # the lease then ends by itself
            self._sagas.emit("saga.journal_failed", None, error=error)

    async def _give_back(self, runner: Runner) -> None:
        if runner.left or self._lost:
            return
        try:
            await runner.shut()
        except (LeaseLost, JournalError) as error:
            self._sagas.emit("saga.fenced", runner.row, reason=str(error))

    def abandon(self) -> None:
        """For tests of crashes: drop everything at once, without a word to the journal."""
        self._sagas.closing = True
        if self._polling is not None:
            self._polling.cancel()
        for _, task in self.runners.values():
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stopped.set()

    # --- the lease

    def _beat(self, stopped: threading.Event) -> None:
        """Extend the lease from a thread of its own: a step that blocks the loop must not cost every saga."""
        held = time.monotonic()
        while not stopped.wait(self._lease / 3):
            began = time.monotonic()
            try:
                alive = self._sagas.journal.beat()
            except Exception as error:  # whatever it is: without a beat for a whole lease, others may have our sagas
                self._sagas.emit("saga.heartbeat_failed", None, error=error)
                alive = began - held < self._lease
            else:
                held = began
            if not alive:
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._expired)
                return

    def _expired(self) -> None:
        """The lease is over: others may own our sagas by now. Drop them all, and come back under another name."""
        if self._sagas.closing:
            return
        self.rejoined += 1
        self._sagas.emit("saga.lease_lost", None, worker=self.id, sagas=len(self.runners))
        for _, task in self.runners.values():
            task.cancel()
        self._lost = True
        self._task(self._rejoin())

    async def _rejoin(self) -> None:
        if self.runners:
            await asyncio.wait([task for _, task in self.runners.values()])
        for pause in chain((0.0, 0.5), repeat(2.0)):
            await asyncio.sleep(pause)
            try:
                await asyncio.to_thread(self._sagas.journal.leave)
                await asyncio.to_thread(self._join)
            except SeawallError as error:
                self._sagas.emit("saga.journal_failed", None, error=error)
            else:
                break
        self._lost = False
        self.kick()

    # --- taking sagas

    def kick(self) -> None:
        """Look for work now."""
        self._kick.set()

    def _heard(self, saga: str) -> None:
        """Another process says that something came; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._nudge, saga)

    def _nudge(self, saga: str) -> None:
        found = self.runners.get(saga)
        if found is not None:
            found[0].nudged.set()
        self._sagas.look_again(saga)
        self.kick()

    async def _poll(self) -> None:
        clock = self._sagas.clock
        while True:
            self._kick.clear()
            if not self._lost:
                try:
                    await self._look()
                except (SeawallError, OSError) as error:
                    self._sagas.emit("saga.journal_failed", None, error=error)
            pause = self._every * (0.75 + clock.random.random() / 2)
            kicked = asyncio.ensure_future(self._kick.wait())
            await asyncio.wait([kicked], timeout=pause)
            kicked.cancel()

    async def _look(self) -> None:
        await self._check_own()
        while (free := self._most - len(self.runners)) > 0 and not self._lost:
            asked = min(free, CLAIM)
            if not await self._sagas.read(lambda tx: store.runnable(tx, self._sagas.hashes, 1)):
                break
            worker = self.id
            rows = await self._sagas.committer.send(
                Verb(lambda tx: store.claim(tx, worker, self._sagas.hashes, asked), edge=True)  # noqa: B023  # run before it changes
            )
            for row in rows:
                if not row.clean:
                    self.taken_over += 1
                    self._sagas.emit("saga.taken_over", row, epoch=row.epoch)
                self.run(row)
            if len(rows) < asked:
                break
        now = self._sagas.clock.monotonic()
        if self._sagas.uses_locks and now - self._swept >= SWEEP:
            self._swept = now
            await self._sweep()
        if self._archive_after is not None and now - self._archived >= ARCHIVE:
            self._archived = now
            await self._sagas.archive(self._archive_after)

    async def _check_own(self) -> None:
        """See which of our sagas have something new, which were taken from us, and which we own without knowing it."""
        worker, before = self.id, {saga: runner.row.epoch for saga, (runner, _) in self.runners.items()}
        rows = await self._sagas.read(lambda tx: store.owned(tx, worker))
        found = {saga: (epoch, attention) for saga, epoch, attention, _ in rows}
        gone = [saga for saga, epoch in before.items() if found.get(saga, (None, 0))[0] != epoch]
        for saga, epoch in before.items():
            if saga in self.runners and found.get(saga) == (epoch, 1):
                self.runners[saga][0].nudged.set()
        mine = set(self._sagas.hashes)
        await self._adopt({saga: epoch for saga, epoch, _, kind in rows if saga not in self.runners and kind in mine})
        for saga, epoch in (await self._sagas.read(lambda tx: store.epochs(tx, gone))).items() if gone else ():
            running = self.runners.get(saga)
            if running is not None and running[0].row.epoch == before[saga] != epoch:  # else we gave it back, or it ended
                self._sagas.emit("saga.fenced", running[0].row, reason="taken away")
                running[1].cancel()

    async def _adopt(self, strays: dict[str, int]) -> None:
        """What we own in two looks without running it, because an answer was lost on its way, is taken anew."""
        again = {saga: epoch for saga, epoch in strays.items() if self._strays.get(saga) == epoch}
        self._strays = strays
        if again:
            worker = self.id
            self._sagas.emit("saga.adopted", None, sagas=len(again))
            await self._sagas.committer.send(Verb(lambda tx: store.adopt(tx, worker, again)))

    async def _sweep(self) -> None:
        for saga in await self._sagas.read(store.deadlocked):
            word = operate.Word("cancel", "seawall", "deadlock: it waits for a lock of a saga that waits for a lock of its own")
            try:
                await self._sagas.committer.send(Verb(lambda tx: operate.apply(tx, saga, word)))  # noqa: B023
            except SeawallError as error:
                self._sagas.emit("saga.deadlock_stays", None, saga=saga, error=error)

    # --- running them

    @property
    def has_room(self) -> bool:
        """Whether one more saga may run here."""
        return len(self.runners) < self._most and not self._lost and not self._sagas.closing

    def run(self, row: Row) -> None:
        """Run a saga that this worker owns."""
        runner = Runner(self._sagas, row)
        task = self._task(self._one(runner))
        self.runners[row.id] = (runner, task)
        task.add_done_callback(lambda _: self._done(row.id, task))

    def _done(self, saga: str, task: asyncio.Task[None]) -> None:
        found = self.runners.get(saga)
        if found is not None and found[1] is task:
            del self.runners[saga]
        if len(self.runners) == self._most - 1:
            self.kick()

    async def _one(self, runner: Runner) -> None:
        """One saga's failure, whatever it is, is its own."""
        try:
            await runner.run()
        except Exception as error:
            self._sagas.emit("saga.failed_inside", runner.row, error=error)
            await self._quarantine(runner, error)

    async def _quarantine(self, runner: Runner, error: Exception) -> None:
        try:
            await runner.stop(f"internal: {type(error).__name__}: {error}")
        except (SeawallError, ValueError) as again:
            self._sagas.emit("saga.fenced", runner.row, reason=str(again))

    def _task(self, work: Any) -> asyncio.Task[Any]:
        """A task that inherits no deadline, attempt or key from whoever happened to start it."""
        return self._loop.create_task(work, context=contextvars.Context())

    def in_thread(self, fn: Any, *args: Any) -> asyncio.Future[Any]:
        """Run a plain function in the pool."""
        return self._loop.run_in_executor(self._pool, fn, *args)
