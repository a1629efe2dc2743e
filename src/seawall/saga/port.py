"""What the rest of the room needs of a journal: operations that are committed together, and rows that are read.

`Start` and `Append` are the hot path, written by each journal in its own best way. Everything rare is a `Verb`: a function over a
`Tx`, written once in portable SQL, run inside the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from seawall.saga.plan import TERMINAL, Durability, Record

RUNNING = ("pending", "running", "waiting", "compensating", "stuck")


@dataclass(slots=True)
class Start:
    """A new saga. owner: the worker that runs it at once, or None. delay: seconds until it may run."""

    id: str
    name: str
    version: int
    hash: str
    user_id: str
    input_hash: str
    input: str | None
    deadline: float | None
    parent: str | None = None
    tags: str | None = None
    owner: str | None = None
    tries: int = 0
    edge: bool = True


@dataclass(slots=True)
class Started:
    """What became of a start. id: the saga's own id, of the older one if there was one; new: whether it is new."""

    id: str
    input_hash: str
    new: bool


@dataclass(slots=True)
class Append:
    """Lines for one saga's journal and its row's next state, refused unless (owner, epoch) still hold.

    stamp: the number of this write within the epoch, so that a lost answer can be re-sent and compared. after: the number of the
    one before, which must be the last in the database too: a server that crashed may have lost it, and then nothing of ours
    may be built on it. wake: seconds until the
    saga may run again; None = a wait without end, or no more. release: nobody owns it from now on. touched: what may have been
    started, as JSON; None = not known. edge: must be synced in `edges`. must_sync: in every durability.
    """

    id: str
    owner: str
    epoch: int
    stamp: int
    after: int
    records: list[Record]
    status: str
    wake: float | None = 0.0
    release: bool = False
    touched: str | None = None
    notes: str | None = None
    output: str | None = None
    error: str | None = None
    edge: bool = False
    must_sync: bool = False
    ends: bool = False
    tries: int = 0


@dataclass(slots=True)
class Verb:
    """Anything else, run as one of the batch. It may be run again after a rollback, so it changes nothing but the database.

    locks: it hands semantic locks over.
    """

    run: Callable[[Tx], Any]
    edge: bool = True
    locks: bool = False
    tries: int = 0


Op = Start | Append | Verb


@dataclass(slots=True)
class Row:
    """One saga as it stands. Moments are seconds since 1970 by the database's clock. before: what an owner before may have
    started, as JSON; None = not known. graph: its definition as text, from where there is no table of them."""

    id: str
    name: str
    version: int
    hash: str
    user_id: str
    input: str | None
    status: str
    epoch: int
    owner: str | None
    wake_at: float | None
    deadline: float | None
    parent: str | None
    notes: str | None
    takeovers: int
    cancel: str | None
    output: str | None
    error: str | None
    created: float
    updated: float
    tags: str | None = None
    input_hash: str = ""
    before: str | None = None
    clean: bool = False
    graph: str | None = None
    records: list[Record] = field(default_factory=list)


class Tx(Protocol):
    """A transaction of the journal. SQL is written with `?` and runs on every journal."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        ...

    def now(self) -> float:
        """The database's moment, in seconds since 1970."""
        ...

    def wake(self, saga: str) -> None:
        """Tell the workers, once this has committed, that a saga has something to do."""
        ...

    def living(self) -> list[str]:
        """The workers whose lease holds."""
        ...

    def lock_rows(self, *, skip: bool = False) -> str:
        """What to write behind a SELECT so that its rows stay as they are; with `skip` what others hold is left out."""
        ...

    def lock_locks(self) -> None:
        """Be the only transaction that hands semantic locks over."""
        ...


class StepTx(Protocol):
    """What a `tx=True` step gets."""

    @property
    def connection(self) -> Any:
        """The driver's own connection. Do not commit, roll back or close it."""
        ...

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> list[tuple[Any, ...]]:
        """Run one statement with `?` for values; its rows."""
        ...

    def publish(self, topic: str, key: str, kind: str, payload: Any) -> str:
        """Put an event into the outbox, in this transaction; its id."""
        ...


class Journal(Protocol):
    """A database that holds sagas. `apply` runs in the committer's one thread; `read` in any.

    timeline: see `Fence`. skew: seconds that the database's clock is ahead of this process's.
    """

    timeline: int
    skew: float
    capabilities: frozenset[str]

    def there(self) -> bool:
        """Whether there are tables of a journal; nothing is made. Raises JournalError where that cannot be seen."""
        ...

    def open(self) -> None:
        """Connect and bring the tables up to date. Raises JournalError."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...

    def apply(self, ops: list[Op], *, sync: bool) -> list[Any]:
        """Run all operations in one transaction and commit it; one result each. An Append that was refused is a LeaseLost
        value. Any raise means that nothing happened."""
        ...

    def read(self, run: Callable[[Tx], Any]) -> Any:
        """Run queries in a snapshot of their own."""
        ...

    def retryable(self, error: BaseException) -> bool:
        """Whether the same batch can succeed if it is sent again."""
        ...

    def translate(self, error: BaseException) -> BaseException:
        """The driver's error as one of ours that says what to do, or itself."""
        ...

    def in_transaction(self, fn: Callable[[StepTx], Any], append: Callable[[Any], Append], guard: Append, limit: float) -> Any:
        """Run a tx step: check the fence, call `fn`, then commit its rows together with `append(result)`. Raises LeaseLost."""
        ...

    def start_in(self, connection: Any, start: Start) -> Started:
        """Start a saga inside the caller's own transaction."""
        ...

    async def astart_in(self, connection: Any, start: Start) -> Started:
        """The same with a connection of an asynchronous driver."""
        ...

    def register(self, worker: str, lease: float, hashes: Iterable[str]) -> None:
        """Become a worker."""
        ...

    def beat(self) -> bool:
        """Extend the lease, from the heartbeat's thread; False when it is over."""
        ...

    def leave(self) -> None:
        """End the lease."""
        ...

    def listen(self, heard: Callable[[str], None]) -> Callable[[], None] | None:
        """Call `heard(saga)` when another process wakes a saga; the result ends it. None where a journal cannot."""
        ...


class Hooks(Protocol):
    """What a test can do to a committer."""

    def before(self, ops: list[Op]) -> None:
        """About to commit."""
        ...

    def after(self, ops: list[Op]) -> None:
        """Committed, and nobody knows yet."""
        ...


def parks(op: Append) -> bool:
    """Whether a write leaves a saga that something from outside may have woken meanwhile."""
    return op.release and op.status not in TERMINAL and op.records == []


def synced(ops: list[Op], durability: Durability) -> bool:
    """Whether a batch must reach the disk before anybody is told."""
    if durability == "relaxed":
        return any(op.edge if isinstance(op, Verb) else isinstance(op, Append) and op.must_sync for op in ops)
    return durability == "strict" or any(op.edge or (isinstance(op, Append) and op.must_sync) for op in ops)
