"""What can be wrong with a wire, how chance decides it, and what the fault proxy counts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from seawall.core import units


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with the wire. The default is nothing.

    latency: seconds added to a round trip: what the upstream sends waits that long; >= 0. Default 0.
    jitter: up to so many seconds more, drawn evenly for each chunk, >= 0; never lets a chunk overtake another. Default 0.
    bandwidth: bytes per second per connection and direction, > 0. Default None = as fast as it goes.
    slice_bytes: pass bytes on in pieces of at most this size, >= 1. Default None = as they come.
    reset: share of connections, in [0, 1], that are reset (TCP RST) when their client next sends something. Default 0.
    black_hole: take everything and pass nothing on, in both directions. What was swallowed does not come back: a
        connection that lost bytes stays dead after the fault is over, until its client gives up. Default False.
    half_open: connections that live while it is on lose their way back for good: what the client sends arrives, answers do
        not, and neither side learns that the other has closed. They are reset when the fault is over. Default False.
    refuse: reset new connections at once; those that live are left alone (see `FaultProxy.cut`). Default False.

    Raises ValueError or TypeError naming the parameter, its range and the value given.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    slice_bytes: int | None = None
    reset: float = 0.0
    black_hole: bool = False
    half_open: bool = False
    refuse: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "latency", units.seconds("latency", self.latency, zero=True))
        object.__setattr__(self, "jitter", units.seconds("jitter", self.jitter, zero=True))
        if self.bandwidth is not None and units.number("bandwidth", self.bandwidth) == 0:
            raise ValueError(f"bandwidth must be > 0 bytes per second, or None; got {self.bandwidth!r}")
        if self.slice_bytes is not None:
            units.whole("slice_bytes", self.slice_bytes)
        object.__setattr__(self, "reset", units.ratio("reset", self.reset, zero=True))
        for name in ("black_hole", "half_open", "refuse"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False; got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class FaultProxySnapshot:
    """One proxy at one moment; counts since it was started.

    connections: accepted, refused ones included. open: alive now. turns: how often a client began to speak, first or after
    an answer: for HTTP/1.1 without pipelining the number of requests. refused: connections reset at the door. resets:
    connections reset later. up_bytes, down_bytes: passed on to the upstream, to clients. swallowed_bytes: to nobody.
    """

    faults: Faults
    connections: int
    open: int
    turns: int
    refused: int
    resets: int
    up_bytes: int
    down_bytes: int
    swallowed_bytes: int


class Draws:
    """The chance of one connection: the same for the same seed and connection number.

    reset: a number in [0, 1); the connection is reset while `Faults.reset` is above it.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._random = Random(f"{seed}/{number}")
        self.reset = self._random.random()

    def delay(self, faults: Faults) -> float:
        """Seconds that the next chunk towards the client waits."""
        if not faults.jitter:
            return faults.latency
        return faults.latency + faults.jitter * self._random.random()
