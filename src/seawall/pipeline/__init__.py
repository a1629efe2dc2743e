"""Runs the rules: cells, the sync and async guards, pipelines, decorators."""
