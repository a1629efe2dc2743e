"""What Seawall raises. One `except (Rejected, TimedOut)` catches all of it; the callee's own error leaves as it came.

`Rejected` says that nothing was sent: a policy refused the call before it began. `TimedOut` says that the call was
cut while it ran, so whether it took effect is unknown. The two never mean each other.
"""

from __future__ import annotations

from typing import Any

from seawall.core.findings import SW010

NestedRetryWarning = SW010
"""A Retry runs inside another one, so their attempts multiply. Code SW010; filter it by this category."""


class SeawallError(Exception):
    """Base of every error that Seawall itself raises."""


class Rejected(SeawallError):
    """A policy refused the call before it was sent.

    policy: the name of the policy that refused.
    retry_after: seconds until another try can succeed, >= 0; `inf` when it never can, None when it is not known.
    """

    def __init__(self, message: str, *, policy: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.policy = policy
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0], {"policy": self.policy, "retry_after": self.retry_after})


class CircuitOpen(Rejected):
    """The circuit breaker is open, isolated, or has all its probes out."""


class BulkheadFull(Rejected):
    """All seats are taken and the queue is full, or no seat came free in time."""


class RateLimited(Rejected):
    """The rate limit is spent. `retry_after` is exact; `inf` when the cost is above the burst and can never pass."""


class Overloaded(Rejected):
    """This process is overloaded and sheds the call."""


class BudgetSpent(Rejected):
    """A shared budget (of retries or of hedges) is spent. Retries themselves raise the callee's last error instead."""


class TimedOut(SeawallError, TimeoutError):
    """A call was cut, or did not begin, because its time was over. Whether it took effect is unknown.

    policy: the name of the Timeout that cut it, or "deadline" for `sw.deadline`.
    limit: the length in seconds that was exceeded; None where only the moment was known.
    started: False when the call was refused before it began, because no time was left: then nothing took effect.
    """

    def __init__(self, message: str, *, policy: str, limit: float | None = None, started: bool = True) -> None:
        super().__init__(message)
        self.policy = policy
        self.limit = limit
        self.started = started

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {"policy": self.policy, "limit": self.limit, "started": self.started}
        return _rebuild, (type(self), self.args[0], fields)


class Misplaced(SeawallError, TypeError):
    """A policy or decorator stands where it cannot work; the message says what to do instead."""


class WrongTwin(SeawallError, RuntimeError):
    """A sync verb was used where its async twin belongs, or the other way round; the message names the twin."""


class ConfigError(SeawallError, ValueError):
    """A configuration file cannot be used. path: the file; line: where, from 1, or None when that is not known."""

    def __init__(self, message: str, *, path: str, line: int | None = None) -> None:
        super().__init__(f"{path}{'' if line is None else f':{line}'}: {message}")
        self.path = path
        self.line = line
        self._message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._message, {"path": self.path, "line": self.line})


class MissingExtra(SeawallError, ImportError):
    """An optional dependency is not installed; the message holds the pip line that installs it."""


def _rebuild(kind: type[SeawallError], message: str, fields: dict[str, Any]) -> SeawallError:
    return kind(message, **fields)
