"""The story of the checkout: an order service that is killed in the middle of its sagas, and books that fit all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seawall.demo.checkout import WHOLE, judged
from seawall.demo.checkout_run import run_checkout


def test_every_order_is_whole_or_not_there_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes, SIGKILL, and the whole path: journal, undo, keys, participants."""
    file = tmp_path / "figures.json"
    assert run_checkout(5.0, 3, file) == 0
    out = capsys.readouterr().out
    assert "kill 2 of 2" in out
    assert " 0 lost, 0 half done, 0 done twice." in out
    told = json.loads(file.read_text())
    assert (told["orders"], told["kills"]) == (100, 2)
    assert told["completed"] == sum(number % 7 != 0 and number % 5 != 0 for number in range(1, 101))
    assert told["completed"] + told["compensated"] == 100


def test_the_judge_finds_what_is_lost_torn_or_twice() -> None:
    """A story that cannot end badly proves nothing."""
    ended = {"order-1": "completed", "order-2": "compensated", "order-3": "running", "order-4": "completed"}
    sums = {"order-1": dict(WHOLE), "order-2": {"stock": 0, "payment": 30}, "order-4": {**WHOLE, "payment": 60}}
    found = judged(ended, sums, {"order-4"}, 5, 1)
    assert (found.completed, found.compensated, found.lost, found.torn, found.twice) == (2, 1, 2, 2, 1)
    assert not found.good
    assert judged({"order-1": "completed"}, {"order-1": dict(WHOLE)}, set(), 1, 0).good
