"""For the tests of people who use Seawall: virtual time, scripted callees, captured events, a fault proxy."""

from typing import TYPE_CHECKING

from seawall.core.lazy import lazy

if TYPE_CHECKING:
    from seawall.testing.clock import VirtualClock as VirtualClock
    from seawall.testing.conformance import conform as conform
    from seawall.testing.fault_proxy import FaultProxy as FaultProxy
    from seawall.testing.fault_proxy import Faults as Faults
    from seawall.testing.modes import capture_events as capture_events
    from seawall.testing.modes import instant as instant
    from seawall.testing.modes import off as off
    from seawall.testing.saga_lab import Effects as Effects
    from seawall.testing.saga_lab import LabFailure as LabFailure
    from seawall.testing.saga_lab import SagaLab as SagaLab
    from seawall.testing.script import Script as Script
    from seawall.testing.script import takes as takes

_HOMES = {
    "Effects": "saga_lab",
    "LabFailure": "saga_lab",
    "SagaLab": "saga_lab",
    "VirtualClock": "clock",
    "conform": "conformance",
    "FaultProxy": "fault_proxy",
    "Faults": "fault_proxy",
    "capture_events": "modes",
    "instant": "modes",
    "off": "modes",
    "Script": "script",
    "takes": "script",
}
__all__ = [
    "Effects", "FaultProxy", "Faults", "LabFailure", "SagaLab", "Script", "VirtualClock", "capture_events", "conform", "instant",
    "off", "takes",
]  # fmt: skip

__getattr__, __dir__ = lazy(__name__, _HOMES)
