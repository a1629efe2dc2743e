"""Brokers: `memory:` of our own, the others through FastStream or, where that breaks a promise, the server's own client."""
