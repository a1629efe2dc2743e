"""Values to text and back, led by types; and what cannot make the way."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest

from seawall.saga.codec import Codec, readable
from seawall.saga.errors import NotSerialisable, PayloadTooLarge

pydantic = pytest.importorskip("pydantic", reason="models of pydantic are optional")
msgspec = pytest.importorskip("msgspec", reason="models of msgspec are optional")
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Item:
    sku: str
    price: decimal.Decimal
    tags: set[str] = field(default_factory=set)
    at: datetime.datetime | None = None


@dataclass(frozen=True)
class Box(Generic[T]):
    items: tuple[Item, ...]
    by_id: dict[int, Item]
    what: Any = None


class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
    n: int
    when: datetime.date


class Struct(msgspec.Struct):  # type: ignore[misc, name-defined]
    n: int
    raw: bytes = b""


MOMENT = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC)
ITEM = Item("a", decimal.Decimal("1.10"), {"x", "y"}, MOMENT)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (5, int),
        (5, float),
        (None, None),
        ("x", str),
        ([1, "a"], Any),
        (ITEM, Item),
        (Box((ITEM,), {7: ITEM}), Box[int]),
        (Model(n=1, when=datetime.date(2026, 1, 2)), Model),
        (Struct(3, b"\x00\xff"), Struct),
        ([Model(n=1, when=datetime.date(2026, 1, 2))], list[Model]),
        ({"a": Struct(3)}, dict[str, Struct]),
        (Colour.RED, Colour),
        (uuid.UUID(int=7), uuid.UUID),
        (b"\x00", bytes),
        ((1, "a"), tuple[int, str]),
        (frozenset({1, 2}), frozenset[int]),
        (datetime.time(1, 2), datetime.time),
        ("on", Literal["on", "off"]),
        (4, Annotated[int, "even"]),
        (MOMENT, datetime.datetime | None),
        (None, datetime.datetime | None),
        (ITEM, Item | None),
        (7, int | str),
        ("7", int | str),
    ],
)
def test_what_goes_in_comes_out_as_what_its_type_says(value: Any, wanted: Any) -> None:
    """After a restart a step's result must be the same thing that it was before."""
    assert readable(wanted) is None
    codec = Codec()
    found = codec.read(codec.write(value, "it"), wanted, "it")
    assert found == value
    assert type(found) is type(value) or wanted is float


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('"x"', int),
        ("true", int),
        ("1.5", int),
        ("5", str),
        ('{"sku": "a"}', Item),
        ('{"sku": "a", "price": "1", "extra": 1}', Item),
        ('{"sku": "a", "price": "one"}', Item),
        ('{"n": "x", "when": "2026-01-01"}', Model),
        ('{"n": "x"}', Struct),
        ('"blue"', Colour),
        ('"x"', datetime.datetime),
        ("[1]", tuple[int, str]),
        ('"no"', Literal["on"]),
        ("{", int),
        ("[1]", dict),
    ],
)
def test_what_does_not_fit_is_told_with_the_name_of_the_type(text: str, wanted: Any) -> None:
    """A changed type meets old journals; a wrong value must stop there, not three steps later."""
    with pytest.raises(NotSerialisable, match="it was written as something that is no"):
        Codec().read(text, wanted, "it")


def test_what_json_cannot_say_is_refused_before_it_is_written() -> None:
    """Neither silently changed nor half-written."""
    codec = Codec(largest=100)
    circle: list[Any] = []
    circle.append(circle)
    for bad in (object(), float("nan"), circle, {1, "a"}):
        with pytest.raises(NotSerialisable, match="it cannot be written as JSON"):
            codec.write(bad, "it")
    with pytest.raises(PayloadTooLarge, match="has 102 bytes, the limit is 100"):
        codec.write("e" * 100, "it")
    with pytest.raises(ValueError, match="largest must be a whole number of bytes >= 64"):
        Codec(largest=3)


@pytest.mark.parametrize("wanted", [object, complex, type, list[complex], Item | complex])
def test_types_that_could_not_be_read_back_are_known_before_anything_runs(wanted: Any) -> None:
    """The definition is refused, not the first order of the day."""
    assert (readable(wanted) is None) == (wanted is object)


def test_a_fingerprint_is_of_the_value_not_of_its_order() -> None:
    """The same input from another process must be the same input."""
    codec = Codec()
    assert codec.fingerprint({"a": 1, "b": 2}, "it") == codec.fingerprint({"b": 2, "a": 1}, "it")
    assert codec.fingerprint({"a": 1}, "it") != codec.fingerprint({"a": 2}, "it")
