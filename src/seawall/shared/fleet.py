"""A fleet of processes: circuits that hear each other, and orders of people to all of them. Never on the path of a call.

Each process says once a second, on a thread of its own, whether its circuits are open. When a share of the live voters of its
zone says so, the others go to half-open, and find out with probes of their own: never straight to open, because the fault may
lie with those that voted. When the store is down every process has its own circuits, and nothing else changes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import dataclass, fields, is_dataclass
from logging import getLogger
from types import TracebackType
from typing import Any, Final

from seawall.core import units
from seawall.core.events import Event, everywhere
from seawall.pipeline import registry
from seawall.pipeline.breaker import CircuitBreaker
from seawall.shared import keys
from seawall.shared.limits import VERSION
from seawall.shared.port import StoreDown
from seawall.shared.stores import gate

MOST_POLICIES: Final = 200
ORDERS_LAST: Final = 86_400.0
VERBS: Final = ("isolate", "reset")


@dataclass(frozen=True, slots=True)
class Standing:
    """One policy of one process, as the fleet tells it. state: a circuit's state, else None. snapshot: its figures."""

    instance: str
    zone: str
    name: str
    kind: str
    state: str | None
    snapshot: dict[str, Any]


@dataclass(slots=True)
class _Shared:
    breaker: CircuitBreaker
    key: str
    quorum: float
    least: int
    applied: int = 0


class Fleet:
    """This process in a fleet, for `with`; or `start()` and `close()`.

    store: a URL such as "redis://127.0.0.1:6379", which needs `seawall[redis]`. name: the fleet's name. Default "default".
    zone: where this process is; circuits hear those of their own zone only. Default "". instance: this process's name. Default
    host, pid and a random part. every: seconds between two beats, >= 0.05. Default 1. A process that has been silent for five
    beats does not count any more. budget: seconds that one ask of the store may take, > 0. Default 0.5.
    Raises ValueError or TypeError for a parameter out of range.
    """

    def __init__(
        self,
        store: Any,
        *,
        name: str = "default",
        zone: str = "",
        instance: str | None = None,
        every: float | str = 1.0,
        budget: float | str = 0.5,
    ) -> None:
        self.name = name
        self.zone = zone
        self.instance = instance or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        self.every = units.seconds("every", every, above=0.05)
        self._gate = gate(store, budget=units.seconds("budget", budget))
        if not hasattr(self._gate.store, "call_named"):
            raise TypeError(f"store must be one that processes share, such as redis://...; got {self._gate.store.name}")
        self._shared: list[_Shared] = []
        self._obeyed = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._down = False

    def share(self, breaker: CircuitBreaker, *, quorum: float = 0.5, least: int = 3) -> None:
        """Let a circuit vote and hear votes under its name, which all processes give it.

        quorum: share of the live voters that must be open, in (0, 1]. Default 0.5. least: live voters below which nobody is
        heard, >= 1. Default 3. Raises TypeError for what is no circuit breaker or has no name of its own.
        """
        if not isinstance(breaker, CircuitBreaker) or not breaker.is_named:
            raise TypeError(f"breaker must be a CircuitBreaker with a name that all processes give it; got {breaker!r}")
        units.ratio("quorum", quorum)
        units.whole("least", least)
        key = f"{VERSION}:votes:{{{keys.name(breaker.name)}}}:{keys.name(self.zone)}"
        self._shared.append(_Shared(breaker, key, quorum, least))

    # --- beats

    def start(self) -> Fleet:
        """Begin to beat, on a daemon thread."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name=f"seawall fleet {self.name}", daemon=True)
            self._thread.start()
        return self

    def close(self) -> None:
        """Stop, and leave the fleet."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join(self.every + 5)
        try:
            self._call("leave", self.instance)
        except StoreDown:
            self._down = True  # it is forgotten when its last beat has run out

    def beat(self) -> None:
        """One round: vote, hear, tell, obey. Raises StoreDown; the thread takes that as silence."""
        for shared in self._shared:
            self._vote(shared)
        lasts = str(int(self.every * 5000))
        raw = self._call("beat", self.instance, json.dumps(self._told()), lasts)
        orders = {_text(raw[i]): _text(raw[i + 1]) for i in range(0, len(raw), 2)}
        self._obey(orders)

    def __enter__(self) -> Fleet:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- for people

    def ls(self) -> list[Standing]:
        """Every policy of every live process. Raises StoreDown."""
        raw = self._call("ls")
        found = []
        for i in range(0, len(raw), 2):
            told = json.loads(_text(raw[i + 1]))
            found += [Standing(_text(raw[i]), told["zone"], **each) for each in told["policies"]]
        return found

    def order(self, verb: str, policy: str) -> int:
        """Tell every process of the fleet to "isolate" or "reset" its circuits of that name; the order's number. It holds for a
        day, also for processes that begin later. Raises StoreDown; ValueError for another verb."""
        units.one_of("verb", verb, VERBS)
        return int(self._call("order", policy, verb, str(int(ORDERS_LAST * 1000))))

    # --- steps

    def _vote(self, shared: _Shared) -> None:
        state = shared.breaker.cell.state
        epoch = state.epoch
        opened = "1" if shared.breaker.state == "open" else "0"
        words = [self.instance, opened, str(int(self.every * 5000)), repr(shared.quorum), str(shared.least)]
        number, holds, votes, live = map(int, self._gate.call("votes", [shared.key], words))
        if not holds or number <= shared.applied:
            return
        shared.applied = number
        if shared.breaker.doubt(epoch):
            shared.breaker.emit("breaker.doubted", votes=votes, live=live, zone=self.zone, verdict=number)

    def _told(self) -> dict[str, Any]:
        policies: list[dict[str, Any]] = []
        for policy in registry.live():
            if len(policies) >= MOST_POLICIES:
                break
            if policy.name.startswith("store "):
                continue
            shot = _figures(policy)
            if shot is not None:
                policies.append({"name": policy.name[:200], "kind": policy.kind, "state": shot.get("state"), "snapshot": shot})
        return {"zone": self.zone, "policies": policies}

    def _obey(self, orders: dict[str, str]) -> None:
        newest = self._obeyed
        for field, value in orders.items():
            if not field.startswith("p:"):
                continue
            number, _, verb = value.partition(" ")
            if int(number) <= self._obeyed or verb not in VERBS:
                continue
            newest = max(newest, int(number))
            for policy in registry.live():
                if isinstance(policy, CircuitBreaker) and policy.name == field[2:]:
                    policy.isolate() if verb == "isolate" else policy.reset()
        self._obeyed = newest

    def _call(self, *words: str) -> Any:
        tag = f"{{{keys.name(self.name)}}}"
        return self._gate.call("fleet", [f"{VERSION}:fleet:{tag}", f"{VERSION}:orders:{tag}"], list(words))

    def _run(self) -> None:
        while True:
            try:
                self.beat()
                self._down = False
            except StoreDown as error:
                self._tell_down(error)
            jitter = 0.9 + 0.2 * self._gate.clock.random.random()
            if self._stop.wait(self.every * jitter):
                return

    def _tell_down(self, error: StoreDown) -> None:
        if not self._down:
            self._down = True
            getLogger("seawall.shared").warning("fleet %s: every process has its own circuits now: %s", self.name, error)
            everywhere.emit(Event("fleet.silent", self.name, self._gate.clock.monotonic(), None, {"reason": str(error)}))


def _figures(policy: Any) -> dict[str, Any] | None:
    """A policy's snapshot as JSON can say it; None for one that keeps none."""
    try:
        shot = policy.snapshot()
    except TypeError:
        return None
    if not is_dataclass(shot) or isinstance(shot, type):
        return None
    figures = {}
    for name, value in ((field.name, getattr(shot, field.name)) for field in fields(shot)):
        plain = isinstance(value, str | int | float | bool) or value is None
        figures[name] = value if plain and value not in (float("inf"), float("-inf")) else str(value)[:200]
    return figures


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
