"""FastAPI and Starlette: what our errors mean to who called us.

A rejection says that nothing was done, for now: 503, with Retry-After where the moment is known. A timeout says that an answer
took too
long: 504. Neither is the caller's fault, so neither is a 429: that is for an inbound limiter, which answers it by itself.
"""

from __future__ import annotations

import math
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from seawall.core.errors import Rejected, TimedOut

LONGEST_RETRY_AFTER: Final = 3600  # seconds; beyond it the hint is left out
MEDIA_TYPE: Final = "application/problem+json"


def install(app: Starlette) -> None:
    """Let `app` (FastAPI or Starlette) answer our errors: `Rejected` with 503 and Retry-After in whole seconds, rounded up,
    when the policy knows it and it is at most an hour; `TimedOut` with 504. Bodies are application/problem+json (RFC 9457) and
    name the policy.

    An error that your code catches, and handlers that you add for these types later, go first. Raises TypeError for another
    application.
    """
    if not callable(getattr(app, "add_exception_handler", None)):
        raise TypeError(f"install takes a FastAPI or Starlette application; got {app!r}")
    app.add_exception_handler(Rejected, _rejected)
    app.add_exception_handler(TimedOut, _timed_out)


async def _rejected(_: Request, error: Exception) -> Response:
    assert isinstance(error, Rejected)
    headers = {}
    if error.retry_after is not None and error.retry_after <= LONGEST_RETRY_AFTER:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return _problem(503, "Service Unavailable", "Not done, and safe to try again.", error.policy, headers)


async def _timed_out(_: Request, error: Exception) -> Response:
    assert isinstance(error, TimedOut)
    told = "Whether it took effect is not known." if error.started else "It was not begun."
    return _problem(504, "Gateway Timeout", told, error.policy, {})


def _problem(status: int, title: str, detail: str, policy: str, headers: dict[str, str]) -> Response:
    body = {"title": title, "status": status, "detail": detail, "policy": policy}
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)
