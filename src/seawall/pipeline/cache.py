"""The cache as people use it: answers kept for a while, one fetch per key, and an old answer when there is no new one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

from seawall.core.clock import Clock
from seawall.core.context import cut_off
from seawall.core.errors import Misplaced, TimedOut
from seawall.pipeline.cell import Cell
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import Run
from seawall.policies.cache import CacheRule, CacheState, Entry, Follow, Found, Landed, Lead
from seawall.policies.verdict import DUST


@dataclass(frozen=True, slots=True)
class CacheSnapshot:
    """One cache at one moment. entries, bytes: what it holds; flights: fetches under way; hits, misses: since it was made."""

    kind: str
    name: str
    entries: int
    bytes: int
    flights: int
    hits: int
    misses: int


class Cache(Policy):
    """Keep answers for a while. Calls for the same key at the same time are one call; an old answer can stand in for none.

    ttl: seconds that an answer is fresh, > 0, or text such as "5min".
    size: answers kept, >= 1; the ones used longest ago go first. Default 1024.
    size_bytes, weigh: bytes kept, >= 1, and a function from an answer to its bytes; both or neither. Default None = no bound.
    key: the name of an argument, or a function of the arguments. Default None = all arguments, which must be hashable then.
    stale_if_error: seconds beyond the ttl that an old answer is served when fetching fails, >= 0. Default 0.
    stale_while_revalidate: seconds beyond the ttl that an old answer is served at once while a new one is fetched in the
        background, >= 0. Default 0.
    negative, negative_ttl: exception types that are remembered like answers, and for how many seconds. Default none.
    name, clock: see `Policy`.

    Answers are handed out as they are: do not change them. A leader that is cancelled hands its fetch to a follower; the error
    of a fetch goes to all who waited for it. Raises ValueError or TypeError for a parameter out of range, Misplaced for a stream.
    Sources: RFC 5861 (the two stale rules); request coalescing as in Go's singleflight.
    """

    kind = "cache"
    acts_while_observing = True
    why_no_block = "a block has no result that could be kept"
    may_wait = True

    def __init__(
        self,
        ttl: float | str,
        *,
        size: int = 1024,
        size_bytes: int | None = None,
        weigh: Callable[[Any], int] | None = None,
        key: str | Callable[..., Hashable] | None = None,
        stale_if_error: float | str = 0,
        stale_while_revalidate: float | str = 0,
        negative: type[Exception] | tuple[type[Exception], ...] = (),
        negative_ttl: float | str = 0,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        options: Any = {
            "ttl": ttl,
            "stale_if_error": stale_if_error,
            "stale_while_revalidate": stale_while_revalidate,
            "negative_ttl": negative_ttl,
        }
        self.rule = CacheRule(size=size, size_bytes=size_bytes, **options)
        if (size_bytes is None) != (weigh is None):
            raise ValueError("size_bytes and weigh belong together; give both or neither")
        if key is not None and not (isinstance(key, str) and key) and not callable(key):
            raise TypeError(f"key must be an argument's name or a function of the arguments; got {key!r}")
        kinds = negative if isinstance(negative, tuple) else (negative,)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise TypeError(f"negative must be exception types; got {negative!r}")
        super().__init__(name=name, clock=clock)
        self._weigh, self._key, self._negative = weigh, key, kinds
        self.cell: Cell[CacheState] = Cell(self, self.rule)
        self.tasks: set[Any] = set()

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Answer for what is inside."""
        return partial(twins.cache, self, inner)

    def seat(self, run: Run) -> Seat:
        """Begin one call."""
        if run.streaming:
            raise Misplaced(f"{self.name} cannot keep a stream, whose items are gone once they are read")
        return Seat(self, run, self.key_of(run))

    def key_of(self, run: Run) -> Hashable:
        """The key of a call. Raises TypeError for one that is not hashable."""
        key = run.argument(self._key) if self._key is not None else (run.args, tuple(sorted(run.kwargs.items())))
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(f"{self.name}: key must be hashable; got {key!r}; give key= a function of the arguments") from error
        return key

    def forget(self, key: Hashable) -> None:
        """Drop one key, as `key=` makes it."""
        self.cell.apply(self.rule.forget, self.clock.monotonic(), key)

    def entry(self, value: Any, now: float) -> Entry:
        """An answer to keep."""
        return Entry(value, now, self.rule.ttl, self._weigh(value) if self._weigh is not None else 0)

    def failure(self, error: Exception, now: float) -> Entry:
        """An error for those who wait; it is kept when its type is one of `negative`."""
        return Entry(None, now, self.rule.negative_ttl if isinstance(error, self._negative) else 0.0, error=error)

    def snapshot(self) -> CacheSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read)

    def take_over(self, old: Policy) -> None:
        """Keep the answers and the flights while keys are made in the same way; times and size are the new ones at once."""
        super().take_over(old)
        assert isinstance(old, Cache)
        if (old._key, old._weigh) == (self._key, self._weigh):
            self.cell, old.rule = old.cell.handed_to(self, self.rule), self.rule
            self.tasks = old.tasks
            self.cell.apply(self.rule.retune)

    def restart(self) -> None:
        """Forget everything."""
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own, and no flights of threads that are not here; what was kept is kept."""
        entries = self.cell.state.entries.copy()
        self.cell.reopen()
        self.cell.state.entries.update(entries)
        self.cell.state.weight = sum(entry.weight for entry in entries.values())

    def _read(self, state: CacheState) -> CacheSnapshot:
        entries, flights = len(state.entries), len(state.flights)
        return CacheSnapshot(self.kind, self.name, entries, state.weight, flights, state.hits, state.misses)


class Seat:
    """One call at the cache. `ticket` is set while it follows another's flight; `leads` when it has to fetch itself."""

    __slots__ = ("_cache", "_entry", "_key", "_landed", "_run", "_stale", "leads", "refreshes", "ticket")

    def __init__(self, cache: Cache, run: Run, key: Hashable) -> None:
        self._cache = cache
        self._run = run
        self._key = key
        self._entry: Entry | None = None
        self._stale: Entry | None = None
        self._landed: Entry | None = None
        self.ticket: Follow | None = None
        self.leads = self.refreshes = False
        self.look()

    def look(self) -> None:
        """Look again: an answer, somebody's flight, or the duty to fetch."""
        cache = self._cache
        found = cache.cell.apply(cache.rule.look, self._run.port.now(), self._key)
        if isinstance(found, Found):
            self._entry, self.refreshes = found.entry, found.refresh
        elif isinstance(found, Lead):
            self.leads, self._stale = True, found.stale
        else:
            self.ticket = found

    # --- following: what the shape `wait` asks of a holder

    def pending(self) -> float | None:
        """Seconds it may still wait, or None when this flight is over. Raises TimedOut when its deadline has passed."""
        assert self.ticket is not None
        landed = self.ticket.permit
        if isinstance(landed, Landed):
            self.ticket = None
            self._entry = landed.entry
            if landed.entry is None:  # the leader was cancelled; whoever looks first now leads, the others follow it
                self.look()
            return None
        left = float("inf") if self._run.deadline is None else self._run.deadline - self._run.port.now()
        if left <= DUST:
            raise TimedOut(f"{self._run.pipeline.name}: no answer came before the deadline", policy="deadline", started=False)
        return left

    def abandon(self) -> None:
        """The follower gives up."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            self._cache.cell.apply(self._cache.rule.leave, self._run.port.now(), ticket)

    # --- answering

    def answer(self) -> Any:
        """The answer that was found. Raises the error that was remembered, or that the flight ended with."""
        assert self._entry is not None
        if self._entry.error is not None:
            raise self._entry.error
        return self._entry.value

    def keep(self, value: Any) -> Any:
        """The fetch brought an answer."""
        self._landed = self._cache.entry(value, self._run.port.now())
        return value

    def rescue(self, error: Exception) -> Any:
        """The fetch failed: an old answer if there is one that may be served, else the error."""
        cache = self._cache
        if self._stale is None:
            self._landed = cache.failure(error, self._run.port.now())
            raise error
        cache.emit("cache.stale_served", error=error, pipeline=self._run.pipeline.name)
        self._landed = Entry(
            self._stale.value, self._run.port.now(), 0.0
        )  # to those who wait, and not kept: the next one tries again
        return self._stale.value

    def land(self) -> None:
        """The fetch is over, well or not."""
        cache = self._cache
        cache.cell.apply(cache.rule.land, self._run.port.now(), self._key, self._landed)

    # --- in the background

    def background(self) -> Run:
        """The run of a refresh: nobody's deadline, nobody's key."""
        run = self._run.twin()
        run.deadline, run.armed, run.key = None, None, None
        return run

    def watch(self, task: Any) -> None:
        """Keep the refresh alive until it has ended."""
        tasks = self._cache.tasks
        tasks.add(task)
        if hasattr(task, "add_done_callback"):
            task.add_done_callback(tasks.discard)
        else:
            tasks.discard(task)

    def detach(self) -> None:
        """Cut the context: this code runs in a task or thread of its own."""
        cut_off()

    def lost(self, error: Exception) -> None:
        """A refresh failed; the old answer stays as long as it may."""
        self._cache.emit("cache.refresh_failed", error=error, pipeline=self._run.pipeline.name)
        self._landed = self._entry if self._entry is None else Entry(self._entry.value, self._run.port.now(), 0.0)
