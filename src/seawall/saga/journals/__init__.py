"""Where sagas are written down: one file per database, all with the same tables."""
