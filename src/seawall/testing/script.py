"""A callee that does what a test tells it, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from seawall.core import clock as clocks
from seawall.core import units


@dataclass(frozen=True, slots=True)
class takes:  # noqa: N801  # reads as a verb in a script: takes(2.0, then=OSError())
    """An outcome that takes time first.

    seconds: how long, >= 0. then: what happens after it: an exception to raise or a value to return. Default None.
    """

    seconds: float
    then: Any = None

    def __post_init__(self) -> None:
        units.seconds("seconds", self.seconds, zero=True)


class Script:
    """A function for tests that plays one outcome per call: exceptions are raised, all else is returned.

    outcomes: in order; the last one repeats for ever. `takes(2.0, then=...)` waits on the clock first.
    calls: the arguments of every call so far, as (args, kwargs). Call it, or await its `acall`.
    Raises ValueError without an outcome.
    """

    def __init__(self, *outcomes: Any) -> None:
        if not outcomes:
            raise ValueError("a script needs at least one outcome; got none")
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._outcomes = iter(outcomes)
        self._last: Any = None
        self._next: Iterator[Any] = self._play()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next outcome, sync."""
        self.calls.append((args, kwargs))
        outcome = next(self._next)
        if isinstance(outcome, takes):
            clocks.default().sleep(outcome.seconds)
            outcome = outcome.then
        return _end(outcome)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next outcome, async."""
        self.calls.append((args, kwargs))
        outcome = next(self._next)
        if isinstance(outcome, takes):
            await clocks.default().asleep(outcome.seconds)
            outcome = outcome.then
        return _end(outcome)

    def _play(self) -> Iterator[Any]:
        for outcome in self._outcomes:
            self._last = outcome
            yield outcome
        while True:
            yield self._last


def _end(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
