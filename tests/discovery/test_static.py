"""The list written by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.discovery.kit import ids

from seawall.core.errors import ConfigError
from seawall.discovery import Brake, Instance, ReadOnlyRegistry, Registry
from seawall.testing import VirtualClock

ONE = '[[services.payments]]\nhost = "10.0.0.7"\nport = 8001\nzone = "a"\nweight = 2\n'
TWO = ONE + '[[services.payments]]\nport = 8002\n[[services.stock]]\nport = 9000\nmetadata = { rack = "4" }\n'


def test_the_file_is_read_again_when_it_changes_and_a_bad_one_keeps_the_old(tmp_path: Path) -> None:
    """An operator's typo at night must not take a service away."""
    path = tmp_path / "services.toml"
    path.write_text(ONE)
    clock = VirtualClock()

    async def scenario() -> None:
        registry = Registry.open(f"static:{path}", clock=clock, stale_for=30)
        complaints: list[str] = []
        registry.subscribe(lambda event: complaints.append(event.data["error"]) if event.kind == "registry.failed" else None)
        async with registry.watch("payments") as watch:
            assert ids(await watch.first()) == ["10.0.0.7:8001"]
            path.write_text(TWO)
            await clock.asleep(2)
            assert ids(watch.snapshot) == ["10.0.0.7:8001", "127.0.0.1:8002"]
            path.write_text(TWO + "[[services.payments]\n")
            await clock.asleep(120)
            assert len(ids(watch.snapshot)) == 2
            assert len(complaints) == 1
            assert f"{path}:11" in complaints[0]
            path.write_text(TWO + '[[services.payments]]\nport = 8003\nstate = "draining"\n')
            await clock.asleep(2)
            assert [one.state for one in watch.snapshot.instances] == ["ready", "ready", "draining"]
            path.unlink()
            await clock.asleep(120)
            assert len(ids(watch.snapshot)) == 2
        assert await Registry.open(f"static:{_written(tmp_path, TWO)}").services() == ("payments", "stock")

    asyncio.run(scenario())


def test_an_emptied_file_is_doubted_for_a_while(tmp_path: Path) -> None:
    """An editor that truncates before it writes must not be believed in between."""
    path = _written(tmp_path, TWO)
    clock = VirtualClock()

    async def answers(instance: Instance) -> bool:
        return True

    async def scenario() -> None:
        registry = Registry.open(f"static:{path}", clock=clock, probe=answers, brake=Brake(empty_hold=20))
        async with registry.watch("payments") as watch:
            await watch.first()
            path.write_text("")
            await clock.asleep(10)
            assert len(ids(watch.snapshot)) == 2
            assert len(watch.snapshot.held) == 2
            await clock.asleep(15)
            assert ids(watch.snapshot) == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("services = 1\n", "must hold"),
        ("[other]\n", "other"),
        ("[services.payments]\nport = 1\n", "must be written as"),
        ("[[services.payments]]\nhost = 'a'\n", "table 1: .*port"),
        ("[[services.payments]]\nport = 1\ncolour = 'red'\n", "unknown colour"),
        ("[[services.payments]]\nport = 1\n[[services.payments]]\nport = 1\n", "same id"),
        ("[[services.'a b']]\nport = 1\n", "service must be"),
        ("[[services.payments]]\nport = = 1\n", ":2: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    """A message without a place sends people hunting."""
    registry = Registry.open(f"static:{_written(tmp_path, text)}")
    with pytest.raises(ConfigError, match=complaint):
        registry.list_sync("payments")


def test_nobody_registers_in_a_file_written_by_hand(tmp_path: Path) -> None:
    """A registration that goes nowhere would look like one that works."""
    registry = Registry.open(f"static:{_written(tmp_path, ONE)}")
    assert not registry.writable
    with pytest.raises(ReadOnlyRegistry, match="whoever edits its file"):
        registry.register(Instance("payments", port=1))


def _written(folder: Path, text: str) -> Path:
    path = folder / "written.toml"
    path.write_text(text)
    return path
