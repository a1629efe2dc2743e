"""Options and fixtures that all tests share."""

from __future__ import annotations

import pytest


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
