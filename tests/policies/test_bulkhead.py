"""The bulkhead's rule, driven by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from seawall.core.outcome import Outcome
from seawall.policies.bulkhead import BulkheadRule, Seat
from seawall.policies.verdict import Note, Rejection, Ticket, Wake

FOREVER = math.inf
DONE = Outcome.SUCCESS


def test_seats_are_given_until_all_are_taken() -> None:
    """BH1: never more than the limit."""
    rule = BulkheadRule(limit=2)
    state = rule.start(0)
    first, second = rule.admit(state, 0, FOREVER), rule.admit(state, 0, FOREVER)
    assert isinstance(first, Seat)
    assert isinstance(second, Seat)
    assert isinstance(rule.admit(state, 0, FOREVER), Rejection)
    rule.settle(state, 0, first, DONE)
    assert rule.admit(state, 0, FOREVER) is first


@pytest.mark.parametrize(("order", "served"), [("fifo", [0, 1, 2]), ("lifo", [2, 1, 0])])
def test_waiters_are_served_in_order(order: Any, served: list[int]) -> None:
    """First come first served, or the newest first for those who asked for it."""
    rule = BulkheadRule(limit=1, queue=3, order=order)
    state = rule.start(0)
    seat = rule.admit(state, 0, FOREVER)
    tickets = [rule.admit(state, 0, FOREVER) for _ in range(3)]
    assert isinstance(rule.admit(state, 0, FOREVER), Rejection)
    got = []
    for _ in tickets:
        (wake,) = rule.settle(state, 0, seat, DONE)  # type: ignore[arg-type]
        assert isinstance(wake, Wake)
        got.append(tickets.index(wake.ticket))
        seat = rule.poll(state, 0, wake.ticket)  # type: ignore[assignment]
    assert got == served
    assert state.waiting == 0


def test_newcomers_queue_behind_waiters_even_when_a_seat_is_free() -> None:
    """No barging: arrival order holds."""
    rule = BulkheadRule(limit=1, queue=5)
    state = rule.start(0)
    seat = rule.admit(state, 0, FOREVER)
    waiting = rule.admit(state, 0, FOREVER)
    assert isinstance(seat, Seat)
    assert isinstance(waiting, Ticket)
    state.free.append(seat)  # what a fast path does: the seat is back, and nobody has looked at the queue yet
    newcomer = rule.admit(state, 0, FOREVER)
    assert isinstance(newcomer, Ticket)
    assert newcomer.events == (Wake(waiting),)
    assert waiting.permit is seat


def test_a_waiter_whose_time_is_over_is_refused_and_forgotten() -> None:
    """Nobody waits for ever in a queue."""
    rule = BulkheadRule(limit=1, queue=1)
    state = rule.start(0)
    rule.admit(state, 0, FOREVER)
    ticket = rule.admit(state, 0, 2.0)
    assert isinstance(ticket, Ticket)
    assert rule.poll(state, 0.5, ticket) == 1.5
    assert isinstance(rule.poll(state, 2.0, ticket), Rejection)
    assert state.waiting == 0
    assert isinstance(rule.admit(state, 2.0, 2.0), Rejection)


def test_a_seat_granted_to_somebody_who_leaves_passes_on() -> None:
    """A task cancelled after its grant must not take the seat with it."""
    rule = BulkheadRule(limit=1, queue=2)
    state = rule.start(0)
    seat = rule.admit(state, 0, FOREVER)
    first, second = rule.admit(state, 0, FOREVER), rule.admit(state, 0, FOREVER)
    assert isinstance(first, Ticket)
    assert isinstance(second, Ticket)
    rule.settle(state, 0, seat, DONE)  # type: ignore[arg-type]
    assert rule.leave(state, 0, first) == (Wake(second),)
    assert first.permit is None
    rule.leave(state, 0, second)
    assert len(state.free) == 1
    rule.leave(state, 0, second)
    assert len(state.free) == 1


def test_a_lower_limit_takes_effect_as_seats_come_back() -> None:
    """Shrinking under load cancels nobody, and grows back without inventing seats."""
    rule = BulkheadRule(limit=3, queue=5)
    state = rule.start(0)
    seats = [rule.admit(state, 0, FOREVER) for _ in range(3)]
    waiting = rule.admit(state, 0, FOREVER)
    assert rule.resize(state, 0, 1) == (Note("bulkhead.resized", {"limit": 1}),)
    assert state.taken == 3
    for seat in seats[:2]:
        assert rule.settle(state, 0, seat, DONE) == ()  # type: ignore[arg-type]
    assert rule.settle(state, 0, seats[2], DONE) == (Wake(waiting),)  # type: ignore[arg-type]
    assert state.taken == 1
    rule.resize(state, 0, 3)
    assert len(state.free) == 2
    lower = rule.resize(state, 0, 1)
    assert lower
    assert (len(state.free), state.taken) == (0, 1)
    rule.resize(state, 0, 2)
    rule.resize(state, 0, 1)
    assert (len(state.free), state.taken, len(state.queue)) == (0, 1, 0)
    with pytest.raises(ValueError, match="limit"):
        rule.resize(state, 0, 0)


def test_a_queue_that_grew_a_retiree_grows_back_by_taking_it_out() -> None:
    """Lowering and raising while all seats are held must end where it began."""
    rule = BulkheadRule(limit=2)
    state = rule.start(0)
    seats = [rule.admit(state, 0, FOREVER) for _ in range(2)]
    rule.resize(state, 0, 1)
    assert len(state.queue) == 1
    rule.resize(state, 0, 2)
    assert len(state.queue) == 0
    for seat in seats:
        rule.settle(state, 0, seat, DONE)  # type: ignore[arg-type]
    assert len(state.free) == 2


def test_seats_of_an_earlier_epoch_are_void() -> None:
    """After a fork, what the parent's threads held does not exist here."""
    rule = BulkheadRule(limit=2, queue=1)
    state = rule.start(0)
    free, old = state.free, rule.admit(state, 0, FOREVER)
    rule.restart(state)
    rule.settle(state, 0, old, DONE)  # type: ignore[arg-type]
    assert len(state.free) == 2
    assert state.free is free
    waiting = [rule.admit(state, 0, FOREVER) for _ in range(3)][2]
    assert isinstance(waiting, Ticket)
    rule.restart(state)
    assert (state.epoch, state.waiting) == (2, 0)
    assert isinstance(rule.poll(state, 0, waiting), Rejection)


@pytest.mark.parametrize("bad", [{"limit": 0}, {"limit": 1.5}, {"queue": -1}, {"wait": -1}, {"wait": math.nan}, {"order": "x"}])
def test_a_bulkhead_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        BulkheadRule(**{"limit": 1, **bad})


def test_a_refused_waiter_is_told_how_long_it_waited_and_stands_nowhere() -> None:
    """Whenever it came; and who leaves takes no place in the queue with it."""
    rule = BulkheadRule(limit=1, queue=2)
    state = rule.start(0.0)
    rule.admit(state, 5.0, 9.0)
    first, second = rule.admit(state, 5.0, 7.5), rule.admit(state, 5.0, 9.0)
    assert isinstance(first, Ticket)
    assert isinstance(second, Ticket)
    assert rule.poll(state, 7.0, first) == 0.5
    assert rule.poll(state, 7.5, first) == Rejection("had no seat free within 2.5 s")
    assert state.waiting == 1
    rule.leave(state, 8.0, second)
    assert state.waiting == 0
    assert rule.poll(state, 8.0, second) == Rejection("began anew while the call waited")


def test_seats_above_a_lowered_limit_count_as_taken_until_they_come_back() -> None:
    """A dashboard that shows one of three would hide two calls."""
    rule = BulkheadRule(limit=3, queue=2)
    state = rule.start(0.0)
    seats = [rule.admit(state, 0.0, 1.0) for _ in range(3)]
    rule.resize(state, 0.0, 1)
    assert (state.taken, state.waiting, state.limit) == (3, 0, 1)
    rule.admit(state, 0.0, 9.0)
    assert (state.taken, state.waiting) == (3, 1)
    for left in (2, 1):
        rule.settle(state, 0.0, seats.pop(), Outcome.SUCCESS)  # type: ignore[arg-type]
        assert (state.taken, state.waiting) == (left, 1)
