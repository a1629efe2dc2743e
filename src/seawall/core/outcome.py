"""What became of a call: one taxonomy that breaker, retry, limiter and budget all read the same way.

A classifier turns an error or a result into a `Verdict`. The verdict's kind is looked up in one table here, so that a
429 can never be a failure for one policy and a success for another. Pure: no clock, no I/O, no imports of clients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from seawall.core.clients import client_response, kind_of_error
from seawall.core.errors import SeawallError, TimedOut
from seawall.core.kinds import MEANING, Kind, Outcome, Repeat

__all__ = [
    "SUCCEEDED",
    "Classifier",
    "DefaultClassifier",
    "Kind",
    "Outcome",
    "Repeat",
    "Verdict",
    "hint",
    "http_status",
    "kind_of_status",
    "parse_retry_after",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a classifier says of one error or result.

    kind: what happened. retry_after: seconds the callee asked us to wait, >= 0, or None when it did not say.
    """

    kind: Kind
    retry_after: float | None = None

    @property
    def outcome(self) -> Outcome:
        """How a breaker counts it."""
        return MEANING[self.kind][0]

    @property
    def repeat(self) -> Repeat:
        """When a retry may repeat it."""
        return MEANING[self.kind][1]


SUCCEEDED: Final = Verdict(Kind.SUCCESS)
"""The verdict of a good result. A classifier that returns this very object, not one like it, is the quicker one."""


@runtime_checkable
class Classifier(Protocol):
    """Turns errors, and results when `judges_results` is true, into verdicts. Never raises, never waits."""

    @property
    def judges_results(self) -> bool:
        """Whether `result` is to be asked."""
        ...

    def error(self, error: BaseException) -> Verdict:
        """Say what kind of failure `error` is."""
        ...

    def result(self, value: Any) -> Verdict:
        """Say what a returned value means; asked only when `judges_results` is true."""
        ...


@dataclass(frozen=True, kw_only=True)
class DefaultClassifier:
    """The classifier of every pipeline that names none: built-in exceptions, and HTTP statuses found on exceptions.

    responses: also judge returned values that carry an HTTP status (`status_code` or `status`), so that a returned 503
        counts as `overloaded` without `raise_for_status()`. Default False: a returned value is a success.

    Cancellation and everything else that is no `Exception` is ignored; so are our own rejections and misuse errors; ValueError,
    TypeError and HTTP 4xx are permanent; 429 is throttled; 503 overloaded; any other exception is a failure that is not
    repeated. A callee's wish to wait is read from a `retry_after` attribute or the Retry-After header (RFC 9110 10.2.3;
    the date form is measured against the response's own Date header, so no clock of ours takes part).
    """

    responses: bool = False

    @property
    def judges_results(self) -> bool:
        """Whether returned values are judged."""
        return self.responses

    def error(self, error: BaseException) -> Verdict:
        """Say what kind of failure `error` is."""
        if not isinstance(error, Exception):
            return Verdict(Kind.CANCELLED)
        if isinstance(error, SeawallError) and not (isinstance(error, TimedOut) and error.started):
            return Verdict(Kind.REJECTED, hint(error))
        status = http_status(client_response(error)) or http_status(error)
        if status is not None:
            return Verdict(kind_of_status(status), hint(error))
        return Verdict(kind_of_error(error) or Kind.ERROR, hint(error))

    def result(self, value: Any) -> Verdict:
        """Say what a returned value means: by its HTTP status where it has one, else success."""
        status = http_status(value)
        if status is None or status < 400:
            return SUCCEEDED
        return Verdict(kind_of_status(status), hint(value))


def kind_of_status(status: int) -> Kind:
    """The kind of an HTTP status: 429 throttled, 503 overloaded, 408 timeout, other 5xx server error, 4xx permanent."""
    if status in _STATUS:
        return _STATUS[status]
    if status >= 500:
        return Kind.SERVER_ERROR
    return Kind.PERMANENT if status >= 400 else Kind.SUCCESS


def http_status(value: Any) -> int | None:
    """The HTTP status that `value` carries as `status_code`, `status` or `code`, or None."""
    for name in ("status_code", "status", "code"):
        status = getattr(value, name, None)
        if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
            return int(status)
    return None


def hint(value: Any) -> float | None:
    """Seconds the callee asked us to wait, from a `retry_after` attribute or a Retry-After header; None if absent."""
    stated = getattr(value, "retry_after", None)
    if isinstance(stated, (int, float)) and not isinstance(stated, bool):
        return max(0.0, float(stated)) if not math.isnan(stated) else None
    headers = getattr(client_response(value), "headers", None) or getattr(value, "headers", None)
    get = getattr(headers, "get", None)
    if get is None:
        return None
    return parse_retry_after(get("Retry-After") or get("retry-after"), get("Date") or get("date"))


def parse_retry_after(text: object, date: object = None) -> float | None:
    """Read a Retry-After value: whole seconds, or an HTTP date measured against the response's Date. None if unusable."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    moment, sent = _http_date(text), _http_date(date)
    return None if moment is None or sent is None else max(0.0, moment - sent)


def _http_date(text: object) -> float | None:
    """Seconds since 1970 of an IMF-fixdate such as "Sun, 06 Nov 1994 08:49:37 GMT", or None."""
    parts = text.strip().replace(":", " ").split() if isinstance(text, str) and len(text) <= 64 else []
    if len(parts) != 8 or parts[7] != "GMT" or parts[2] not in _MONTHS:
        return None
    numbers = [parts[1], *parts[3:7]]
    if not all(part.isascii() and part.isdigit() for part in numbers):
        return None
    day, year, hour, minute, second = map(int, numbers)
    month = _MONTHS.index(parts[2]) + 1
    shifted = year - (month <= 2)  # days since 1970 in the proleptic Gregorian calendar, the year beginning in March
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day
    return float((days - 719469) * 86400 + hour * 3600 + minute * 60 + second)


_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STATUS: Final = {408: Kind.TIMEOUT, 429: Kind.THROTTLED, 503: Kind.OVERLOADED}
