"""Putting health in front of an application: which kind it is, and where its door is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from seawall.health.asgi import HealthAsgi, paths_under

if TYPE_CHECKING:
    from seawall.health.health import Health


def install(health: Health, app: Any, *, prefix: str) -> Any:
    """See `Health.install`."""
    paths = paths_under(prefix)
    if callable(getattr(app, "add_middleware", None)) and hasattr(app, "router"):  # Starlette and FastAPI
        app.add_middleware(HealthAsgi, health=health, paths=paths, own=lambda: routed(app))
        return app
    if hasattr(app, "asgi_app"):  # Quart
        app.asgi_app = HealthAsgi(app.asgi_app, health, paths)
        return app
    from seawall.health.wsgi import HealthWsgi, ruled

    if hasattr(app, "wsgi_app"):  # Flask
        app.wsgi_app = HealthWsgi(app.wsgi_app, health, paths, own=lambda: ruled(app))
        return app
    if not callable(app):
        raise TypeError(f"install takes an ASGI or WSGI application; got {app!r}")
    return HealthAsgi(app, health, paths) if is_asgi(app) else HealthWsgi(app, health, paths)


def is_asgi(app: Any) -> bool:
    """Whether a callable is an ASGI application: asynchronous, or of three arguments."""
    if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__):
        return True
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError) as unreadable:
        raise TypeError(
            f"cannot tell whether {app!r} is an ASGI or a WSGI application; wrap it with HealthAsgi or HealthWsgi"
        ) from unreadable
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in positional and p.default is inspect.Parameter.empty]
    if len(needed) not in (2, 3):
        raise TypeError(f"an ASGI application takes 3 arguments and a WSGI one takes 2; {app!r} takes {len(needed)}")
    return len(needed) == 3


def routed(app: Any) -> Iterable[str]:
    """The paths for which a Starlette application has routes of its own that answer GET."""
    for route in getattr(app, "routes", ()):
        path, methods = getattr(route, "path", None), getattr(route, "methods", None)
        if isinstance(path, str) and (methods is None or "GET" in methods) and "{" not in path:
            yield path
