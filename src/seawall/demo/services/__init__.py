"""The shop's services, one process each. `bare.py` and `guarded.py` are the same calls, written twice: compare them."""
