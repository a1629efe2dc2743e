"""What balancing raises."""

from __future__ import annotations

from seawall.core.errors import Rejected


class NoInstance(Rejected):
    """Nobody can be asked: the registry names no instance of the service, or was never heard."""
