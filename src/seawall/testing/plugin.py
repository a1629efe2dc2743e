"""The pytest plugin: the fixture `seawall_time`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seawall.testing.clock import VirtualClock


@pytest.fixture
def seawall_time() -> Iterator[VirtualClock]:
    """Virtual time and fresh policy state for one test, for pipelines built at import too. Yields the clock."""
    from seawall.testing.modes import virtual_time

    with virtual_time() as clock:
        yield clock
