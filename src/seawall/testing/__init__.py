"""For the tests of people who use Seawall: virtual time, scripted callees, captured events, a fault proxy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seawall.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"seawall.testing.{_HOMES[name]}"), name)
    return value
