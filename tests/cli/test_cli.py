"""The command line at its border: what is wrong is said in one line, before anything starts, with status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cyclopts", reason='the command needs pip install "seawall[cli]"')

from seawall.cli import main


@pytest.mark.parametrize("seconds", ["3.9", "601", "nan", "inf", "-1"])
def test_a_length_out_of_range_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A demo of a year, or of no time at all, must not begin."""
    assert main(["demo", "--seconds", seconds]) == 2
    assert "--seconds must be from 4 to 600; got" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--seconds", "long"], ["--seed", "x"], ["--colour", "red"], ["surplus"]])
def test_input_that_cannot_be_read_is_refused_with_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts tell bad input from a bad result by the status."""
    assert main(["demo", *words]) == 2
    assert words[0].lstrip("-") in "".join(capsys.readouterr())


def test_a_negative_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The proxy refuses it too, but only after the services have started."""
    assert main(["demo", "--seed", "-1"]) == 2
    assert main(["demo", "--store", "ftp://127.0.0.1"]) == 2
    assert "--seed must be from 0" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To learn of it after two minutes would be to lose the figures."""
    assert main(["demo", "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["demo", "--json", str(tmp_path / "no" / "shop.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_help_names_the_command_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    """It is where a new user looks first."""
    assert main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out
    assert main(["demo", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--seconds", "--headless", "--seed", "--json"))


WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
from seawall.cli import main
sys.exit(main(["demo"]))
"""


@pytest.mark.parametrize(("missing", "extra"), [(["cyclopts"], "seawall[cli]"), (["uvicorn"], "seawall[demo]")])
def test_a_missing_extra_is_one_line_that_says_what_to_install(missing: list[str], extra: str) -> None:
    """A traceback of imports tells a new user nothing."""
    code = WITHOUT.format(missing=missing)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert f'pip install "{extra}"' in result.stderr
    assert result.stderr.count("\n") == 1
