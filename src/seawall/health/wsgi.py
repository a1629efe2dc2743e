"""The WSGI door, for Flask, Django and any other: five paths from memory, everything else passes, counted.

The checks run on an event loop in a thread of their own, started by the first request: after gunicorn has forked its workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from seawall.health.asgi import PATHS
from seawall.health.check import Group
from seawall.health.threads import ensure_running

if TYPE_CHECKING:
    from seawall.health.health import Health

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]
REASONS = {200: "200 OK", 503: "503 Service Unavailable"}


class HealthWsgi:
    """A WSGI application before another one. Parameters as for `HealthAsgi`."""

    def __init__(
        self, app: WsgiApp, health: Health, paths: dict[str, Group] | None = None, own: Callable[[], Iterable[str]] | None = None
    ) -> None:
        self.app = app
        self._health = health
        self._paths = dict(PATHS) if paths is None else paths
        self._own = own

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        health = self._health
        ensure_running(health)
        if environ.get("REQUEST_METHOD") in ("GET", "HEAD"):
            group = self._group(environ)
            if group is not None:
                return self._answer(group, environ, start_response)
        health.traffic.enter(health.clock.monotonic())
        try:
            return _Counted(self.app(environ, start_response), health.traffic.leave)
        except BaseException:
            health.traffic.leave()
            raise

    def _group(self, environ: Environ) -> Group | None:
        path = environ.get("PATH_INFO", "")
        if path in self._paths and self._own is not None:
            for owned in self._own():
                self._paths.pop(owned, None)
            self._own = None
        return self._paths.get(path)

    def _answer(self, group: Group, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        health = self._health
        if group == "ready":
            health.traffic.probed(health.clock.monotonic(), environ.get("HTTP_USER_AGENT", ""))
        report = health.report(group)
        body = report.body(detail=health.detail)
        start_response(REASONS[report.http_status], report.headers(body))
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]


class _Counted:
    """A response body that says when it is over: servers close what they iterate."""

    def __init__(self, body: Iterable[bytes], over: Callable[[], None]) -> None:
        self._body = body
        self._over: Callable[[], None] | None = over

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        over, self._over = self._over, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if over is not None:
                over()


def ruled(app: Any) -> Iterable[str]:
    """The paths for which a Flask application has rules of its own that answer GET."""
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and not rule.arguments:
            yield rule.rule
