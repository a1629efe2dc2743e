"""One switch for tests: when off, guarded calls pass straight through to the user's function."""

from __future__ import annotations


class Switch:
    """Whether policies act. Read once per call."""

    __slots__ = ("off",)

    def __init__(self) -> None:
        self.off = False


SWITCH = Switch()
