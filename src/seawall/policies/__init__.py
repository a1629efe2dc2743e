"""The rules: one file per pattern, pure. No clock, lock, await, chance, I/O or logging; `now` and `u` are handed in."""
