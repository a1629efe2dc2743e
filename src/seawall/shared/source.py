"""Where a shared limiter's answers come from: the store while it answers, and what was said for the time when it does not.

`local`: a share of the limit in this process, kept warm by what the store granted us, so that an outage is no second burst.
What was spent from it is owed to the store, as far as it has not flowed off meanwhile, and is paid when the store is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import getLogger
from typing import Any, Final, Literal

from seawall.core.outcome import Outcome
from seawall.shared.memory import MemoryStore
from seawall.shared.port import CHARGE, LEASE, PEEK, RESET, TAKE, Answer, Ask, Done, Program, StoreDown
from seawall.shared.stores import Gate

Outage = Literal["local", "open", "closed"]
MOST_OWED: Final = 10_000
"""Keys for which spending in an outage is remembered; what is spent from others is forgotten."""
SILENCE: Final = 10.0
"""Seconds between two lines in the log about one limiter's outage."""
PER_ROUND: Final = 200


class Source:
    """The answers of one limiter.

    tell: emits an event. degraded: whether the last answer came without the store.
    """

    def __init__(self, gate: Gate, outage: Outage, *, max_keys: int, tell: Callable[..., None], name: Callable[[], str]) -> None:
        self.gate = gate
        self.outage = outage
        self.degraded = False
        self._tell = tell
        self._name = name
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._logged = -SILENCE
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing spent here, nothing owed."""
        clock = self.gate.clock
        self._share = MemoryStore(max_keys=self._max_keys, clock=clock)
        self._ledger = MemoryStore(max_keys=MOST_OWED, clock=clock)
        self._owed: dict[tuple[str, ...], Program] = {}
        self.degraded = False

    def reopen(self) -> None:
        """After a fork."""
        self._lock = threading.Lock()
        self._share.reopen()
        self._ledger.reopen()
        self.gate.reopen()

    # --- asking

    def ask(self, ask: Ask) -> Answer:
        """One step, for threads; never fails."""
        try:
            answer = self.gate.ask(ask)
        except StoreDown as error:
            return self._alone(ask, error)
        self._well(ask, answer)
        if self._owed:
            self._pay()
        return answer

    def submit(self, ask: Ask, done: Callable[[Answer], object]) -> None:
        """One step, for the running event loop; never fails."""

        gate = self.gate
        try:
            permit = gate.enter()
        except StoreDown as error:
            done(self._alone(ask, error))
            return

        def answered(answer: Answer | StoreDown) -> None:
            if isinstance(answer, StoreDown):
                gate.leave(permit, Outcome.FAILURE)
                done(self._alone(ask, answer))
                return
            gate.leave(permit, Outcome.SUCCESS)
            self._well(ask, answer)
            if self._owed:
                self._pay_by_tasks()
            done(answer)

        gate.store.submit(ask, answered)

    # --- with the store

    def _well(self, ask: Ask, answer: Answer) -> None:
        spent = answer.granted if ask.verb == LEASE else ask.cost * answer.granted
        if self.outage == "local" and ask.verb in (TAKE, LEASE) and spent and ask.program.local is not None:
            self._share.mirror(ask.keys, ask.program.local.parts, spent)
        if self.degraded:
            self.degraded = False
            self._tell("limiter.recovered", store=self.gate.store.name, owed_keys=len(self._owed))

    def debts(self) -> list[Ask]:
        """What is still owed to the store, as charges, at most some at a time; they count as paid from here on."""
        charges: list[Ask] = []
        with self._lock:
            while self._owed and len(charges) < PER_ROUND:
                keys, program = self._owed.popitem()
                assert program.local is not None
                left = self._ledger.ask(Ask(PEEK, keys, program.local, 0)).remaining
                self._ledger.ask(Ask(RESET, keys, program.local, 0))
                owed = min(part.meter.room for part in program.local.parts) - left
                if owed > 0:
                    charges.append(Ask(CHARGE, keys, program, x=owed))
        return charges

    def _pay(self) -> None:
        charges = self.debts()
        if not charges:
            return
        try:
            self.gate.store.ask_all(charges)
        except StoreDown:
            self._owe_again(charges)

    def _pay_by_tasks(self) -> None:
        for charge in self.debts():
            self.gate.store.submit(charge, self._paid(charge))

    def _paid(self, charge: Ask) -> Done:
        def done(answer: Answer | StoreDown) -> None:
            if isinstance(answer, StoreDown):
                self._owe_again([charge])

        return done

    def _owe_again(self, charges: list[Ask]) -> None:
        for charge in charges:
            self._owe(charge, charge.x)

    # --- without it

    def _alone(self, ask: Ask, error: StoreDown) -> Answer:
        if not self.degraded:
            self.degraded = True
            self._tell("limiter.degraded", reason=str(error), outage=self.outage)
        self._log(error)
        now = self._share.now()
        if self.outage == "open":
            return Answer(1, 0, 0, 0, 0, now, degraded=True)
        if self.outage == "closed" or ask.program.local is None:
            wait = int(max(self.gate.retry_after(), 0.001) * 1e6)
            return Answer(0, wait, 0, wait, 0, now, degraded=True)
        verb, cost = (TAKE, ask.own) if ask.verb == LEASE else (ask.verb, ask.cost)
        answer = self._share.ask(Ask(verb, ask.keys, ask.program.local, cost, ask.x, ask.y))
        spent = {TAKE: cost * answer.granted, CHARGE: ask.x}.get(verb, 0)
        if spent > 0:
            self._owe(ask, spent)
        return answer._replace(degraded=True)

    def _owe(self, ask: Ask, spent: int) -> None:
        with self._lock:
            if ask.keys in self._owed or len(self._owed) < MOST_OWED:
                self._owed[ask.keys] = ask.program
                assert ask.program.local is not None
                self._ledger.ask(Ask(CHARGE, ask.keys, ask.program.local, x=spent))

    def _log(self, error: StoreDown) -> None:
        now = self.gate.clock.monotonic()
        if now - self._logged >= SILENCE:
            self._logged = now
            getLogger("seawall.shared").warning("limiter %s decides %s: %s", self._name(), self.outage, error)


def quiet(_: Any) -> None:
    """A `done` for what nobody waits for."""
