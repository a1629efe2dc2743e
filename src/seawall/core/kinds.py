"""The words of the one taxonomy, and the table that says what each means to breakers, retries and limits."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Outcome(Enum):
    """How a policy counts a call: SUCCESS, FAILURE, or IGNORED (says nothing about the callee; permits go back)."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


class Repeat(Enum):
    """When a retry may repeat a call: ALWAYS, only if marked IDEMPOTENT, or NEVER."""

    ALWAYS = "always"
    IDEMPOTENT = "idempotent"
    NEVER = "never"


class Kind(Enum):
    """What happened, in the field's words. The value is what events and metrics say."""

    SUCCESS = "success"
    NEVER_SENT = "never_sent"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    PERMANENT = "permanent"
    ERROR = "error"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


MEANING: Final[Mapping[Kind, tuple[Outcome, Repeat]]] = {
    Kind.SUCCESS: (Outcome.SUCCESS, Repeat.NEVER),
    Kind.NEVER_SENT: (Outcome.FAILURE, Repeat.ALWAYS),
    Kind.CONNECT_TIMEOUT: (Outcome.FAILURE, Repeat.ALWAYS),
    Kind.CONNECTION: (Outcome.FAILURE, Repeat.IDEMPOTENT),
    Kind.TIMEOUT: (Outcome.FAILURE, Repeat.IDEMPOTENT),
    Kind.OVERLOADED: (Outcome.FAILURE, Repeat.IDEMPOTENT),
    Kind.SERVER_ERROR: (Outcome.FAILURE, Repeat.IDEMPOTENT),
    Kind.THROTTLED: (Outcome.IGNORED, Repeat.ALWAYS),
    Kind.PERMANENT: (Outcome.IGNORED, Repeat.NEVER),
    Kind.ERROR: (Outcome.FAILURE, Repeat.NEVER),
    Kind.REJECTED: (Outcome.IGNORED, Repeat.NEVER),
    Kind.CANCELLED: (Outcome.IGNORED, Repeat.NEVER),
}
"""The table: how breakers and limits count each kind, and when a retry may repeat it."""
