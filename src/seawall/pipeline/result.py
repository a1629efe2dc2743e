"""A call's result as a value, for hot paths where raising is the cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from seawall.core.errors import Rejected

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What `try_call` returns: exactly one of the three is meant.

    value: what the callee returned; meaningful when `ok`. error: what it raised, or TimedOut; else None.
    rejection: the refusal of a policy; else None.
    """

    value: T | None = None
    error: Exception | None = None
    rejection: Rejected | None = None

    @property
    def ok(self) -> bool:
        """Whether the callee returned a value."""
        return self.error is None and self.rejection is None

    def unwrap(self) -> T:
        """The value; raises the error or the rejection instead when there is one."""
        problem = self.rejection or self.error
        if problem is not None:
            raise problem
        return self.value  # type: ignore[return-value]
