"""What happened, as values. Rules return notes; the cell that ran the rule stamps them and hands them to sinks.

A sink gets events after every lock is released, so it may ask policies anything. A sink that raises never breaks the
call: the error is logged once per sink on the logger "seawall.events".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Event", "Sink", "Sinks", "everywhere"]


class Constant(dict[str, Any]):
    """Details that many events share: they can be read, copied and pickled, and not changed."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the details of an event cannot be changed")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __deepcopy__(self, memo: object) -> Constant:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


NOTHING: Final = Constant()


class Event(NamedTuple):
    """One thing that happened. A named tuple, because one is made for every call that somebody listens to.

    kind: what, as "<pattern>.<what happened>", such as "breaker.opened". policy: the policy's name. pipeline: the
    name of the pipeline the call ran in, or None outside one. at: the clock's monotonic seconds. data: details by name.
    took: seconds that what has ended took, for events that end something; else None.
    """

    kind: str
    policy: str
    at: float
    pipeline: str | None = None
    data: Mapping[str, Any] = NOTHING
    took: float | None = None


ENDED_WELL: Final[Mapping[str, Any]] = Constant(outcome="success")
"""The details of every call that ended well: one object, since a dict for each would cost as much as all other of its guard."""

Sink = Callable[[Event], object]
"""Takes events. It must be quick and is called without any lock held."""


class Sinks:
    """An ordered set of sinks. Adding returns the way to take the sink out again."""

    __slots__ = ("_broken", "_changed", "_sinks")

    def __init__(self) -> None:
        self._sinks: tuple[Sink, ...] = ()
        self._broken: set[int] = set()
        self._changed: Callable[[], object] | None = None

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def on_change(self, callback: Callable[[], object] | None) -> None:
        """Call `callback` whenever a sink comes or goes; it takes the place of the one before."""
        self._changed = callback

    def add(self, sink: Sink) -> Callable[[], None]:
        """Send every event from now on to `sink`; calling the result ends it. Raises TypeError for no callable."""
        if not callable(sink):
            raise TypeError(f"sink must be callable with one Event; got {sink!r}")
        self._set((*self._sinks, sink))

        def unsubscribe() -> None:
            remaining = list(self._sinks)
            if sink in remaining:
                remaining.remove(sink)
            self._set(tuple(remaining))

        return unsubscribe

    @property
    def all(self) -> tuple[Sink, ...]:
        """The sinks, in the order in which they came."""
        return self._sinks

    def emit(self, event: Event) -> None:
        """Hand `event` to every sink, in the order in which they came."""
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:
                self.report(sink, event)

    def _set(self, sinks: tuple[Sink, ...]) -> None:
        self._sinks = sinks
        if self._changed is not None:
            self._changed()

    def report(self, sink: Sink, event: Event) -> None:
        """Log the error that `sink` raises now, the first one of each sink."""
        if id(sink) in self._broken:
            return
        self._broken.add(id(sink))
        from logging import getLogger  # only here: importing seawall stays cheap

        getLogger("seawall.events").exception("sink %r failed on %s; its further errors are not logged", sink, event.kind)


everywhere = Sinks()
"""Sinks that get the events of every policy in this process."""
