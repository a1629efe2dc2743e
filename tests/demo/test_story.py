"""The story is pure: its scenes, its customers and everybody's patience follow from the length and the seed alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.demo.story import BACK, BROKEN, CALM_RATE, DEADLINE, PAYMENT_RATE, Story

LENGTHS = st.floats(4, 600)


@given(LENGTHS)
def test_scenes_follow_each_other_without_gaps_to_the_end(seconds: float) -> None:
    """A gap would be a moment in which nobody knows what is wrong."""
    scenes = Story.of(seconds).scenes
    assert scenes[0].begins == 0
    assert all(scene.ends == following.begins for scene, following in pairwise(scenes))
    assert all(scene.begins < scene.ends for scene in scenes)
    assert scenes[-1].ends == pytest.approx(seconds)


@given(LENGTHS)
def test_the_five_phases_come_in_order(seconds: float) -> None:
    """The comparison names them, and the JSON has a row for each."""
    phases = Story.of(seconds).phases
    assert [phase.name for phase in phases] == ["calm", *BROKEN, BACK, "traffic x3"]
    assert sum(phase.length for phase in phases) == pytest.approx(seconds)


def test_only_broken_phases_have_faults() -> None:
    """Recovery is measured from the moment at which nothing is wrong any more."""
    for scene in Story.of(40).scenes:
        faulty = scene.slowdown != 1 or scene.faults != Story.of(40).scenes[0].faults
        assert faulty == (scene.phase in BROKEN)


def test_calm_fits_payment_and_the_rush_does_not() -> None:
    """The shop must be well by itself, and the last phase must be real overload."""
    rates = {scene.phase: scene.rate for scene in Story.of(40).scenes}
    assert rates["calm"] < PAYMENT_RATE < rates["traffic x3"] == 3 * CALM_RATE


@given(st.floats(8, 600), st.integers(0, 2**31))
def test_customers_are_the_same_for_one_seed(seconds: float, seed: int) -> None:
    """Both tellings must meet the same customers, or the comparison is luck."""
    arrivals = Story.of(min(seconds, 20)).arrivals(seed)
    assert arrivals == Story.of(min(seconds, 20)).arrivals(seed)
    assert arrivals != Story.of(min(seconds, 20)).arrivals(seed + 1)
    assert arrivals == sorted(arrivals)


def test_customers_come_at_the_rate_of_the_scene() -> None:
    """An open loop offers what it promises, however the shop does."""
    story = Story.of(600)
    arrivals = story.arrivals(1)
    for scene in story.scenes:
        came = sum(scene.begins <= at < scene.ends for at in arrivals)
        assert came == pytest.approx(scene.rate * (scene.ends - scene.begins), rel=0.1)


@given(LENGTHS)
def test_the_bare_client_waits_longer_than_the_customer(seconds: float) -> None:
    """A bare client that gave up first would be a guard, and the comparison unfair to what teams really write."""
    story = Story.of(seconds)
    assert DEADLINE < 2 <= story.patience <= 10
    assert story.open_for < story.phase(BACK).length / 2


def test_any_moment_has_a_phase() -> None:
    """The view asks after the last scene too."""
    story = Story.of(10)
    assert [story.phase_at(moment).name for moment in (0, 9.99, 10, 99)] == ["calm", *["traffic x3"] * 3]
    with pytest.raises(LookupError, match="lunch"):
        story.phase("lunch")
