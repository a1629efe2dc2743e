"""Lease, fence and tombstone: every order in which three workers can claim, work, pause, expire, resume and be bumped by a human.

The world is small on purpose: one saga, one step with its undo, one participant. Its states are hashed, so that every order is
walked through without walking through any twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest

from seawall.saga.lease import Fence, Lease, Owned
from seawall.saga.tombstone import Effect, too_old

WORKERS = ("a", "b", "c")
KEY = "s.step.0"
MOST_EPOCHS = 3


class Flight(NamedTuple):
    """A request on its way: it can arrive at any time later, or be lost with the answer."""

    worker: str
    verb: str
    epoch: int


@dataclass(frozen=True)
class Worker:
    """What one worker believes. alive: whether its lease holds. paused: it is frozen, and believes what it believed."""

    alive: bool = True
    paused: bool = False
    epoch: int = 0  # 0 = owns nothing
    asked: str = ""  # the request whose answer it waits for
    heard: str = ""  # "do" or "undo" was answered well, and may be written


@dataclass(frozen=True)
class World:
    """Everything. log: of the participant's effects, made (+) and taken back (-). wrote: (epoch, record) as accepted."""

    owned: Owned = field(default_factory=Owned)
    workers: tuple[Worker, ...] = (Worker(), Worker(), Worker())
    flights: frozenset[Flight] = frozenset()
    effect: Effect = field(default_factory=Effect)
    log: tuple[str, ...] = ()
    wrote: tuple[tuple[int, str], ...] = ()
    owners: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Rules:
    """What the world checks; tests take one out at a time."""

    append_checks_fence: bool = True
    claim_checks_lease: bool = True
    participant_checks_fence: bool = True
    undo_leaves_tombstone: bool = True
    claim_grows_epoch: bool = True


def nexts(world: World, rules: Rules) -> Iterator[World]:
    """Every world that one step of anybody leads to."""
    for index, name in enumerate(WORKERS):
        worker = world.workers[index]
        if worker.paused:
            yield put(world, index, replace(worker, paused=False))
            if worker.alive:
                yield put(world, index, replace(worker, alive=False))  # its lease runs out while it is frozen
            continue
        yield put(world, index, replace(worker, paused=True))
        yield from _claim(world, index, name, worker, rules)
        if worker.epoch:
            yield from _work(world, index, name, worker, rules)
    for flight in world.flights:
        yield _arrive(world, flight, rules)
    if world.owned.epoch < MOST_EPOCHS and world.owned.owner is not None:
        yield replace(world, owned=world.owned.bump())


def put(world: World, index: int, worker: Worker) -> World:
    """The world with another worker in a place."""
    workers = list(world.workers)
    workers[index] = worker
    return replace(world, workers=tuple(workers))


def _claim(world: World, index: int, name: str, worker: Worker, rules: Rules) -> Iterator[World]:
    ended = world.wrote and world.wrote[-1][1] == "undo"
    if not worker.alive or worker.epoch or world.owned.epoch >= MOST_EPOCHS or ended:
        return
    owner = world.owned.owner
    lives = owner is not None and world.workers[WORKERS.index(owner)].alive
    owned = world.owned.claim(name, owner_lives=lives and rules.claim_checks_lease)
    if owned is None:
        return
    if not rules.claim_grows_epoch:
        owned = replace(owned, epoch=max(1, world.owned.epoch))
    taken = put(world, index, replace(worker, epoch=owned.epoch, asked="", heard=""))
    yield replace(taken, owned=owned, owners=(*world.owners, (owned.epoch, name)))


def _work(world: World, index: int, name: str, worker: Worker, rules: Rules) -> Iterator[World]:
    """Ask for the do, or, as the step counts as unknown after a take-over, its undo; then write what was heard."""
    if not worker.asked and not worker.heard:
        for verb in ("do", "undo"):
            sent = replace(world, flights=world.flights | {Flight(name, verb, worker.epoch)})
            yield put(sent, index, replace(worker, asked=verb))
    if worker.heard:
        owned = world.owned.append(name, worker.epoch, worker.heard)
        if owned is None and not rules.append_checks_fence:
            owned = replace(world.owned, records=(*world.owned.records, worker.heard))
        if owned is None:
            yield put(world, index, replace(worker, epoch=0, asked="", heard=""))  # LeaseLost: it lets go
            return
        wrote = replace(world, owned=replace(owned, records=()), wrote=(*world.wrote, (worker.epoch, worker.heard))[-2:])
        yield put(wrote, index, replace(worker, heard="", asked="" if worker.heard == "do" else "over"))


def _arrive(world: World, flight: Flight, rules: Rules) -> World:
    """A request reaches the participant; its answer reaches the worker if that one still waits for it."""
    fence = Fence(1, flight.epoch) if rules.participant_checks_fence else Fence(1, 1)
    there = replace(world, flights=world.flights - {flight})
    log = world.log
    if flight.verb == "do":
        verdict, effect = world.effect.do("p", fence, "request", holder_lives=False)
        if verdict == "run":
            effect, log = effect.finish("p"), (*log, f"+{flight.epoch}")
    else:
        verdict, effect = world.effect.undo("p", fence, holder_lives=False)
        if verdict == "run":
            effect, log = effect.undone("p"), (*log, f"-{flight.epoch}")
        elif effect.mark == "tombstone" and not rules.undo_leaves_tombstone:
            effect = replace(effect, mark="free")
    there = replace(there, effect=effect, log=log)
    index = WORKERS.index(flight.worker)
    worker = there.workers[index]
    if verdict in ("run", "repeat") and worker.asked == flight.verb and worker.epoch == flight.epoch:
        return put(there, index, replace(worker, asked="", heard=flight.verb))
    return there


def wrong(before: World, after: World) -> str | None:
    """What is broken by one step, if anything."""
    if len(after.wrote) and after.wrote != before.wrote and after.wrote[-1][0] != before.owned.epoch:
        return f"a stale write of epoch {after.wrote[-1][0]} was accepted under epoch {before.owned.epoch}"
    by_epoch: dict[int, str] = {}
    for epoch, owner in after.owners:
        if by_epoch.setdefault(epoch, owner) != owner:
            return f"two owners of epoch {epoch}"
    if after.owners != before.owners and before.owned.owner is not None:
        held = before.workers[WORKERS.index(before.owned.owner)]
        if held.alive:
            return "a saga was taken from a living owner"
    if after.log != before.log and after.log[-1].startswith("+"):
        if after.log.count(after.log[-1]) + sum(entry.startswith("+") for entry in before.log) > 1:
            return "the effect was made twice"
        if any(record == "undo" for _, record in before.wrote):
            return "an effect after the undo was written"
    if after.log != before.log and after.log[-1].startswith("+") and before.effect.fence.epoch > int(after.log[-1][1:]):
        return "an effect by an owner that had been replaced"
    return None


def explore(rules: Rules, most: int = 3_000_000) -> tuple[int, int, str | None]:
    """How many worlds and steps there are, and what is wrong with the first wrong one."""
    first = World()
    seen, todo, steps = {hash(canonical(first))}, [first], 0
    while todo:
        world = todo.pop()
        for after in nexts(world, rules):
            steps += 1
            problem = wrong(world, after)
            if problem is not None:
                return len(seen), steps, problem
            mark = hash(canonical(after))
            if mark not in seen:
                assert len(seen) < most, "the world is not small any more"
                seen.add(mark)
                todo.append(after)
    return len(seen), steps, None


def canonical(world: World) -> tuple[object, ...]:
    """The world up to the workers' names, which mean nothing: three times two times one fewer."""
    parts = []
    for index, name in enumerate(WORKERS):
        flights = tuple(sorted((f.verb, f.epoch) for f in world.flights if f.worker == name))
        owned = tuple(sorted(epoch for epoch, owner in world.owners if owner == name))
        worker = world.workers[index]
        parts.append(
            (worker.alive, worker.paused, worker.epoch, worker.asked, worker.heard, name == world.owned.owner, flights, owned)
        )
    return (tuple(sorted(parts)), world.owned.epoch, world.effect, world.log, world.wrote)


def test_every_order_of_three_workers_accepts_no_stale_write_and_no_effect_after_undo() -> None:
    """Safety by enumeration: what is left is that the databases follow these tables, which the fault tests show."""
    worlds, steps, problem = explore(Rules())
    print(f"{worlds} worlds, {steps} steps")
    assert problem is None
    assert worlds > 50_000


BROKEN: dict[str, tuple[Rules, str]] = {
    "append without fence": (Rules(append_checks_fence=False), "a stale write"),
    "claim without lease": (Rules(claim_checks_lease=False), "living owner"),
    "undo without tombstone": (Rules(undo_leaves_tombstone=False, participant_checks_fence=False), "after the undo"),
    "claim without a new epoch": (Rules(claim_grows_epoch=False), "two owners"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_taking_one_check_out_is_found(name: str) -> None:
    """An exploration that finds nothing in a broken world proves nothing about a right one."""
    rules, expected = BROKEN[name]
    _, steps, problem = explore(rules)
    assert problem is not None
    assert expected in problem
    print(f"{name}: found after {steps} steps: {problem}")


# --- the tombstone table by itself, exhaustively


def test_the_table_of_a_key_lies_to_nobody_in_any_order_of_eight_events() -> None:
    """Duplicates, deaths, late requests: at most one effect stands, and an undo that says success leaves none."""
    events: list[Callable[[Effect, int], tuple[str, Effect, int]]] = []

    def ask(verb: str, epoch: int, how: str) -> Callable[[Effect, int], tuple[str, Effect, int]]:
        def event(effect: Effect, standing: int) -> tuple[str, Effect, int]:
            if verb == "do":
                verdict, after = effect.do("h", Fence(1, epoch), "f", holder_lives=effect.holder is not None and how == "meets")
                if verdict != "run":
                    return verdict, after, standing
                made = 1 if how in ("ends", "dies") else standing  # it looks before it books again
                after = {"ends": after.finish, "rejects": after.reject}.get(how, after.lose)("h")
                return verdict, after, made
            verdict, after = effect.undo("h", Fence(1, epoch), holder_lives=effect.holder is not None and how == "meets")
            if verdict == "run" and how == "ends":
                return "undone", after.undone("h"), 0
            return verdict, after.lose("h") if verdict == "run" else after, standing

        return event

    for epoch in (1, 2):
        events += [ask("do", epoch, how) for how in ("ends", "dies", "rejects")] + [
            ask("undo", epoch, h) for h in ("ends", "dies")
        ]
    seen: set[tuple[Effect, int, bool]] = set()
    todo = [(Effect(), 0, False)]
    while todo:
        effect, standing, success = todo.pop()
        for event in events:
            verdict, after, stands = event(effect, standing)
            undone = success or verdict == "undone" or (verdict == "repeat" and after.mark in ("undone", "tombstone"))
            assert not (undone and stands), (effect, verdict, after)
            assert after.fence >= effect.fence
            assert not (after.mark == "free" and stands), "a key in doubt was freed"
            if (after, stands, undone) not in seen:
                seen.add((after, stands, undone))
                todo.append((after, stands, undone))
    assert len(seen) > 15


def test_an_undo_never_succeeds_while_its_do_is_under_way() -> None:
    """Success would mean that nothing stands, and the do is about to make it so."""
    verdict, started = Effect().do("h1", Fence(1, 1), "f", holder_lives=False)
    assert verdict == "run"
    assert started.undo("h2", Fence(1, 2), holder_lives=True)[0] == "wait"
    again, doubtful = started.do("h2", Fence(1, 2), "f", holder_lives=False)
    assert (again, doubtful.doubtful) == ("run", True)
    assert doubtful.finish("h1") == doubtful, "the attempt that was declared dead must not answer for the new one"
    assert doubtful.reject("h2").mark == "started", "a rejection proves nothing after an attempt in doubt"
    assert doubtful.do("h3", Fence(1, 2), "g", holder_lives=True)[0] == "changed"


def test_a_lease_that_is_over_stays_over() -> None:
    """A worker that thaws must not come back under the name whose sagas were taken."""
    lease = Lease("a", 10.0)
    assert lease.extend(9.9, 5.0) == Lease("a", 14.9)
    assert lease.extend(10.0, 5.0) is None
    assert not lease.holds(10.0)


@pytest.mark.parametrize("skew", [-300.0, 0.0, 300.0])
def test_no_late_do_slips_through_between_retention_and_skew(skew: float) -> None:
    """A tombstone may only be forgotten once no do that it would refuse can be accepted."""
    retention, undone_at = 3600.0, 1000.0
    for late in range(0, 9000, 50):
        now = undone_at + late
        remembered = late < retention
        issued = undone_at - 1.0 + skew  # the sender's clock is off, and the do was sent before its undo
        assert remembered or too_old(issued, now, retention, 300.0)
