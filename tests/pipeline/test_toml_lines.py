"""Where each value of a TOML file stands: errors and origins are only worth what their line numbers are."""

from __future__ import annotations

import contextlib
import random
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall.pipeline.toml_lines import DEEPEST, TooDeepError, lines_of

TEXT = '''# a comment with [brackets] = and "quotes"
title = "a # b"   # c
"quoted key".'literal.key'.bare = 1

[pipelines.stock]          # 5
observe = true
policies = [               # 7
    { timeout = "10s" },   # 8
    # { timeout = "3s" },
    { retry = { attempts = 4, on = ["A", "B"],
                } },
    { fallback = """x
y " ] }
""" }, { bulkhead.limit = 3 },
]

[[tables]]                 # 17
a = 1979-05-27 07:32:00    # 18
[tables.inner]
b = [[1, 2], [
  3]]                      # 21
[[tables]]                 # 22
c = \'\'\'it''s\'\'\'
d.e = 1
d.f = 2
'''


def test_every_value_has_the_line_that_an_editor_shows() -> None:
    """One of everything that TOML has."""
    lines = lines_of(TEXT.replace(",\n                } }", ",\n  budget = false } }"))
    stock = ("pipelines", "stock")
    assert lines["title",] == 2
    assert lines["quoted key", "literal.key", "bare"] == 3
    assert lines[stock] == 5
    assert lines[*stock, "policies"] == 7
    assert lines[*stock, "policies", "0", "timeout"] == 8
    assert lines[*stock, "policies", "1", "retry", "on", "1"] == 10
    assert lines[*stock, "policies", "1", "retry", "budget"] == 11
    assert lines[*stock, "policies", "2", "fallback"] == 12
    assert lines[*stock, "policies", "3", "bulkhead", "limit"] == 14
    assert lines["tables", "0", "a"] == 18
    assert lines["tables", "0", "inner", "b", "1", "0"] == 21
    assert lines["tables", "1"] == 22
    assert lines["tables", "1", "d", "f"] == 25


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of everything in a parsed document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, str(index)))


KEYS = st.sampled_from(["a", "b-1", '"c d"', "'e.f'", "9"])
STRINGS = ['"x]}#="', "'y\\'", '"""m\n# "q" ]\n"""', "'''l\n'q' }\n'''", '"\\"{"', '""', "''", '""""a""""']
SCALARS = st.sampled_from([*STRINGS, "1_000", "-0.5", "true", "inf", "1979-05-27 07:32:00Z", "07:32:00"])
GAPS = st.sampled_from(["", " ", "\n", ' # c ] } = "\n', "\t"])


def values(gap: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Values in each other, as text."""
    return st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(st.tuples(gap, inner, gap), max_size=3).map(
                lambda items: "[" + ",".join(f"{a}{v}{b}" for a, v, b in items) + "]"
            )
            | st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0]).map(
                lambda items: "{ " + ", ".join(f"{key} = {value}" for key, value in items) + " }"
            )
        ),
        max_leaves=6,
    )


@st.composite
def documents(draw: st.DrawFn) -> str:
    """TOML documents with headers, arrays of tables, dotted keys and comments."""
    parts = []
    for index in range(draw(st.integers(0, 4))):
        header = draw(st.sampled_from(["", f"[t{index}]", f"[ t{index} . sub ] # x", "[[many]]", "[[many]]\n[many.sub]"]))
        rows = draw(st.lists(st.tuples(KEYS, values(GAPS)), max_size=3, unique_by=lambda pair: pair[0]))
        parts.append("\n".join([header, *(f"r{index}.{key} = {value}" for key, value in rows)]))
    return "\n\n".join(parts)


@settings(max_examples=300, deadline=None)
@given(documents())
def test_the_paths_are_those_of_the_parser_whatever_the_text(text: str) -> None:
    """A path that is missed has no line; a path too many would be somebody else's."""
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = lines_of(text)
    assert set(lines) == set(leaves(parsed))
    rows = text.split("\n")
    assert all(1 <= line <= len(rows) for line in lines.values())
    for path, line in lines.items():
        if path[-1] in ("a", "b-1"):
            assert path[-1] in rows[line - 1]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_no_toml_ends_and_does_no_harm(seed: int) -> None:
    """Nobody should hang on a broken file, even by a wrong call."""
    rng = random.Random(seed)
    for _ in range(100):
        cut = list(TEXT)
        for _ in range(rng.randrange(1, 8)):
            cut[rng.randrange(len(cut))] = rng.choice("[]{}\"'=,.\n#\\")
        with contextlib.suppress(TooDeepError):
            assert all(line >= 1 for line in lines_of("".join(cut)).values())


@pytest.mark.parametrize(
    "deep", ["x = " + "[" * 10**5, "a." * 10**5 + "a = 1", "[" + "a." * 10**5 + "a]", "x = " + "{a=" * 10**5]
)
def test_what_stands_too_deep_is_refused_before_the_parser_sees_it(deep: str) -> None:
    """Keys of very many parts take all memory in the parser of the standard library; 200 KB of them are enough."""
    with pytest.raises(TooDeepError, match=f"at most {DEEPEST} deep") as raised:
        lines_of("a = 1\n" + deep)
    assert raised.value.line == 2
    assert len(lines_of("x = " + "[" * 31 + "]" * 31)) == 31
