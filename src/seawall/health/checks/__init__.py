"""Ready-made checks: `health.ready("redis", checks.redis("redis://localhost"))`.

Each answers within the time limit that it is registered with, keeps no connection between two runs unless it was given a
client, and says what it measured. Those that look at something whose loss only degrades (memory, loop lag, registry, breakers)
are registered as not critical unless the registration says otherwise.
"""

from seawall.health.checks.machine import disk, loop_lag, memory
from seawall.health.checks.network import dns, http, tcp
from seawall.health.checks.ours import breakers, broker, registry
from seawall.health.checks.stores import redis, sql

__all__ = ["breakers", "broker", "disk", "dns", "http", "loop_lag", "memory", "redis", "registry", "sql", "tcp"]
