"""Finds the Retry policies that are in their first attempt around the code that asks.

Telling it by the context would cost every call that succeeds; so the context tells of second and later attempts, and those that
are in their first are found among the frames of the calls under way, by whoever wants to know. Work that was handed to another
task or thread shows no frames, but the context reaches it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

GENERATED: Final = "<seawall "
"""How the file names of compiled guards begin."""
_PLAIN: Final = ("seawall.pipeline.guard_sync", "seawall.pipeline.guard_async")


def retries_around() -> Iterator[tuple[Any, bool]]:
    """The Retry policies around the code that asks, from the nearest outwards, each with whether it is in its first attempt."""
    frame: FrameType | None = sys._getframe(1)
    nearest: Any = None
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(GENERATED) and "_sw_r" in code.co_varnames:  # not the code that leads to the plain guards
            policy = getattr(frame.f_globals.get("_sw_cold"), "retry", None)
            names = frame.f_locals
            repeated = names.get("_sw_course") is not None or (names.get("_sw_run") is not None and policy is nearest)
            if policy is not None and not repeated:  # what `repeat` does for this frame has been seen in its own
                yield policy, True
        elif code.co_name == "repeat" and frame.f_globals.get("__name__") in _PLAIN:
            course = frame.f_locals["course"]
            nearest = course.policy
            yield course.policy, course.number == 1
        frame = frame.f_back


def outer_retry(inner: object) -> str | None:
    """Where another Retry than `inner` was made that is in its first attempt around it, as "file:line", or None."""
    return next((str(policy.made_at) for policy, first in retries_around() if first and policy is not inner), None)
