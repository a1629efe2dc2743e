"""A watch that doubts its registry and outlives it: stale lists, frozen watches, brakes, lists from disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.discovery.kit import ids
from tests.discovery.scripted import Stage, play

from seawall.discovery import AddressRules, Brake, Instance, Snapshot

THREE = tuple(Instance("payments", port=port) for port in (1, 2, 3))
SECURE = tuple(Instance("payments", port=port, scheme="https") for port in (1, 2, 3))


def test_the_last_list_is_kept_while_the_registry_is_away_and_forgotten_when_it_is_too_old() -> None:
    """An outage of the registry is not an outage of the services; but nobody should call addresses of last month."""

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.away = True
            await stage.until(lambda: watch.snapshot.source == "stale", 1)
            lost = stage.clock.monotonic()
            await stage.clock.asleep(590)
            assert len(ids(watch.snapshot)) == 3
            assert 589 <= watch.snapshot.age(stage.clock.monotonic()) <= 592
            await stage.until(lambda: not watch.snapshot.known)
            assert 599 <= stage.clock.monotonic() - lost <= 602
            stage.switch.away = False
            await stage.until(lambda: len(ids(watch.snapshot)) == 3, 6)

    stage = play(scenario)
    assert [kind for kind in stage.kinds() if kind in ("registry.live", "registry.expired")] == [
        "registry.live",
        "registry.expired",
        "registry.live",
    ]


def test_a_registry_that_answers_but_cannot_be_followed_is_asked_now_and_then() -> None:
    """Some proxies cut every stream: the list is still live, and must not be asked for ten times a second."""

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        stage.switch.cut = True
        sources: set[str] = set()
        async with stage.registry.watch("payments") as watch:
            watch.subscribe(lambda snapshot: sources.add(snapshot.source))
            await stage.clock.asleep(60)
            stage.switch.told = (*THREE, Instance("payments", port=4))
            await stage.until(lambda: len(ids(watch.snapshot)) == 4, 1.1)
        assert sources == {"live"}
        assert 40 <= len(stage.switch.of("list")) <= 250

    play(scenario)


def test_a_list_may_be_kept_for_ever() -> None:
    """Where addresses are never reused, the last list beats none for as long as it takes."""

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.away = True
            await stage.clock.asleep(86400)
            assert len(ids(watch.snapshot)) == 3

    play(scenario, stale_for=float("inf"))


def test_a_watch_that_went_silent_is_found_out_by_asking() -> None:
    """Frozen watches raise nothing and end nothing (etcd-io/etcd#8980): only a question beside them tells."""

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.deaf = True
            stage.switch.told = (*THREE, Instance("payments", port=4))
            took = await stage.until(lambda: len(ids(watch.snapshot)) == 4)
            assert 4 <= took <= 5.2
            await stage.until(lambda: len(stage.switch.of("follow")) == 2)

    assert "registry.frozen" in play(scenario, watchdog=5).kinds()


def test_a_silent_watch_of_a_quiet_service_is_left_alone() -> None:
    """Silence of a registry that pushes is normal; it must not be followed anew every time."""

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        stage.switch.deaf = True
        async with stage.registry.watch("payments") as watch:
            await stage.clock.asleep(300)
            assert watch.snapshot.source == "live"
            assert watch.snapshot.age(stage.clock.monotonic()) <= 5.1
            assert (len(stage.switch.of("follow")), watch.snapshot.revision) == (1, 1)

    play(scenario, watchdog=5)


def test_an_emptied_registry_is_not_believed_while_the_instances_answer() -> None:
    """A registry that lost its data says that nobody is there; those who are there know better."""

    async def answers(instance: Instance) -> bool:
        return instance.port != 3

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.told = ()
            emptied = stage.clock.monotonic()
            await stage.until(lambda: len(ids(watch.snapshot)) == 2, 1.2)  # the third one is dead: one probe finds out
            await stage.clock.asleep(300)
            assert ids(watch.snapshot) == ["127.0.0.1:1", "127.0.0.1:2"]
            assert watch.snapshot.held == {"127.0.0.1:1", "127.0.0.1:2"}
            watch.unreachable("127.0.0.1:2")
            await stage.until(lambda: ids(watch.snapshot) == ["127.0.0.1:1"], 0.1)
            await stage.until(lambda: ids(watch.snapshot) == [], 400)
            assert 599 <= stage.clock.monotonic() - emptied <= 601
            stage.switch.told = THREE
            await stage.until(lambda: len(ids(watch.snapshot)) == 3, 0.2)

    kinds = play(scenario, probe=answers).kinds()
    assert kinds.count("registry.held") == 1
    assert kinds.count("registry.released") == 3


def test_a_sudden_shrink_is_braked_and_a_slow_one_is_not() -> None:
    """Half a fleet gone in one word is doubted for ten seconds; one after the other is how fleets shrink."""
    ten = tuple(Instance("payments", port=port) for port in range(1, 11))

    async def answers(instance: Instance) -> bool:
        return True

    async def scenario(stage: Stage) -> None:
        stage.switch.told = ten
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 10)
            stage.switch.told = ten[:4]
            began = stage.clock.monotonic()
            await stage.clock.asleep(9.5)
            assert len(ids(watch.snapshot)) == 10
            await stage.until(lambda: len(ids(watch.snapshot)) == 4)
            assert 9.9 <= stage.clock.monotonic() - began <= 10.2
            stage.switch.told = ten
            await stage.until(lambda: len(ids(watch.snapshot)) == 10)
            for left in range(9, 0, -1):
                await stage.clock.asleep(11)
                stage.switch.told = ten[:left]
                await stage.until(lambda wanted=left: len(ids(watch.snapshot)) == wanted, 0.2)

    play(scenario, probe=answers)


def test_those_who_said_goodbye_are_believed_at_once() -> None:
    """A service that is shut down on purpose must not be kept alive by doubt."""

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.told = tuple(one.with_state("draining") for one in THREE)
            await stage.until(lambda: ids(watch.snapshot) == [])
            stage.switch.told = ()
            await stage.until(lambda: watch.snapshot.instances == (), 0.2)

    assert "registry.held" not in play(scenario).kinds()


def test_a_callback_or_probe_that_fails_breaks_nothing() -> None:
    """Users' code runs inside the watch; its mistakes are its own."""

    async def broken(instance: Instance) -> bool:
        raise ValueError("probe")

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            watch.subscribe(lambda snapshot: 1 / 0)
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.told = ()
            await stage.until(lambda: watch.snapshot.instances == (), 1.2)  # a probe that fails is no answer
            assert watch.snapshot.source == "live"

    play(scenario, probe=broken)


def test_addresses_that_are_not_allowed_never_reach_a_snapshot() -> None:
    """The allow-list stands between whoever writes a registry and every client's network."""

    async def scenario(stage: Stage) -> None:
        metadata = Instance("payments", host="169.254.169.254", port=80)
        stage.switch.told = (*THREE, metadata, Instance("payments", host="10.0.0.1", port=80))
        seen: list[Snapshot] = []
        async with stage.registry.watch("payments") as watch:
            watch.subscribe(seen.append)
            await stage.clock.asleep(20)
        assert {one.host for snapshot in seen for one in snapshot.instances} == {"10.0.0.1"}

    stage = play(scenario, addresses=AddressRules())
    assert stage.kinds().count("registry.denied") == 4


# --- on disk


def _cold(tmp_path: Path, instances: tuple[Instance, ...], asleep: float, **settings: object) -> tuple[list[str], str, list[str]]:
    """What a process knows that starts `asleep` seconds after another one ended, with the registry away."""
    known: list[tuple[list[str], str]] = []

    async def scenario(stage: Stage) -> None:
        stage.switch.told = instances
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            await stage.clock.asleep(2)
        stage.switch.away = True
        await stage.clock.asleep(asleep)
        async with stage.another(cache_dir=tmp_path, **settings).watch("payments") as watch:
            await watch.first(1)
            known.append((ids(watch.snapshot), watch.snapshot.source))
            stage.switch.away = False
            await stage.until(lambda: watch.snapshot.source == "live", 10)
            assert len(ids(watch.snapshot)) == 3

    stage = play(scenario, cache_dir=tmp_path)
    return *known[0], stage.kinds()


def test_a_process_can_start_while_the_registry_is_away(tmp_path: Path) -> None:
    """A deployment during an outage of the registry must not make it worse."""
    names, source, _ = _cold(tmp_path, THREE, 3)
    assert (len(names), source) == (3, "disk")
    files = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert len(files) == 1
    assert os.stat(files[0]).st_mode & 0o077 == 0


def test_old_addresses_from_disk_are_used_only_with_proof(tmp_path: Path) -> None:
    """An address of five minutes ago may be another service by now: TLS or a probe must tell who answers there."""

    async def right_for_two(instance: Instance) -> bool:
        return instance.port == 2

    assert _cold(tmp_path / "a", THREE, 300)[:2] == ([], "none")
    assert len(_cold(tmp_path / "b", SECURE, 300)[0]) == 3
    assert _cold(tmp_path / "c", THREE, 300, identity=right_for_two)[0] == ["127.0.0.1:2"]
    assert _cold(tmp_path / "d", SECURE, 700)[:2] == ([], "none")


def test_a_file_that_was_tampered_with_is_refused_and_said(tmp_path: Path) -> None:
    """What lies on disk is input like any other."""
    _cold(tmp_path, THREE, 1)
    path = next(each for each in tmp_path.iterdir() if not each.name.startswith("."))
    body = json.loads(path.read_text())
    good = json.dumps(body)
    body["instances"][0]["host"] = "169.254.169.254"
    for text in (json.dumps(body), good[:-20], "[]", '{"format": 1, "service": "payments", "registry": "memory:"}'):

        async def scenario(stage: Stage, text: str = text) -> None:
            path.write_text(text.replace(str(body["saved"]), str(stage.clock.wall())))
            stage.switch.away = True
            async with stage.registry.watch("payments") as watch:
                await stage.clock.asleep(2)
                assert "169.254.169.254" not in str(watch.snapshot)

        kinds = play(scenario, cache_dir=tmp_path).kinds()
        assert "registry.denied" in kinds or "registry.disk_failed" in kinds


def test_a_disk_that_is_full_or_read_only_costs_nothing_but_the_file(tmp_path: Path) -> None:
    """A cache must never be the reason for an outage."""
    (tmp_path / "file").write_text("")

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.clock.asleep(5)
            assert len(ids(watch.snapshot)) == 3

    assert "registry.disk_failed" in play(scenario, cache_dir=tmp_path / "file" / "below").kinds()


@pytest.mark.parametrize("brake", [Brake(share=1.0), Brake(hold=0, empty_hold=0)])
def test_the_brake_can_be_let_go(brake: Brake) -> None:
    """Whoever trusts their registry more than their network may say so."""

    async def answers(instance: Instance) -> bool:
        return True

    async def scenario(stage: Stage) -> None:
        stage.switch.told = THREE
        async with stage.registry.watch("payments") as watch:
            await stage.until(lambda: len(ids(watch.snapshot)) == 3)
            stage.switch.told = THREE[:1]
            await stage.until(lambda: len(ids(watch.snapshot)) == 1, 0.3)

    play(scenario, brake=brake, probe=answers)
