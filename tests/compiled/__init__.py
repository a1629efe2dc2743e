"""Compiled guards against the plain ones, on the same scripts."""
