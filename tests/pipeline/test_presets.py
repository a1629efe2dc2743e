"""Presets: pipelines for common callees whose own advice is followed."""

from __future__ import annotations

from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock

ALL = [sw.presets.http, sw.presets.database, sw.presets.llm, sw.presets.queue]


@pytest.mark.parametrize("preset", ALL)
def test_a_preset_works_and_has_nothing_to_warn_of(preset: Any, seawall_time: VirtualClock) -> None:
    """What we recommend must pass our own check."""
    pipeline = preset()
    assert pipeline.name == preset.__name__
    assert pipeline(idempotent=True).call(Script(ConnectionResetError(), 1)) == 1
    told = pipeline.explain()
    assert [finding for finding in told.findings if finding.severity == "warning"] == []
    assert told.wall_time < 200


def test_a_preset_says_why_each_policy_stands_where_it_does() -> None:
    """Numbers without reasons are copied for ever."""
    lines = sw.presets.http("stock").order().splitlines()
    assert lines[0] == "1. total: outside Retry: it bounds the whole call, waits included"
    names = ["1. total", "2. retry", "3. circuit_breaker", "4. bulkhead", "5. attempt"]
    assert [line.split(":")[0] for line in lines] == names
    assert sw.Pipeline(sw.Timeout(1)).order() == "1. timeout: innermost: the time of one attempt, without our own queues"
    with pytest.raises(ValueError, match="limit"):
        sw.presets.http(at_once=0)
