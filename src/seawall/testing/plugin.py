"""The pytest plugin: the fixtures `seawall_time` and `saga_lab`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seawall.testing.clock import VirtualClock
    from seawall.testing.saga_lab import SagaLab


@pytest.fixture
def seawall_time() -> Iterator[VirtualClock]:
    """Virtual time and fresh policy state for one test, for pipelines built at import too. Yields the clock."""
    from seawall.testing.modes import virtual_time

    with virtual_time() as clock:
        yield clock


@pytest.fixture
def saga_lab() -> type[SagaLab]:
    """The class `seawall.testing.SagaLab`, for `saga_lab(PlaceOrder(stock)).explore(order)`."""
    from seawall.testing.saga_lab import SagaLab

    return SagaLab
