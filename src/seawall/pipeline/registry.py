"""Every live policy of this process, held weakly: tests start them afresh, forked children reopen them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.pipeline.policy import Policy

_live: weakref.WeakSet[Policy] = weakref.WeakSet()
_lock = threading.Lock()


def register(policy: Policy) -> None:
    """Remember a policy for as long as somebody else does."""
    with _lock:
        _live.add(policy)


def live() -> list[Policy]:
    """All policies that exist now."""
    with _lock:
        return list(_live)


def restart_all() -> None:
    """Give every policy fresh state, in place, on the clock that holds now."""
    for policy in live():
        policy.restart()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it when the child was made
    for policy in list(_live):
        policy.reopen()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
