"""The story: what goes wrong when, how many customers come, and how patient everybody is. Pure: numbers in, numbers out.

All lengths scale with the length of one telling, so that a short telling is the same story in fast motion; what a customer
accepts and what payment can do stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from seawall.testing.faults import Faults

DEADLINE: Final = 1.0  # seconds within which an order must really be paid to count as good
LEAVES_AFTER: Final = 5.0  # seconds after which a customer closes the page
CALM_RATE: Final = 40.0  # orders per second
PAYMENT_WORKERS: Final = 4
PAYMENT_TAKES: Final = 1 / 15  # seconds of work per payment, so that four workers make 60 payments per second
PAYMENT_RATE: Final = round(PAYMENT_WORKERS / PAYMENT_TAKES)  # what payment's owners promise, and what the limiter is told
BROKEN: Final = ("slow payment", "payment dead")
BACK: Final = "back again"
SEATS: Final = PAYMENT_WORKERS + 2  # calls that the guarded order service has at payment at once: its workers never idle
WELL: Final = Faults()
SHORT: Final = 8.0  # seconds below which a telling has the shares of a short one
USUAL: Final = 40.0  # seconds of one telling when nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A stretch of the story in which nothing changes.

    phase: what people call it; neighbouring scenes may share one. words: what happens. begins, ends: seconds from the
    start of the telling. rate: orders per second. slowdown: how many times longer payment works on an order. faults: what
    is wrong between order and payment. cut: whether live connections to payment are thrown out when the scene begins.
    """

    phase: str
    words: str
    begins: float
    ends: float
    rate: float = CALM_RATE
    slowdown: float = 1.0
    faults: Faults = WELL
    cut: bool = False


@dataclass(frozen=True)
class Phase:
    """One or more neighbouring scenes with one name, in seconds from the start of the telling."""

    name: str
    begins: float
    ends: float

    @property
    def length(self) -> float:
        """Seconds."""
        return self.ends - self.begins


@dataclass(frozen=True)
class Story:
    """One telling of `seconds` length.

    scenes: in order, without gaps. patience: seconds that the bare client waits for an answer; 5 s is what hand-written
    clients and httpx2 itself use, scaled between 2 and 10. open_for: seconds that the guarded client's breaker stays open.
    """

    seconds: float
    scenes: tuple[Scene, ...]
    patience: float
    open_for: float

    @classmethod
    def of(cls, seconds: float) -> Story:
        """The story in so many seconds."""
        pace = seconds / USUAL
        return cls(
            seconds=seconds,
            scenes=tuple(_scenes(seconds)),
            patience=min(10.0, max(2.0, 5.0 * pace)),
            open_for=min(2.0, max(0.15, pace)),
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What people call the parts of it."""
        phases: list[Phase] = []
        for scene in self.scenes:
            if phases and phases[-1].name == scene.phase:
                phases[-1] = Phase(scene.phase, phases[-1].begins, scene.ends)
            else:
                phases.append(Phase(scene.phase, scene.begins, scene.ends))
        return tuple(phases)

    def phase(self, name: str) -> Phase:
        """The phase of that name. Raises LookupError when there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise LookupError(f"the story has no phase {name!r}")

    def phase_at(self, moment: float) -> Phase:
        """The phase that runs `moment` seconds after the start; the last one for any later moment."""
        return next((phase for phase in self.phases if moment < phase.ends), self.phases[-1])

    def arrivals(self, seed: int) -> list[float]:
        """When customers order, in seconds from the start: Poisson arrivals that wait for nobody, the same for one seed."""
        random = Random(f"arrivals/{seed}")
        return [at for scene in self.scenes for at in _poisson(random, scene)]


def _poisson(random: Random, scene: Scene) -> Iterator[float]:
    at = scene.begins + random.expovariate(scene.rate)
    while at < scene.ends:
        yield at
        at += random.expovariate(scene.rate)


def _scenes(seconds: float) -> Iterator[Scene]:
    moment = 0.0
    for usual, short, scene in _SCENES:
        ends = moment + (usual if seconds >= SHORT else short) * seconds
        yield replace(scene, begins=moment, ends=ends)
        moment = ends


def _scene(phase: str, words: str, **changes: Any) -> Scene:
    return Scene(phase=phase, words=words, begins=0.0, ends=0.0, **changes)


# The share of each scene in a usual telling, and in a short one: a line that nobody waits for needs a second or so to grow,
# so a telling of few seconds spends more of them in the outage.
_SCENES: Final = (
    (0.10, 0.05, _scene("calm", "40 orders a second; payment can do 60")),
    (0.20, 0.20, _scene(BROKEN[0], "its database needs four times as long", slowdown=4.0)),
    (
        0.05,
        0.03,
        _scene(BROKEN[1], "it crashes: connections are refused", slowdown=4.0, faults=Faults(refuse=True), cut=True),
    ),
    (
        0.20,
        0.34,
        _scene(BROKEN[1], "it hangs: calls arrive, answers do not", slowdown=12.0, faults=Faults(half_open=True)),
    ),
    (0.25, 0.22, _scene(BACK, "it is well; 40 orders a second")),
    (0.20, 0.16, _scene("traffic x3", "120 orders a second; payment can do 60", rate=3 * CALM_RATE)),
)
