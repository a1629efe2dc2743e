"""Brokers: `memory:` of our own, all others through FastStream."""
