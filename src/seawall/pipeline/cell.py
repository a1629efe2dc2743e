"""Where a rule's state lives in this process: behind one lock, which is never held over the user's code.

A cell applies one step of a rule at a time and, after the lock is released, wakes whom the step granted something and
hands its notes to the sinks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from seawall.core.runtime import one_line_is_one_step
from seawall.policies.verdict import Events, Note, Ticket

if TYPE_CHECKING:
    from seawall.pipeline.policy import Policy
    from seawall.policies.limiter_state import LimiterState

P = ParamSpec("P")
A = TypeVar("A")
S = TypeVar("S")
Made_co = TypeVar("Made_co", covariant=True)


class Rule(Protocol[Made_co]):
    """What a cell needs of a rule: a fresh state."""

    def start(self, now: float) -> Made_co:
        """A state in which nothing has happened."""
        ...


class Cell(Generic[S]):
    """One state and its lock. The state object keeps its identity for life."""

    __slots__ = ("_lock", "_owner", "_rule", "state")

    def __init__(self, owner: Policy, rule: Rule[S]) -> None:
        self._owner = owner
        self._rule = rule
        self._lock = threading.Lock()
        self.state = rule.start(owner.clock.monotonic())

    def apply(self, step: Callable[Concatenate[S, P], A], *args: P.args, **kwargs: P.kwargs) -> A:
        """Run one step of the rule on the state under the lock; then tell what it says has happened."""
        with self._lock:
            answer = step(self.state, *args, **kwargs)
        events = cast("Events", answer if isinstance(answer, tuple) else getattr(answer, "events", ()))
        if events:
            self._tell(events)
        return answer

    def handed_to(self, owner: Policy, rule: Rule[S]) -> Cell[S]:
        """The same state and lock under another owner and rule: calls that run under the old ones settle here too."""
        with self._lock:
            self._owner, self._rule = owner, rule
        return self

    def restart(self) -> None:
        """Begin anew on the owner's clock, in place: whoever holds the state object keeps the right one."""
        with self._lock:
            restart = getattr(self._rule, "restart", None)
            if restart is not None:
                restart(self.state)
                return
            fresh = self._rule.start(self._owner.clock.monotonic())
            for name in _slots(fresh):
                setattr(self.state, name, getattr(fresh, name))

    def reopen(self) -> None:
        """After a fork: a lock of our own, and nothing held by threads that do not exist in this process."""
        self._lock = threading.Lock()
        restart = getattr(self._rule, "restart", None)
        if restart is not None:
            restart(self.state)

    def _tell(self, events: Events) -> None:
        for event in events:
            if isinstance(event, Note):
                self._owner.emit(event.kind, **event.data)
            else:
                self._wake(event.ticket)

    def _wake(self, ticket: Ticket) -> None:
        if ticket.event is None:
            return  # its owner attaches the flag before it looks at the ticket, so it will see the grant
        try:
            ticket.event.set()
        except RuntimeError:  # its loop is closed: nobody will ever use the seat, so it passes on
            leave: Callable[..., Any] = cast("Any", self._rule).leave
            self.apply(leave, self._owner.clock.monotonic(), ticket)


class GatedCell(Cell["LimiterState"]):
    """A cell whose state may also be changed without its lock, while nobody holds that: see `at_once`."""

    __slots__ = ()

    def __init__(self, owner: Policy, rule: Rule[LimiterState]) -> None:
        super().__init__(owner, rule)
        self.state.plain = not one_line_is_one_step() or self.state.tolerance < 0  # where a key is not one number
        self.state.reopen()

    def apply(self, step: Callable[Concatenate[LimiterState, P], A], *args: P.args, **kwargs: P.kwargs) -> A:
        """As ever, with the gate closed meanwhile."""
        state = self.state
        with self._lock:
            state.closed = True
            try:
                answer = step(state, *args, **kwargs)
            finally:
                state.reopen()
        events = cast("Events", answer if isinstance(answer, tuple) else getattr(answer, "events", ()))
        if events:
            self._tell(events)
        return answer

    def reopen(self) -> None:
        """After a fork nobody holds the lock."""
        super().reopen()
        self.state.reopen()


def _slots(state: Any) -> tuple[str, ...]:
    return tuple(name for kind in type(state).__mro__ for name in getattr(kind, "__slots__", ()))
