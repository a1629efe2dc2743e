"""Finds the Retry around a Retry, whose attempts would multiply with its own."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

GENERATED: Final = "<seawall "
"""How the file names of compiled guards begin."""
COLD: Final = "_sw_cold"
"""Where compiled code keeps what it names away from its fast path, its Retry as `retry`."""


def outer_retry(inner: object) -> str | None:
    """Where the Retry was made whose first attempt runs now around `inner`, as "file:line", or None.

    Found among the frames of the calls that are under way, and only once an attempt has failed: telling it by the context
    would cost every call that succeeds. Work that was handed to another task or thread shows no frames, but the context
    of second and later attempts reaches it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "repeat" or frame.f_code.co_filename.startswith(GENERATED):
            course, cold = frame.f_locals.get("course"), frame.f_globals.get(COLD)
            around = getattr(course, "policy", None) or getattr(cold, "retry", None)
            if around is not None and around is not inner:
                return str(around.made_at)
        frame = frame.f_back
    return None
