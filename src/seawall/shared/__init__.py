"""The same rules when many processes share one limit: a store port, memory, Redis, leases, seats and circuits."""
