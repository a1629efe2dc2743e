"""The rules of sagas, tried over every small graph, every outcome, every order and a crash at every point."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest

from seawall.saga.plan import (
    PASSED,
    TERMINAL,
    Decision,
    Do,
    Facts,
    Graph,
    Node,
    Record,
    Undo,
    decide,
    fold,
    must_sync,
    possibly_started,
    ready,
)


def chain(*names: str, pivot: str | None = None, savepoint: str | None = None, **traits: bool) -> Graph:
    """Steps one after the other, each with an undo but the pivot and what follows it."""
    nodes, before, behind = [], (), False
    for name in names:
        undo = not behind and name != pivot
        nodes.append(
            Node(name=name, after=before, undo=undo, pivot=name == pivot, retriable=behind, savepoint=name == savepoint, **traits)
        )
        behind = behind or name == pivot
        before = (name,)
    return Graph(tuple(nodes))


def write(facts: Facts, step: str, phase: str, outcome: str) -> None:
    """One more line."""
    facts.add(Record(facts.last + 1, step, phase, outcome, facts.round(step)))  # type: ignore[arg-type]


def graphs(size: int) -> Iterator[Graph]:
    """Every acyclic graph of `size` steps in one order, with every place for the pivot that the checks allow, and without one."""
    names = "abcd"[:size]
    pairs = list(itertools.combinations(names, 2))
    for mask in range(2 ** len(pairs)):
        edges = [pair for bit, pair in enumerate(pairs) if mask >> bit & 1]
        after = {name: tuple(low for low, high in edges if high == name) for name in names}
        bare = Graph(tuple(Node(name=name, after=after[name], undo=True) for name in names))
        yield bare
        for pivot in names:
            behind, before = bare.dependents[pivot], bare.ancestors[pivot]
            if behind | before | {pivot} == set(names):
                yield Graph(
                    tuple(
                        Node(
                            name=name,
                            after=after[name],
                            undo=name in before,
                            pivot=name == pivot,
                            retriable=name in behind,
                        )
                        for name in names
                    )
                )


World = tuple[tuple[tuple[str, str, str], ...], frozenset[str], frozenset[str]]


def moves(graph: Graph, world: World) -> Iterator[World]:
    """Each way in which the world can go on: any action that is offered, any outcome, its effect made or not, a crash at any
    moment."""
    lines, effects, started = world
    facts = fold(Record(n, step, phase, outcome) for n, (step, phase, outcome) in enumerate(lines, 1))  # type: ignore[arg-type]
    decision = decide(graph, facts, started)
    assert decision.stuck is None, (lines, decision)
    if not any(phase == "turn" for _, phase, _ in lines):
        yield ((*lines, ("", "turn", "backward")), effects, started)  # somebody cancels it
    for action in decision.actions:
        name = action.step
        if isinstance(action, Undo):
            assert not graph.dependents[name] & effects, "a step was taken back before one that stands on it"
            yield ((*lines, (name, "undo", "ok")), effects - {name}, started - {name})
            yield (lines, effects - {name}, started)  # it ran, and we died before we could write it down
            continue
        node = graph.by_name[name]
        assert all(facts.passed(above) for above in node.after)
        assert (name in started) == action.doubtful
        yield (lines, effects | {name}, started | {name})  # it ran, and we died
        yield (lines, effects, started | {name})  # it was sent, and we died
        yield ((*lines, (name, "do", "ok")), effects | {name}, started - {name})
        if node.retriable:
            continue
        if not (action.doubtful or name in effects):
            yield ((*lines, (name, "do", "rejected")), effects, started - {name})
        elif node.pivot and not node.undo:
            continue  # it is repeated with its key until the participant tells; no outcome is written meanwhile
        yield from (
            ((*lines, (name, "do", "unknown")), made, started - {name})
            for made in (effects, effects | {name})
            if not (node.pivot and not node.undo)
        )


def explore(graph: Graph) -> tuple[int, set[str]]:
    """Walk through every reachable world; how many there are, and how they end."""
    first: World = ((), frozenset(), frozenset())
    seen, todo, ends = {first}, [first], set()
    while todo:
        lines, effects, started = world = todo.pop()
        facts = fold(Record(n, step, phase, outcome) for n, (step, phase, outcome) in enumerate(lines, 1))  # type: ignore[arg-type]
        decision = decide(graph, facts, started)
        if decision.finish is not None:
            assert decision.finish in TERMINAL
            everything = frozenset(graph.by_name)
            assert effects == (everything if decision.finish == "completed" else frozenset()), (decision.finish, lines)
            ends.add(decision.finish)
            continue
        assert decision.actions, (lines, "nothing to do and no end")
        for following in moves(graph, world):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return len(seen), ends


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_small_graph_ends_with_all_effects_or_none_whatever_fails_and_whenever_we_die(size: int) -> None:
    """The whole promise of a saga, over each graph, pivot, outcome, order and crash: all of it happened, or none of it did."""
    worlds, ends = 0, set()
    for graph in graphs(size):
        count, found = explore(graph)
        worlds += count
        ends |= found
    assert ends == {"completed", "compensated", "failed"}
    assert worlds > {1: 5, 2: 100, 3: 4000, 4: 100_000}[size]


def test_nothing_starts_twice_while_it_is_busy() -> None:
    """A step that runs must not be offered again, nor the end be declared around it."""
    graph = chain("a", "b")
    assert decide(graph, Facts(), busy={"a"}) == Decision()
    facts = Facts()
    write(facts, "a", "do", "ok")
    assert decide(graph, facts, busy={"b"}).actions == ()


def test_parallel_branches_are_offered_together_and_awaited_before_going_back() -> None:
    """A failure of one branch takes nothing back on which a running branch still stands."""
    graph = Graph((Node(name="a", undo=True), Node(name="b", after=("a",), undo=True), Node(name="c", after=("a",), undo=True)))
    facts = Facts()
    write(facts, "a", "do", "ok")
    assert [action.step for action in decide(graph, facts).actions] == ["b", "c"]
    write(facts, "b", "do", "unknown")
    told = decide(graph, facts, busy={"c"})
    assert [action.step for action in told.actions] == ["b"]
    assert told.backward
    assert told.finish is None
    write(facts, "b", "undo", "ok")
    assert decide(graph, facts, busy={"c"}).actions == ()
    assert [action.step for action in decide(graph, facts, frozenset({"c"})).actions] == ["c"]


def test_an_unknown_outcome_runs_its_own_undo_and_a_rejection_does_not() -> None:
    """An action that raised may have happened; leaving its effect behind is the commonest bug of hand-written sagas."""
    for outcome, undone in (("unknown", ["b"]), ("rejected", ["a"])):
        facts = Facts()
        write(facts, "a", "do", "ok")
        write(facts, "b", "do", outcome)
        actions = decide(chain("a", "b"), facts).actions
        assert [action.step for action in actions] == undone
        assert isinstance(actions[0], Undo)
        assert actions[0].doubtful == (outcome == "unknown")


def test_behind_the_pivot_a_cancel_changes_nothing() -> None:
    """There is one point of no return, and it is one."""
    graph = chain("a", "p", "z", pivot="p")
    facts = Facts()
    write(facts, "a", "do", "ok")
    write(facts, "p", "do", "ok")
    write(facts, "", "turn", "backward")
    assert decide(graph, facts).actions == (Do("z"),)


def test_a_pivot_in_doubt_is_settled_before_anything_is_taken_back() -> None:
    """Taking back the reservation of an order that was charged would be worse than waiting."""
    graph = chain("a", "p", "z", pivot="p")
    facts = Facts()
    write(facts, "a", "do", "ok")
    write(facts, "", "turn", "backward")
    assert decide(graph, facts, frozenset({"p"})).actions == (Do("p", doubtful=True),)
    assert decide(graph, facts, frozenset({"p"}), busy={"p"}).actions == ()
    assert [action.step for action in decide(graph, facts).actions] == ["a"]
    write(facts, "p", "do", "rejected")
    assert [action.step for action in decide(graph, facts).actions] == ["a"]


def test_at_most_once_is_probed_or_stuck_and_never_repeated_blindly() -> None:
    """What must not happen twice is not repeated on a guess."""
    for probe in (True, False):
        graph = Graph((Node(name="a", undo=True, at_most_once=True, probe=probe),))
        facts = Facts()
        assert decide(graph, facts).actions == (Do("a", intend=True),)
        assert possibly_started(graph, facts) == frozenset()
        write(facts, "a", "intent", "intended")
        assert possibly_started(graph, facts) == {"a"}
        told = decide(graph, facts, frozenset({"a"}))
        if probe:
            assert told.actions == (Do("a", doubtful=True, ask=True),)
        else:
            assert told.stuck is not None
            assert told.stuck.startswith("at_most_once: a")
        write(facts, "a", "clear", "operator")
        assert decide(graph, facts).actions == (Do("a", intend=True),)


def test_a_savepoint_is_the_furthest_a_failure_goes_back_and_then_it_goes_forward_with_new_keys() -> None:
    """Garcia-Molina and Salem's save-points: the work before them is not thrown away; three times, then everything is."""
    graph = chain("a", "s", "b", "c", savepoint="s")
    facts = Facts()
    write(facts, "a", "do", "ok")
    write(facts, "s", "do", "ok")
    for turn in range(3):
        write(facts, "b", "do", "ok")
        write(facts, "c", "do", "rejected")
        assert [action.step for action in decide(graph, facts).actions] == ["b"]
        write(facts, "b", "undo", "ok")
        assert decide(graph, facts).turn == "again"
        write(facts, "", "turn", "again")
        assert decide(graph, facts).actions == (Do("b", round=turn + 1),)
    write(facts, "b", "do", "ok")
    write(facts, "c", "do", "rejected")
    for name in "bsa":
        assert [action.step for action in decide(graph, facts).actions] == [name]
        write(facts, name, "undo", "ok")
    assert decide(graph, facts).finish == "compensated"


def test_a_cancel_goes_back_beyond_savepoints() -> None:
    """Who cancels wants nothing to be left."""
    graph = chain("a", "s", "b", savepoint="s")
    facts = Facts()
    write(facts, "a", "do", "ok")
    write(facts, "s", "do", "ok")
    write(facts, "", "turn", "backward")
    assert [action.step for action in decide(graph, facts).actions] == ["s"]


def test_a_skipped_undo_is_never_called_compensated() -> None:
    """A saga with something left behind must be findable."""
    graph = chain("a", "b")
    facts = Facts()
    write(facts, "a", "do", "ok")
    write(facts, "b", "do", "rejected")
    write(facts, "a", "undo", "skipped")
    assert decide(graph, facts).finish == "compensated_partially"


def test_nothing_done_and_rejected_at_once_is_failed() -> None:
    """A saga that never had an effect is told apart from one that was taken back."""
    facts = Facts()
    write(facts, "a", "do", "rejected")
    assert decide(chain("a", "b"), facts).finish == "failed"


def test_lost_records_widen_what_may_have_started_up_to_the_next_synced_one() -> None:
    """In edges and relaxed a power cut can lose middle records; what they led to must then count as possibly started."""
    graph = chain("a", "b", "p", "z", pivot="p")
    assert possibly_started(graph, Facts()) == {"a"}
    assert possibly_started(graph, Facts(), "edges") == {"a", "b"}  # the pivot begins only once all before it is synced
    facts = Facts()
    for name in "abp":
        write(facts, name, "do", "ok")
    assert possibly_started(graph, facts, "relaxed") == {"z"}


def test_what_brings_the_pivots_turn_and_intents_are_synced_in_every_durability() -> None:
    """A pivot in doubt is settled by running it, which needs the results of all that stands before it."""
    graph = chain("a", "b", "p", "z", pivot="p")
    facts, told = Facts(), []
    for name in "abpz":
        before = copy.deepcopy(facts)
        write(facts, name, "do", "ok")
        told.append(must_sync(graph, before, facts, [facts.done[name]]))
    assert told == [False, True, False, False]
    once = Graph((Node(name="a", at_most_once=True, undo=True),))
    assert must_sync(once, Facts(), Facts(), [Record(1, "a", "intent", "intended")])
    assert not must_sync(once, Facts(), Facts(), [Record(1, "a", "do", "ok")])


def test_a_human_can_turn_a_saga_forward_again() -> None:
    """Taken back by mistake, it goes on: what failed or was undone gets new keys, what stands is kept."""
    graph = chain("a", "b")
    facts = Facts()
    write(facts, "a", "do", "ok")
    write(facts, "b", "do", "unknown")
    write(facts, "", "turn", "forward")
    assert decide(graph, facts).actions == (Do("b", round=1),)
    assert facts.returned == 0


def test_a_journal_with_a_hole_is_refused() -> None:
    """A missing record is not a saga that did less."""
    with pytest.raises(ValueError, match="jumps from record 0 to 2"):
        fold([Record(2, "a", "do", "ok")])


def test_a_graph_that_lost_a_step_is_told_as_mismatch() -> None:
    """A definition that does not fit its journal stops one saga, visibly."""
    facts = Facts()
    write(facts, "a", "do", "ok")
    graph = Graph((Node(name="a"), Node(name="b", after=("a",))))
    write(facts, "b", "do", "ok")
    facts.undone["b"] = facts.done["b"]
    assert (decide(graph, facts).stuck or "").startswith("definition_mismatch")
    assert ready(graph, facts) == []
    assert PASSED == ("ok", "skipped")
