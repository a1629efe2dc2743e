"""What this room raises."""

from __future__ import annotations

from seawall.core.errors import SeawallError


class ChoreographyError(SeawallError):
    """Base of what the choreography raises."""


class EventError(ChoreographyError, ValueError):
    """Something is no event, or a message cannot be read as one."""


class GraphError(ChoreographyError, ValueError):
    """The declared graph of events cannot work. problems: each one, in words."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems
