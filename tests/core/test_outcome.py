"""One taxonomy for all policies: the table of house.md, row by row."""

from __future__ import annotations

import asyncio
import pickle
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from seawall.core.errors import CircuitOpen, Misplaced, RateLimited, TimedOut
from seawall.core.outcome import (
    DefaultClassifier,
    Kind,
    Outcome,
    Repeat,
    Verdict,
    hint,
    http_status,
    kind_of_status,
    parse_retry_after,
)

CLASSIFIER = DefaultClassifier()


def _aws(code: str, status: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}}


class HttpError(Exception):
    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


@pytest.mark.parametrize(
    ("error", "kind", "outcome", "repeat"),
    [
        (TimeoutError(), Kind.TIMEOUT, Outcome.FAILURE, Repeat.IDEMPOTENT),
        (TimedOut("late", policy="attempt", limit=2), Kind.TIMEOUT, Outcome.FAILURE, Repeat.IDEMPOTENT),
        (TimedOut("late", policy="deadline", started=False), Kind.REJECTED, Outcome.IGNORED, Repeat.NEVER),
        (asyncio.CancelledError(), Kind.CANCELLED, Outcome.IGNORED, Repeat.NEVER),
        (GeneratorExit(), Kind.CANCELLED, Outcome.IGNORED, Repeat.NEVER),
        (KeyboardInterrupt(), Kind.CANCELLED, Outcome.IGNORED, Repeat.NEVER),
        (HttpError(429), Kind.THROTTLED, Outcome.IGNORED, Repeat.ALWAYS),
        (HttpError(503), Kind.OVERLOADED, Outcome.FAILURE, Repeat.IDEMPOTENT),
        (HttpError(502), Kind.SERVER_ERROR, Outcome.FAILURE, Repeat.IDEMPOTENT),
        (HttpError(404), Kind.PERMANENT, Outcome.IGNORED, Repeat.NEVER),
        (ConnectionRefusedError(), Kind.NEVER_SENT, Outcome.FAILURE, Repeat.ALWAYS),
        (socket.gaierror(), Kind.NEVER_SENT, Outcome.FAILURE, Repeat.ALWAYS),
        (ConnectionResetError(), Kind.CONNECTION, Outcome.FAILURE, Repeat.IDEMPOTENT),
        (ValueError(), Kind.PERMANENT, Outcome.IGNORED, Repeat.NEVER),
        (UnicodeError(), Kind.PERMANENT, Outcome.IGNORED, Repeat.NEVER),
        (TypeError(), Kind.PERMANENT, Outcome.IGNORED, Repeat.NEVER),
        (RuntimeError(), Kind.ERROR, Outcome.FAILURE, Repeat.NEVER),
        (CircuitOpen("no", policy="b", retry_after=1), Kind.REJECTED, Outcome.IGNORED, Repeat.NEVER),
    ],
)
def test_every_row_of_the_table_holds(error: BaseException, kind: Kind, outcome: Outcome, repeat: Repeat) -> None:
    """Breaker, retry and limits must read the same error the same way."""
    verdict = CLASSIFIER.error(error)
    assert (verdict.kind, verdict.outcome, verdict.repeat) == (kind, outcome, repeat)


def test_http_client_errors_are_known_by_name_when_the_client_is_not_imported() -> None:
    """The core knows the errors of clients without importing one."""
    module = {"__module__": "httpx2._exceptions"}
    timeout = type("TimeoutException", (Exception,), module)
    connect = type("ConnectTimeout", (timeout,), module)
    refused = type("ConnectError", (Exception,), module)
    assert CLASSIFIER.error(connect()).kind is Kind.CONNECT_TIMEOUT
    assert CLASSIFIER.error(timeout()).kind is Kind.TIMEOUT
    assert CLASSIFIER.error(refused()).kind is Kind.NEVER_SENT


def test_results_are_judged_only_when_asked() -> None:
    """A returned 503 is a success unless responses are judged."""
    reply = SimpleNamespace(status_code=503, headers={"Retry-After": "7"})
    assert not CLASSIFIER.judges_results
    judging = DefaultClassifier(responses=True)
    assert judging.judges_results
    assert judging.result(reply) == Verdict(Kind.OVERLOADED, 7.0)
    assert judging.result(SimpleNamespace(status=204)).kind is Kind.SUCCESS
    assert judging.result("text").kind is Kind.SUCCESS


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("120", None, 120.0),
        (" 3 ", None, 3.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:30 GMT", 7.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", "Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Fri, 01 Mar 2024 00:00:00 GMT", "Wed, 28 Feb 2024 00:00:00 GMT", 2 * 86400.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("1e3", None, None),
        ("9" * 100, None, None),
        (None, None, None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:30 GMT", None),
        ("Sun, xx Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:30 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_when_usable(text: object, date: object, seconds: float | None) -> None:
    """The date form is measured against the server's own Date, so that skewed clocks do no harm."""
    assert parse_retry_after(text, date) == seconds


def test_hints_are_found_on_errors_responses_and_results() -> None:
    """Clients keep the header in different places."""
    assert hint(RateLimited("no", policy="l", retry_after=2.5)) == 2.5
    assert hint(HttpError(503, {"retry-after": "4"})) == 4.0
    assert hint(SimpleNamespace(retry_after=-3)) == 0.0
    assert hint(SimpleNamespace(retry_after=float("nan"))) is None
    assert hint(SimpleNamespace(headers=None)) is None
    assert hint(ValueError()) is None


def test_statuses_are_read_only_when_they_look_like_statuses() -> None:
    """An exception's `code` of 7 is no HTTP status, and True is no number."""
    assert http_status(SimpleNamespace(code=404)) == 404
    assert http_status(SimpleNamespace(code=7)) is None
    assert http_status(SimpleNamespace(status=True)) is None
    assert kind_of_status(200) is Kind.SUCCESS
    assert kind_of_status(408) is Kind.TIMEOUT


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpen("open", policy="b", retry_after=3.0),
        TimedOut("late", policy="t", limit=1.0, started=False),
        Misplaced("wrong"),
    ],
)
def test_our_errors_survive_a_process_border(error: Exception) -> None:
    """Process pools pickle exceptions; a keyword-only field must not break that."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def client_error(module: str, *names: str, **attributes: Any) -> BaseException:
    """An error that looks like a client's: class names from base to leaf, in its module."""
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {"__module__": module})
    error = kind(*attributes.pop("args", ()))
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


REFUSED = client_error("urllib3.exceptions", "HTTPError", "TimeoutError", "ConnectTimeoutError", "NewConnectionError")
TOO_OFTEN = client_error("urllib3.exceptions", "HTTPError", "MaxRetryError", reason=REFUSED)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("aiohttp.client_exceptions", "ClientConnectionError", "ClientConnectorError"), Kind.NEVER_SENT),
        (client_error("aiohttp.client_exceptions", "ClientConnectionError", "ServerTimeoutError"), Kind.TIMEOUT),
        (client_error("aiohttp.client_exceptions", "ServerTimeoutError", "ConnectionTimeoutError"), Kind.CONNECT_TIMEOUT),
        (client_error("aiohttp.client_exceptions", "ClientResponseError", status=429), Kind.THROTTLED),
        (client_error("requests.exceptions", "ConnectionError", "ConnectTimeout"), Kind.CONNECT_TIMEOUT),
        (client_error("requests.exceptions", "ConnectionError", args=(TOO_OFTEN,)), Kind.NEVER_SENT),
        (client_error("requests.exceptions", "ConnectionError", args=("reset",)), Kind.CONNECTION),
        (client_error("requests.exceptions", "HTTPError", response=SimpleNamespace(status_code=503)), Kind.OVERLOADED),
        (TOO_OFTEN, Kind.NEVER_SENT),
        (client_error("grpc._channel", "RpcError", code=lambda: SimpleNamespace(name="UNAVAILABLE")), Kind.OVERLOADED),
        (client_error("grpc.aio", "AioRpcError", code=lambda: SimpleNamespace(name="RESOURCE_EXHAUSTED")), Kind.THROTTLED),
        (client_error("grpc.aio", "AioRpcError", code=lambda: SimpleNamespace(name="INVALID_ARGUMENT")), Kind.PERMANENT),
        (client_error("redis.exceptions", "RedisError", "ConnectionError", "BusyLoadingError"), Kind.OVERLOADED),
        (client_error("redis.exceptions", "RedisError", "ResponseError"), Kind.PERMANENT),
        (client_error("psycopg", "Error", "DatabaseError", "OperationalError", sqlstate=None), Kind.CONNECTION),
        (client_error("psycopg.errors", "OperationalError", "SerializationFailure", sqlstate="40001"), Kind.CONNECTION),
        (client_error("psycopg.errors", "IntegrityError", "UniqueViolation", sqlstate="23505"), Kind.PERMANENT),
        (client_error("psycopg_pool", "PoolTimeout"), Kind.NEVER_SENT),
        (client_error("asyncpg.exceptions", "CannotConnectNowError", sqlstate="57P03"), Kind.NEVER_SENT),
        (client_error("asyncpg.exceptions", "TooManyConnectionsError", sqlstate="53300"), Kind.OVERLOADED),
        (client_error("botocore.exceptions", "HTTPClientError", "ReadTimeoutError"), Kind.TIMEOUT),
        (client_error("botocore.exceptions", "ClientError", response=_aws("Throttling", 400)), Kind.THROTTLED),
        (client_error("botocore.exceptions", "ClientError", response=_aws("AccessDenied", 403)), Kind.PERMANENT),
        (client_error("openai", "APIConnectionError", "APITimeoutError"), Kind.TIMEOUT),
        (client_error("anthropic", "APIStatusError", status_code=529), Kind.SERVER_ERROR),
        (client_error("somebody", "Unheard"), Kind.ERROR),
    ],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}" if isinstance(value, BaseException) else value.value,
)
def test_the_errors_of_clients_are_understood_without_importing_them(error: BaseException, kind: Kind) -> None:
    """Names and fields were checked against the clients' releases of November 2026."""
    assert CLASSIFIER.error(error).kind is kind


def test_a_hint_inside_botocores_dictionary_is_found() -> None:
    """AWS says how long to wait, too."""
    error = client_error("botocore.exceptions", "ClientError", response=_aws("SlowDown", 503, {"retry-after": "4"}))
    assert CLASSIFIER.error(error) == Verdict(Kind.THROTTLED, 4.0)
