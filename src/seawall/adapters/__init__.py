"""Where other people's code meets ours: one file per client or framework."""
