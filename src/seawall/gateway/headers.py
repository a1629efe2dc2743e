"""What our own clients tell an Envoy in front of them: who retries, and how much time is left."""

from __future__ import annotations

from seawall.core.nesting import outer_retry


def retry_headers(*, retries: bool | None = None) -> dict[str, str]:
    """Headers for a request through the gateway: `x-envoy-max-retries: 0` when this side repeats it.

    retries: whether the caller repeats the request itself; default None = whether this code runs within a `Retry`. Envoy obeys
    only callers whose network the listener names as `trusted`, and takes the header away from all others.

    >>> retry_headers(retries=True)
    {'x-envoy-max-retries': '0'}
    """
    owns = outer_retry(None) is not None if retries is None else retries
    return {"x-envoy-max-retries": "0"} if owns else {}
