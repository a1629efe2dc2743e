"""What the errors of well-known clients mean, by name: no client is imported to know its errors.

Keys are (top package, class name); an error is looked up along its classes' order of inheritance, so the most precise entry wins.
Where a client keeps the answer inside the error (an HTTP status, a gRPC code, an SQLSTATE), that is read first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from seawall.core.kinds import Kind

BUILT_IN: Final = {
    ("builtins", "ConnectionRefusedError"): Kind.NEVER_SENT,
    ("socket", "gaierror"): Kind.NEVER_SENT,
    ("builtins", "ConnectionError"): Kind.CONNECTION,
    ("builtins", "TimeoutError"): Kind.TIMEOUT,
    ("builtins", "ValueError"): Kind.PERMANENT,
    ("builtins", "TypeError"): Kind.PERMANENT,
}

_HTTPX: Final = {
    "ConnectError": Kind.NEVER_SENT,
    "PoolTimeout": Kind.NEVER_SENT,
    "ConnectTimeout": Kind.CONNECT_TIMEOUT,
    "TimeoutException": Kind.TIMEOUT,
    "NetworkError": Kind.CONNECTION,
    "RemoteProtocolError": Kind.CONNECTION,
    "UnsupportedProtocol": Kind.PERMANENT,
}
_MODEL_API: Final = {"APITimeoutError": Kind.TIMEOUT, "APIConnectionError": Kind.CONNECTION}

CLIENTS: Final[Mapping[str, Mapping[str, Kind]]] = {
    "httpx": _HTTPX,
    "httpx2": _HTTPX,
    "aiohttp": {
        "ClientConnectorError": Kind.NEVER_SENT,
        "ConnectionTimeoutError": Kind.CONNECT_TIMEOUT,
        "ServerTimeoutError": Kind.TIMEOUT,
        "ClientConnectionError": Kind.CONNECTION,
        "ClientPayloadError": Kind.CONNECTION,
    },
    "requests": {
        "ConnectTimeout": Kind.CONNECT_TIMEOUT,
        "Timeout": Kind.TIMEOUT,
        "ConnectionError": Kind.CONNECTION,
        "ChunkedEncodingError": Kind.CONNECTION,
    },
    "urllib3": {
        "NewConnectionError": Kind.NEVER_SENT,
        "ConnectTimeoutError": Kind.CONNECT_TIMEOUT,
        "ReadTimeoutError": Kind.TIMEOUT,
        "ProtocolError": Kind.CONNECTION,
    },
    "redis": {
        "BusyLoadingError": Kind.OVERLOADED,
        "ConnectionError": Kind.CONNECTION,
        "TimeoutError": Kind.TIMEOUT,
        "ResponseError": Kind.PERMANENT,
        "DataError": Kind.PERMANENT,
    },
    "psycopg": {
        "OperationalError": Kind.CONNECTION,
        "InterfaceError": Kind.CONNECTION,
        "DataError": Kind.PERMANENT,
        "IntegrityError": Kind.PERMANENT,
        "ProgrammingError": Kind.PERMANENT,
        "NotSupportedError": Kind.PERMANENT,
    },
    "psycopg_pool": {"PoolTimeout": Kind.NEVER_SENT},
    "asyncpg": {
        "CannotConnectNowError": Kind.NEVER_SENT,
        "PostgresConnectionError": Kind.CONNECTION,
        "ConnectionDoesNotExistError": Kind.CONNECTION,
    },
    "botocore": {
        "EndpointConnectionError": Kind.NEVER_SENT,
        "ConnectTimeoutError": Kind.CONNECT_TIMEOUT,
        "ReadTimeoutError": Kind.TIMEOUT,
        "ConnectionClosedError": Kind.CONNECTION,
        "HTTPClientError": Kind.CONNECTION,
        "ParamValidationError": Kind.PERMANENT,
    },
    "openai": _MODEL_API,
    "anthropic": _MODEL_API,
}
"""Client package to error class to kind."""

_GRPC: Final = {
    "UNAVAILABLE": Kind.OVERLOADED,
    "RESOURCE_EXHAUSTED": Kind.THROTTLED,
    "DEADLINE_EXCEEDED": Kind.TIMEOUT,
    "ABORTED": Kind.CONNECTION,
    "INTERNAL": Kind.SERVER_ERROR,
    "UNKNOWN": Kind.SERVER_ERROR,
    "DATA_LOSS": Kind.SERVER_ERROR,
    "CANCELLED": Kind.CANCELLED,
}
"""gRPC status codes; all others are permanent. Source: the meanings of the codes in gRPC's own documentation."""

_SQLSTATE: Final = {"08": Kind.CONNECTION, "53": Kind.OVERLOADED, "40": Kind.CONNECTION, "57": Kind.CONNECTION}
"""SQLSTATE classes that are worth another try: connection, insufficient resources, rollback, operator intervention."""


def kind_of_error(error: BaseException) -> Kind | None:
    """What a client's error means, by what it carries or by the names of its classes; None when nobody knows."""
    carried = _carried(error)
    if carried is not None:
        return carried
    for base in type(error).__mro__:
        package, name = base.__module__.partition(".")[0], base.__name__
        known = BUILT_IN.get((package, name)) or CLIENTS.get(package, {}).get(name)
        if known is not None:
            return known
    return None


def client_response(error: Any) -> Any:
    """The response inside a client's error, where it keeps one: an object with a status, or botocore's dictionary as one."""
    response = getattr(error, "response", None)
    return _Reply(response) if isinstance(response, Mapping) else response


class _Reply:
    """botocore's response dictionary, seen as a response."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        details = response.get("ResponseMetadata", {})
        code = str(response.get("Error", {}).get("Code", ""))
        throttled = "Throttl" in code or code in ("TooManyRequestsException", "RequestLimitExceeded", "SlowDown")
        self.status_code = 429 if throttled else details.get("HTTPStatusCode")
        self.headers = details.get("HTTPHeaders", {})


def _carried(error: BaseException) -> Kind | None:
    """The answer that the error itself carries: a gRPC code, an SQLSTATE, or the error that a wrapper gives as its reason."""
    package = type(error).__module__.partition(".")[0]
    code = getattr(error, "code", None)
    if package == "grpc" and callable(code):
        name = getattr(code(), "name", "")
        return _GRPC.get(name, Kind.PERMANENT)
    state = getattr(error, "sqlstate", None)
    if package in ("psycopg", "asyncpg") and isinstance(state, str) and len(state) == 5:
        return Kind.NEVER_SENT if state == "57P03" else _SQLSTATE.get(state[:2], Kind.PERMANENT)
    cause = _cause(package, error)
    return None if cause is None or cause is error else kind_of_error(cause)


def _cause(package: str, error: BaseException) -> BaseException | None:
    """The error that urllib3's MaxRetryError gives as its reason, and the one that requests wraps as its first argument."""
    wrapped = getattr(error, "reason", None) if package == "urllib3" else None
    if package == "requests" and error.args and type(error.args[0]).__module__.startswith("urllib3"):
        wrapped = error.args[0]
    return wrapped if isinstance(wrapped, BaseException) else None
