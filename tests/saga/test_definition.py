"""What is refused when a saga class is defined, each with a message that names the step and the rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import seawall as sw
from seawall.saga import Context, DefinitionError, Saga, Unknown, sleep, step, subsaga, wait_signal


def no_name() -> None:
    class Bad(Saga[None, None]):
        @step(undo="none")
        async def a(self, ctx: Context, _: None) -> None: ...


def bad_version() -> None:
    class Bad(Saga[None, None]):
        name, version = "bad", 0

        @step(undo="none")
        async def a(self, ctx: Context, _: None) -> None: ...


def unknown_above() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(undo="none", after="nothing")
        async def a(self, ctx: Context, _: None) -> None: ...


def circle() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(undo="none", after="b")
        async def a(self, ctx: Context, _: None) -> None: ...

        @step(undo="none", after="a")
        async def b(self, ctx: Context, _: None) -> None: ...


def two_pivots() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(pivot=True)
        async def a(self, ctx: Context, _: None) -> None: ...

        @step(pivot=True, after=a)
        async def b(self, ctx: Context, _: None) -> None: ...


def weak_after_pivot() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(pivot=True)
        async def a(self, ctx: Context, _: None) -> None: ...

        @step(after=a, undo="none")
        async def b(self, ctx: Context, _: None) -> None: ...


def beside_the_pivot() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(pivot=True)
        async def a(self, ctx: Context, _: None) -> None: ...

        @step(undo="none")
        async def b(self, ctx: Context, _: None) -> None: ...

        async def output(self, ctx: Context, _: None) -> None: ...


def late_signal() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(pivot=True)
        async def a(self, ctx: Context, _: None) -> None: ...

        word = wait_signal("go", timeout=5, after=a)


def no_undo() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step()
        async def a(self, ctx: Context, _: None) -> None: ...


def undo_and_none() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(undo="none")
        async def a(self, ctx: Context, _: None) -> None: ...

        @a.undo
        async def b(self, ctx: Context, _: None, done: Unknown | None) -> None: ...


def two_undos() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step()
        async def a(self, ctx: Context, _: None) -> None: ...

        @a.undo
        async def b(self, ctx: Context, _: None, done: Unknown | None) -> None: ...

        @a.undo
        async def c(self, ctx: Context, _: None, done: Unknown | None) -> None: ...


def undo_that_knows_all() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step()
        async def a(self, ctx: Context, _: None) -> int:
            return 1

        @a.undo
        async def b(self, ctx: Context, _: None, done: int) -> None: ...


def wrong_input() -> None:
    class Bad(Saga[str, None]):
        name = "bad"

        @step(undo="none")
        async def a(self, ctx: Context, text: int) -> None: ...


def unreadable_result() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(undo="none")
        async def a(self, ctx: Context, _: None) -> complex:
            return 1j


def few_arguments() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(undo="none")
        async def a(self, ctx: Context) -> None: ...


def two_lasts() -> None:
    class Bad(Saga[None, int]):
        name = "bad"

        @step(undo="none")
        async def a(self, ctx: Context, _: None) -> int:
            return 1

        @step(undo="none")
        async def b(self, ctx: Context, _: None) -> int:
            return 2


def async_tx() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(tx=True)
        async def a(self, ctx: Context, _: None) -> None: ...


def retriable_with_rejects() -> None:
    class Bad(Saga[None, None]):
        name = "bad"

        @step(pivot=True)
        async def a(self, ctx: Context, _: None) -> None: ...

        @step(after=a, retriable=True, rejects=ValueError)
        async def b(self, ctx: Context, _: None) -> None: ...


def inner_with_pivot() -> None:
    class Inner(Saga[None, None]):
        name = "inner"

        @step(pivot=True)
        async def a(self, ctx: Context, _: None) -> None: ...

    class Bad(Saga[None, None]):
        name = "bad"
        inner = subsaga(Inner, lambda self, ctx, _: None)


@pytest.mark.parametrize(
    ("define", "says"),
    [
        (no_name, "needs a name of 1 to 100 characters"),
        (bad_version, "bad: version must be a whole number >= 1; got 0"),
        (unknown_above, "step 'a' comes after 'nothing', which is no step of this saga"),
        (circle, "the steps a, b wait for each other in a circle"),
        (two_pivots, "a and b are both the pivot"),
        (weak_after_pivot, "step 'b' comes after the pivot 'a', from where there is no way back: make it retriable=True"),
        (beside_the_pivot, "step 'b' runs beside the pivot 'a'"),
        (late_signal, "signal 'word' comes after the pivot 'a', so it cannot time out"),
        (no_undo, "step 'a' cannot be taken back: give it an undo with @a.undo"),
        (undo_and_none, "step 'a' says undo=\"none\" and has an undo"),
        (two_undos, "step 'a' has two undos"),
        (undo_that_knows_all, "its undo takes done: int; nobody may know the result, so write int | Unknown"),
        (wrong_input, "step 'a'"),
        (unreadable_result, "step 'a' returns what cannot be read back from the journal: complex"),
        (few_arguments, "step 'a'"),
        (two_lasts, "a and b are all last steps, so it is not clear which result the saga has: write output"),
        (async_tx, "step 'a' is tx=True: it must be a plain `def`"),
        (retriable_with_rejects, "step 'b'"),
        (inner_with_pivot, "step 'inner' is the saga inner, which has a pivot"),
    ],
)
def test_a_saga_that_cannot_work_is_refused_where_it_is_written(define: Callable[[], None], says: str) -> None:
    """A mistake in a definition must show at import, in words, and not in the first saga that goes back."""
    with pytest.raises(DefinitionError) as told:
        define()
    assert says in str(told.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: step(rejects=5),
        lambda: step(undo="never"),
        lambda: step(timeout=-1),
        lambda: step(on_lock="push"),
        lambda: step(alert_after=0),
        lambda: sleep(-1),
        lambda: wait_signal("x", timeout="soon"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], Any]) -> None:
    """Each names its parameter and the value."""
    with pytest.raises((ValueError, TypeError), match="; got "):
        make()


def test_two_definitions_with_one_graph_have_one_hash_and_any_change_another() -> None:
    """The hash is what lets a new process take over from an old one."""

    def made(**options: Any) -> str:
        class Some(Saga[None, None]):
            name = "some"

            @step(undo="none")
            async def a(self, ctx: Context, _: None) -> None: ...

            @step(after=a, undo="none", **options)
            async def b(self, ctx: Context, _: None) -> None: ...

        return Some.definition.hash

    assert made() == made(timeout=5, retry=sw.Retry(3))
    assert len({made(), made(savepoint=True), made(at_most_once=True)}) == 3
