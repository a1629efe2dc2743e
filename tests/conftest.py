"""Options and fixtures that all tests share."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

# a busy machine stalls for seconds: how long a draw or an example takes says nothing of the code
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=5.0, help="length of each soak campaign in seconds (default 5)")
    parser.addoption("--seed", type=int, default=0, help="seed of the soak campaigns (default 0)")


@pytest.fixture
def soak_seconds(request: pytest.FixtureRequest) -> float:
    """How long a campaign may run."""
    return float(request.config.getoption("--seconds"))


@pytest.fixture
def soak_seed(request: pytest.FixtureRequest) -> int:
    """What a campaign draws from; printed, so that a failure can be run again."""
    seed = int(request.config.getoption("--seed"))
    print(f"seed {seed}")
    return seed


@pytest.fixture
def command() -> Iterator[Callable[[list[str]], int]]:
    """The command line. Nothing is collected meanwhile: CPython 3.11 fails to parse when a finaliser parses too, and a task
    of an earlier test that is collected prints its traceback, for which it parses."""
    pytest.importorskip("cyclopts", reason="the command line is an extra")
    from seawall.cli import main

    gc.collect()
    gc.disable()
    try:
        yield main
    finally:
        gc.enable()
