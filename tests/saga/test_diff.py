"""What a changed definition would do to sagas in flight: none may be stranded, and none may lose an effect silently."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seawall.saga.diff import changes, unsafe
from seawall.saga.plan import Graph, Node, Record, fold

A, B = Node(name="a", undo=True), Node(name="b", after=("a",), undo=True)
OLD = Graph((A, B))
DID_A = Record(1, "a", "do", "ok")
BACK = Record(2, "b", "do", "rejected")


@pytest.mark.parametrize(
    ("new", "records", "says"),
    [
        (OLD, [DID_A], None),
        (Graph((Node(name="b", undo=True),)), [DID_A], "a is in its journal"),
        (Graph((A,)), [DID_A], "b is in its journal or may have been started"),
        (Graph((Node(name="x", undo=True),)), [], "a is in its journal or may have been started"),
        (Graph((replace(A, undo=False), B)), [DID_A], "a was done, or may have been, and the new definition cannot take it back"),
        (Graph((replace(A, undo=False), B)), [DID_A, BACK], "a was done, or may have been"),
        (Graph((replace(A, undo=False), B)), [DID_A, BACK, Record(3, "a", "undo", "ok")], None),
        (Graph((replace(A, kind="sleep"), B)), [DID_A], "a was a step and is now a sleep"),
        (Graph((Node(name="z"), replace(A, after=("z",)), B)), [DID_A], "wants z before it"),
        (Graph((A, B, Node(name="c", after=("b",)))), [DID_A], None),
    ],
)
def test_who_may_go_on_by_another_graph(new: Graph, records: list[Record], says: str | None) -> None:
    """A step that took effect, or may have, must be known to the new graph with what takes it back, also on the way back."""
    found = unsafe(OLD, new, fold(records))
    assert found is None if says is None else says in (found or "")


def test_a_pivot_that_was_passed_must_stay_one() -> None:
    """Behind it there is no way back; a graph that knows of none would take back what cannot be."""
    old = Graph((Node(name="a", undo=True), Node(name="p", after=("a",), pivot=True)))
    facts = fold([Record(1, "a", "do", "ok"), Record(2, "p", "do", "ok")])
    assert "passed the pivot p" in str(unsafe(old, Graph((A, Node(name="p", after=("a",), undo=True))), facts))
    assert unsafe(old, old, facts) is None


def test_the_differences_are_told_step_by_step() -> None:
    """What people read before they deploy."""
    new = Graph((replace(A, undo=False), Node(name="c", after=("a",))))
    assert [(change.step, change.what) for change in changes(OLD, new)] == [
        ("b", "is gone"), ("a", "undo: yes -> no"), ("c", "is new, after a"),
    ]  # fmt: skip
