"""`seawall registry`: what operators see and do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seawall.cli import main
from seawall.discovery import Instance, Registry


def _url(folder: Path) -> str:
    return f"sqlite:///{folder}/registry.db"


def _until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


def test_ls_shows_who_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first question in every incident."""
    url = _url(tmp_path)
    with Registry.open(url).register(Instance("payments", port=8001, zone="a", version="7")):
        assert main(["registry", "ls", url]) == 0
        head, row = capsys.readouterr().out.splitlines()
        assert head.split() == ["service", "id", "state", "url", "zone", "weight", "version"]
        assert row.split() == ["payments", "127.0.0.1:8001", "ready", "http://127.0.0.1:8001", "a", "1", "7"]
        assert main(["registry", "ls", url, "stock", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []
        assert main(["registry", "ls", url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["zone"] == "a"


def test_drain_takes_one_out_and_its_owner_keeps_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An order that the next heartbeat undoes is no order."""
    url = _url(tmp_path)
    registry = Registry.open(url)
    with registry.register(Instance("payments", port=8001), ttl=0.6) as one:
        assert main(["registry", "drain", url, "payments", "127.0.0.1:8001"]) == 0
        assert registry.list_sync("payments").instances[0].state == "draining"
        _until(lambda: one.instance.state == "draining")
        time.sleep(1)
        assert registry.list_sync("payments").instances[0].state == "draining"
        assert main(["registry", "drain", url, "payments", "127.0.0.1:8001", "--undo"]) == 0
        _until(lambda: one.instance.state == "ready")
        assert one.snapshot().losses == 0
        assert main(["registry", "drain", url, "payments", "nobody"]) == 1
        assert "no instance 'nobody'" in capsys.readouterr().err


def test_register_keeps_an_instance_until_it_is_terminated_and_watch_sees_it(tmp_path: Path) -> None:
    """A process that is no Python can be registered by its start script."""
    url = _url(tmp_path)
    base = [sys.executable, "-m", "seawall", "registry"]
    keep = [*base, "register", url, "db", "--port", "5432", "--zone", "b"]
    with subprocess.Popen([*base, "watch", url, "db", "--json"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        states: list[list[str]] = []
        with subprocess.Popen(keep, stdout=subprocess.DEVNULL) as keeping:
            while ["ready"] not in states:
                states.append(_states(watching.stdout.readline()))
            keeping.send_signal(signal.SIGTERM)
            assert keeping.wait(20) == 0
        while states[-1:] != [[]] or ["down"] not in states:
            states.append(_states(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    assert states[-3:] == [["ready"], ["down"], []]


def _states(line: str) -> list[str]:
    return [one["state"] for one in json.loads(line)["instances"]]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["ls", "nowhere://x"], 2, "url must begin with one of"),
        (["ls", "etcd://127.0.0.1:1"], 1, "does not answer"),
        (["watch", "memory:", "a b"], 2, "service must be made of"),
        (["register", "etcd://127.0.0.1:1", "a", "--port", "1"], 2, "allow_loopback"),
        (["register", "static:x.toml", "a", "--port", "1"], 2, "whoever edits its file"),
        (["drain", "dns:///x", "a", "b"], 2, "whoever keeps the zone"),
    ],
)
def test_what_went_wrong_is_one_line(words: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback tells an operator nothing at three in the morning."""
    assert main(["registry", *words]) == status
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
