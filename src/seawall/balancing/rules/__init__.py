"""The rules of choosing, pure: no clock, lock, await, chance or I/O. They are handed `now` and a number `u` in [0, 1)."""
