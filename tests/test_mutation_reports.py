"""The mutation reports: one for each file of rules, nine in ten mistakes noticed, and each of the others explained."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RULES = sorted(path.stem for path in (ROOT / "src" / "seawall" / "policies").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", RULES)
def test_nine_in_ten_mistakes_are_noticed_and_the_others_are_explained(name: str) -> None:
    """A survivor without a reason is a test that is missing."""
    report = (ROOT / "docs" / "mutation" / f"{name}.txt").read_text().splitlines()
    assert report[0].startswith(f"# src/seawall/policies/{name}.py sha256 ")
    entries = [line for line in report if not line.startswith("#")]
    assert len(entries) >= 2
    assert all(line.startswith(("killed ", "survived ")) for line in entries)
    unexplained = [line for line in entries if line.startswith("survived ") and "  -- " not in line]
    assert not unexplained
    killed = sum(line.startswith("killed ") for line in entries)
    assert killed >= 0.9 * len(entries), f"{killed} of {len(entries)}"
