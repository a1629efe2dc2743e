"""One switch for tests: when off, guarded calls pass straight through to the user's function."""

from __future__ import annotations

from collections.abc import Callable


class Switch:
    """Whether policies act. Read once per call by the plain guards; compiled code is told when it changes.

    off: whether policies pass every call through; change it with `turn`.
    """

    __slots__ = ("_changed", "off")

    def __init__(self) -> None:
        self.off = False
        self._changed: list[Callable[[], object]] = []

    def turn(self, *, off: bool) -> None:
        """Let policies pass every call through, or act again."""
        self.off = off
        for callback in self._changed:
            callback()

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever it is switched."""
        self._changed.append(callback)


SWITCH = Switch()
