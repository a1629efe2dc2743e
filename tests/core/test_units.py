"""What people write is read exactly, and what cannot be meant is refused by name, range and value."""

from __future__ import annotations

import math

import pytest

from seawall.core import units
from seawall.core.units import Limit


@pytest.mark.parametrize(
    ("text", "length"), [("250ms", 0.25), ("1.5s", 1.5), (".5 min", 30.0), ("1h", 3600.0), ("2 days", 172800.0), (3, 3.0)]
)
def test_durations_are_read_when_written_as_text_or_number(text: object, length: float) -> None:
    """A config file and code must mean the same length."""
    assert units.seconds("wait", text) == pytest.approx(length)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "0s", "5 parsecs", "-1s", "", "1"])
def test_a_duration_names_parameter_range_and_value_when_out_of_range(value: object) -> None:
    """A bad number must fail where it is written, not at three in the morning."""
    with pytest.raises(ValueError, match=r"wait must be a positive, finite duration") as caught:
        units.seconds("wait", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [None, True, [1], object()])
def test_a_duration_of_a_wrong_type_is_a_type_error(value: object) -> None:
    """True is not one second."""
    with pytest.raises(TypeError, match="wait"):
        units.seconds("wait", value)


def test_zero_infinity_and_lower_bounds_are_allowed_only_when_asked_for() -> None:
    """Each rule says which edges it can work with."""
    assert units.seconds("wait", 0, zero=True) == 0
    assert units.seconds("wait", math.inf, infinite=True) == math.inf
    with pytest.raises(ValueError, match="at least 2 seconds"):
        units.seconds("wait", 1, above=2)


@pytest.mark.parametrize(("value", "error"), [(1.0, TypeError), (True, TypeError), (0, ValueError), (11, ValueError)])
def test_whole_numbers_are_checked_when_given(value: object, error: type[Exception]) -> None:
    """Half an attempt does not exist."""
    with pytest.raises(error, match=r"limit must be .*\[1, 10\]"):
        units.whole("limit", value, most=10)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.01, ValueError), (math.nan, ValueError), ("x", TypeError)])
def test_ratios_are_checked_when_given(value: object, error: type[Exception]) -> None:
    """A ratio of 50 was meant as 0.5."""
    with pytest.raises(error, match=r"share must be .*\(0, 1\]"):
        units.ratio("share", value)
    assert units.ratio("share", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        units.ratio("share", -0.1, zero=True)


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (math.inf, ValueError), (math.nan, ValueError), (None, TypeError)]
)
def test_plain_numbers_are_checked_when_given(value: object, error: type[Exception]) -> None:
    """Not a number is not a floor."""
    with pytest.raises(error, match="floor"):
        units.number("floor", value)


def test_words_are_listed_when_one_is_unknown() -> None:
    """The error tells what could have been meant."""
    with pytest.raises(ValueError, match="'fifo', 'lifo'; got 'random'"):
        units.one_of("order", "random", ("fifo", "lifo"))
    with pytest.raises(TypeError, match="order"):
        units.one_of("order", 1, ("fifo", "lifo"))


@pytest.mark.parametrize(
    ("spec", "limit"),
    [
        ("100/s burst 20", Limit(100, 1.0, 20)),
        ("5/10s", Limit(5, 10.0, 5)),
        ("100/min", Limit(100, 60.0, 100)),
        (Limit(3), Limit(3, 1.0, 3)),
    ],
)
def test_limits_are_read_when_written_as_people_say_them(spec: object, limit: Limit) -> None:
    """The burst is the capacity, and the count when absent."""
    assert Limit.parse(spec) == limit
    assert Limit.parse(str(limit)) == limit
    assert limit.capacity == limit.burst


@pytest.mark.parametrize("spec", ["100", "100/parsec", "x/s", "1/s burst", "-1/s"])
def test_an_unreadable_limit_shows_how_to_write_one(spec: str) -> None:
    """The error carries an example."""
    with pytest.raises(ValueError, match="100/s"):
        Limit.parse(spec)
    with pytest.raises(TypeError, match="100/s"):
        Limit.parse(100)
    with pytest.raises(ValueError, match="count"):
        Limit(0)
