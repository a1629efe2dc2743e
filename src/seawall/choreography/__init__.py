"""Sagas by events: services that react to each other's events, with no event lost and none handled twice.

An event is written in the same transaction as the business rows (outbox), sent by a relay after the commit, and its id is kept in
the handler's transaction (inbox). The promise: no duplicate committed handling; a handler may run again after a rollback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seawall.core.lazy import lazy

if TYPE_CHECKING:
    from seawall.choreography.choreography import Choreography as Choreography
    from seawall.choreography.choreography import Service as Service
    from seawall.choreography.envelope import Envelope as Envelope
    from seawall.choreography.envelope import event as event
    from seawall.choreography.envelope import upcast as upcast
    from seawall.choreography.errors import ChoreographyError as ChoreographyError
    from seawall.choreography.errors import EventError as EventError
    from seawall.choreography.errors import GraphError as GraphError
    from seawall.choreography.outbox import Tx as Tx
    from seawall.choreography.outbox import awrite as awrite
    from seawall.choreography.outbox import write as write
    from seawall.choreography.relay import Relay as Relay
    from seawall.choreography.tracker import Tracker as Tracker

_NAMES = {
    "choreography": ("Choreography", "Service"),
    "envelope": ("Envelope", "event", "upcast"),
    "errors": ("ChoreographyError", "EventError", "GraphError"),
    "outbox": ("Tx", "awrite", "write"),
    "relay": ("Relay",),
    "tracker": ("Tracker",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)  # noqa: PLE0605  # one list of names, not two

__getattr__, __dir__ = lazy(__name__, _HOMES)
