"""One file per registry system. Each is loaded when a registry of its kind is opened."""
