"""From what a user names to a store behind its circuit: one per URL and process, so that limiters share connections."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from logging import DEBUG, WARNING, getLogger
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.errors import MissingExtra
from seawall.core.events import Event, everywhere
from seawall.core.outcome import Outcome
from seawall.pipeline.breaker import CircuitBreaker
from seawall.policies.backoff import Backoff
from seawall.policies.verdict import Rejection
from seawall.shared.memory import MemoryStore
from seawall.shared.port import Answer, Ask, Store, StoreDown

_PLAIN: Final = ("redis", "rediss", "unix", "valkey", "valkeys")
_MANY: Final = tuple(
    f"{scheme}+{kind}" for scheme in ("redis", "rediss", "valkey", "valkeys") for kind in ("sentinel", "cluster")
)
TABLE: Final = dict.fromkeys(_PLAIN + _MANY, "seawall.shared.redis:RedisStore")
"""Where a URL's scheme leads. Other packages add theirs by the entry-point group "seawall.stores"."""
EXTRAS: Final = {"redis": "redis"}
_open: weakref.WeakValueDictionary[tuple[Any, ...], Gate] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class Gate:
    """A store behind its own circuit: three failures in a row open it, for half a second to ten.

    While it is open every ask fails at once. One ask at a time then finds out whether the store is back.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self.store = store
        self._failed = False
        self._looked = False
        self.breaker = CircuitBreaker(
            consecutive_failures=3,
            window=10,
            open_for=Backoff(base=0.5, cap=10, jitter="equal"),
            probes=1,
            name=f"store {store.name}",
            clock=clock,
        )

    @property
    def clock(self) -> Clock:
        """Where its circuit's time comes from."""
        return self.breaker.clock

    def retry_after(self) -> float:
        """Seconds until the store is asked again."""
        return self.breaker.snapshot().retry_after

    def enter(self) -> Any:
        """A permit for one ask. Raises StoreDown while the circuit is open."""
        breaker = self.breaker
        window = breaker.cell.state.window
        if window is not None:  # closed, and in no mode
            return window
        answer = breaker.cell.apply(breaker.rule.admit, self.clock.monotonic(), self.clock.random.random())
        if isinstance(answer, Rejection):
            raise StoreDown(f"{breaker.name} {answer.reason}")
        return answer

    def leave(self, permit: Any, outcome: Outcome) -> None:
        """How the ask went. A success is only worth counting when it ends a row of failures."""
        if outcome is Outcome.SUCCESS and not self._failed and self.breaker.cell.state.phase == "closed":
            return
        self._failed = outcome is Outcome.FAILURE
        clock = self.clock
        self.breaker.cell.apply(
            self.breaker.rule.settle, clock.monotonic(), permit, outcome, took=0.0, hint=None, u=clock.random.random()
        )

    def ask(self, ask: Ask) -> Answer:
        """One step, for threads. Raises StoreDown."""
        permit = self.enter()
        outcome = Outcome.IGNORED
        try:
            answer = self.store.ask(ask)
            outcome = Outcome.SUCCESS
        except StoreDown:
            outcome = Outcome.FAILURE
            raise
        finally:
            self.leave(permit, outcome)
        return answer

    def call(self, name: str, keys: list[str], words: list[str]) -> Any:
        """Run the script lua/NAME.lua, for threads. Raises StoreDown."""
        store: Any = self.store
        permit = self.enter()
        outcome = Outcome.IGNORED
        try:
            answer = store.call_named(name, keys, words)
            outcome = Outcome.SUCCESS
        except StoreDown:
            outcome = Outcome.FAILURE
            raise
        finally:
            self.leave(permit, outcome)
        return answer

    async def acall(self, name: str, keys: list[str], words: list[str]) -> Any:
        """Run the script lua/NAME.lua, for the running event loop, within the store's budget. Raises StoreDown."""
        store: Any = self.store
        permit = self.enter()
        outcome = Outcome.IGNORED
        try:
            async with asyncio.timeout(store.budget):
                answer = await store.acall_named(name, keys, words)
            outcome = Outcome.SUCCESS
        except TimeoutError as error:
            outcome = Outcome.FAILURE
            raise StoreDown(f"no answer within {store.budget:g} s") from error
        except StoreDown:
            outcome = Outcome.FAILURE
            raise
        finally:
            self.leave(permit, outcome)
        return answer

    def look_once(self) -> None:
        """At the first ask: look, on a thread of its own, for settings of the server that stand against the promises, and tell
        them by the log and the event "store.warned". Whoever lacks the right to read them is not bothered."""
        look = getattr(self.store, "look", None)
        if self._looked or look is None:
            return
        self._looked = True
        threading.Thread(target=self._look, args=(look,), name="seawall store look", daemon=True).start()

    def _look(self, look: Callable[[], list[str]]) -> None:
        for warning in look():
            unread = warning.startswith("its settings could not be read")
            getLogger("seawall.shared").log(DEBUG if unread else WARNING, "store %s: %s", self.store.name, warning)
            if not unread:
                everywhere.emit(Event("store.warned", self.store.name, self.clock.monotonic(), None, {"warning": warning}))

    def reopen(self) -> None:
        """After a fork."""
        reopen = getattr(self.store, "reopen", None)
        if reopen is not None:
            reopen()


def gate(store: object, *, budget: float, clock: Clock | None = None, max_keys: int = 100_000) -> Gate:
    """The gate of a store, given as a URL or as an object. Raises MissingExtra, ValueError or TypeError."""
    if store is None or store == "memory:":
        return Gate(MemoryStore(max_keys=max_keys, clock=clock), clock)
    if not isinstance(store, str):
        if not callable(getattr(store, "submit", None)):
            raise TypeError(f'store must be a URL such as "redis://127.0.0.1:6379", or a store; got {store!r}')
        return _kept((id(store), clock), lambda: Gate(store, clock))  # type: ignore[arg-type]
    return _kept((store, budget, clock), lambda: Gate(open_store(store, budget=budget), clock))


def open_store(url: str, *, budget: float = 0.025) -> Any:
    """The store behind a URL, not yet connected. Raises MissingExtra when its driver is not installed, ValueError otherwise."""
    scheme = url.partition("://")[0]
    place = TABLE.get(scheme)
    if place is None:
        found = {point.name: point.value for point in entry_points(group="seawall.stores")}
        place = found.get(scheme)
    if place is None:
        known = ", ".join(sorted({*TABLE, "memory:"}))
        raise ValueError(f"store must be a URL whose scheme is one of {known}; got {scheme[:60]!r}")
    module, _, name = place.partition(":")
    try:
        make = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        raise MissingExtra(f'store {scheme}:// needs a package more: pip install "seawall[{EXTRAS[error.name]}]"') from error
    return make(url, budget=budget)


def _kept(key: tuple[Any, ...], make: Any) -> Gate:
    with _lock:
        found = _open.get(key)
        if found is None:
            found = _open[key] = make()
        return found
