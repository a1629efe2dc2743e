"""The fallback as people use it: another answer when the call fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from seawall.core.clock import Clock
from seawall.core.errors import CircuitOpen
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import Run


@dataclass(frozen=True, slots=True)
class FallbackSnapshot:
    """One fallback at one moment. used: how often it answered since it was made."""

    kind: str
    name: str
    used: int


class Fallback(Policy):
    """Answer with something else when the call fails, so that a lesser answer takes the place of none.

    answer: the value to return, or a function of the error that makes it (an async function is awaited in async calls).
        For streams it must be, or return, an iterable of items.
    on: exception types, or a predicate over the error, that it answers for. Default Exception.
    name, clock: see `Policy`.

    Cancellation is never answered. Raises TypeError for a bad `on`.
    """

    kind = "fallback"
    acts_while_observing = True
    why_no_block = "a block has no result that could be replaced"

    def __init__(
        self,
        answer: Any,
        *,
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = Exception,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name=name, clock=clock)
        self._answer = answer
        self._types, self._predicate = _read_on(on)
        self.used = 0

    @property
    def hides_rejections(self) -> bool:
        """Whether it answers for our own refusals, as far as its types say."""
        return self._predicate is None and issubclass(CircuitOpen, self._types)

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Answer for what is inside."""
        return partial(twins.fallback, self, inner)

    def takes(self, error: Exception) -> bool:
        """Whether it answers for this error."""
        return isinstance(error, self._types) if self._predicate is None else bool(self._predicate(error))

    def value(self, error: Exception, run: Run) -> Any:
        """The other answer; an awaitable one is awaited by the guard."""
        self.used += 1
        self.emit("fallback.used", error=error, pipeline=run.pipeline.name)
        return self._answer(error) if callable(self._answer) else self._answer

    def snapshot(self) -> FallbackSnapshot:
        """What it holds now."""
        return FallbackSnapshot(self.kind, self.name, self.used)

    def take_over(self, old: Policy) -> None:
        """Keep the count."""
        super().take_over(old)
        assert isinstance(old, Fallback)
        self.used = old.used

    def restart(self) -> None:
        """Forget what was counted."""
        self.used = 0


def _read_on(on: Any) -> tuple[tuple[type[Exception], ...], Callable[[Exception], bool] | None]:
    types = on if isinstance(on, tuple) else (on,)
    if types and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in types):
        return types, None
    if callable(on) and not isinstance(on, type):
        return (), on
    raise TypeError(f"on must be exception types or a predicate over the error; got {on!r}")
