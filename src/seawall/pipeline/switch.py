"""One switch for tests: when off, guarded calls pass straight through to the user's function."""

from __future__ import annotations

from collections.abc import Callable


class Switch:
    """Whether policies act. Read once per call by the plain guards; compiled code is told when it changes."""

    __slots__ = ("_changed", "_off")

    def __init__(self) -> None:
        self._off = False
        self._changed: list[Callable[[], object]] = []

    @property
    def off(self) -> bool:
        """Whether policies pass every call through."""
        return self._off

    @off.setter
    def off(self, off: bool) -> None:
        self._off = off
        for callback in self._changed:
            callback()

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call `callback` whenever it is switched."""
        self._changed.append(callback)


SWITCH = Switch()
