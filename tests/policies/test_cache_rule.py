"""The cache's rule at its edges, by hand. Found by mutation testing."""

from __future__ import annotations

from seawall.policies.cache import CacheRule, Entry, Found, Lead


def test_the_defaults_are_those_of_the_front_door() -> None:
    """A default that drifts changes every cache that trusted it."""
    rule = CacheRule(ttl=1)
    assert (rule.size, rule.size_bytes) == (1024, None)
    assert (rule.stale_if_error, rule.stale_while_revalidate, rule.negative_ttl) == (0.0, 0.0, 0.0)
    assert Entry("v", 1.0, 2.0) == Entry("v", 1.0, 2.0, weight=0, error=None)


def test_an_answer_of_half_a_second_is_kept_for_half_a_second() -> None:
    """Short is not never."""
    rule = CacheRule(ttl=0.5)
    state = rule.start(0.0)
    assert rule.look(state, 0.0, "k") == Lead()
    entry = Entry("v", 0.0, 0.5)
    rule.land(state, 0.0, "k", entry)
    assert rule.look(state, 0.49, "k") == Found(entry)
    assert rule.look(state, 0.5, "k") == Lead()


def test_a_restart_forgets_entries_flights_and_counts() -> None:
    """After a fork nobody here will ever land them."""
    rule = CacheRule(ttl=5)
    state = rule.start(0.0)
    rule.look(state, 0.0, "k")
    rule.land(state, 0.0, "k", Entry("v", 0.0, 5.0, weight=3))
    rule.look(state, 0.0, "k")
    rule.look(state, 0.0, "other")
    rule.restart(state)
    assert (dict(state.entries), state.flights, state.weight, state.hits, state.misses) == ({}, {}, 0, 0, 0)
    assert rule.look(state, 0.0, "other") == Lead()
