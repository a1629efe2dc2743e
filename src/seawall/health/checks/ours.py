"""Checks of what Seawall itself holds: a broker, a registry, breakers. Known by what they can do; no room is imported for it."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from seawall.core import clock as clocks
from seawall.core import units
from seawall.health.checks.probe import AsyncProbe
from seawall.health.standing import Finding, Status


class Pinged(Protocol):
    """A broker, or anything else that can be pinged, sync or async: it raises or returns False when it is not well."""

    def ping(self) -> Any:
        """Ask for a sign of life."""
        ...


class Circuit(Protocol):
    """A circuit breaker."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def state(self) -> str:
        """ "closed", "open", "half_open", …"""
        ...


def broker(broker: Pinged, **options: Any) -> AsyncProbe:
    """Whether a broker answers a ping. options: handed to `ping`, for those that want a timeout, as FastStream's do."""
    if not callable(getattr(broker, "ping", None)):
        raise TypeError(f"broker must have ping(); got {broker!r}")

    async def look() -> Any:
        answer = broker.ping(**options)
        answer = await answer if inspect.isawaitable(answer) else answer
        return answer is not False

    return AsyncProbe(look, kind="component")


def registry(source: Any, *, warn_after: float = 30.0) -> AsyncProbe:
    """Whether what the registry tells is fresh: `source` is a watch (it has `snapshot`) or a registration (it has `registered`).

    A watch warns when its snapshot is stale, or older than `warn_after` seconds (default 30), or was never heard; a
    registration warns while the registry does not hold it. It never fails by itself: who loses the registry goes on with what
    it knows. Not critical.
    """
    units.seconds("warn_after", warn_after)
    if not hasattr(source, "snapshot") and not hasattr(source, "registered"):
        raise TypeError(f"source must be a watch or a registration; got {source!r}")

    async def look() -> Finding:
        if hasattr(source, "registered"):  # asked first: a registration has a snapshot of its own as well
            held = bool(source.registered)
            return Finding(Status.PASS if held else Status.WARN, None if held else "the registry does not hold this instance")
        snapshot = source.snapshot
        if getattr(snapshot, "source", "live") == "none":
            return Finding(Status.WARN, "the registry was never heard")
        age = float(snapshot.age(clocks.default().monotonic()) if callable(snapshot.age) else snapshot.age)
        stale = getattr(snapshot, "source", "live") == "stale" or age > warn_after
        return Finding(
            Status.WARN if stale else Status.PASS, f"last heard {age:.3g} s ago" if stale else None, round(age, 3), "s"
        )

    return AsyncProbe(look, kind="component", critical=False)


def breakers(*circuits: Circuit) -> AsyncProbe:
    """Whether any of these breakers is open or isolated: then it warns, and names them. Not critical: they are there to be
    open.
    """
    for circuit in circuits:
        if not isinstance(getattr(circuit, "state", None), str):
            raise TypeError(f"breakers must have a name and a state; got {circuit!r}")
    if not circuits:
        raise TypeError("breakers needs at least one breaker")

    async def look() -> Finding:
        away = [circuit.name for circuit in circuits if circuit.state in ("open", "isolated")]
        text = f"open: {', '.join(away)}" if away else None
        return Finding(Status.WARN if away else Status.PASS, text, len(away), "open")

    return AsyncProbe(look, kind="component", critical=False)
