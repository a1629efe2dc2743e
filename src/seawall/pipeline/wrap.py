"""Decorating: every kind of callable gets the guard that fits it, or is refused with advice. None is silently unguarded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from seawall.core.errors import Misplaced
from seawall.core.registrars import held_by
from seawall.pipeline.run import Identity

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Marked:
    """A pipeline for calls that may be repeated: decorates and calls like the pipeline, with the mark on each call."""

    def __init__(self, pipeline: Pipeline, identity: Identity) -> None:
        self._pipeline = pipeline
        self._identity = identity

    def __call__(self, function: F, /) -> F:
        """Decorate a function whose calls are idempotent."""
        return decorate(self._pipeline, function, self._identity)  # type: ignore[no-any-return]

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain idempotent function."""
        return self._pipeline.run_sync(function, args, kwargs, self._identity)  # type: ignore[no-any-return]

    async def acall(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async idempotent function."""
        return await self._pipeline.run_async(function, args, kwargs, self._identity)  # type: ignore[no-any-return]


def mark(pipeline: Pipeline, *, idempotent: bool, key: Callable[..., str] | None) -> Marked:
    """Read the marks of a decorator. Raises TypeError for a key that is no function, or marks that say nothing."""
    if key is not None and not callable(key):
        raise TypeError(f"idempotency_key must be a function of the call's arguments; got {key!r}")
    if not isinstance(idempotent, bool):
        raise TypeError(f"idempotent must be True or False; got {idempotent!r}")
    return Marked(pipeline, Identity(idempotent or key is not None, key))


def decorate(pipeline: Pipeline, function: Any, identity: Identity) -> Any:
    """The guarded form of `function`, of the same kind. Raises Misplaced for what cannot be guarded by a decorator."""
    if isinstance(function, staticmethod):
        return staticmethod(decorate(pipeline, function.__func__, identity))
    if isinstance(function, classmethod):
        return classmethod(decorate(pipeline, function.__func__, identity))
    _refuse(function)
    pipeline.take_name(function)
    pipeline.remember(function, idempotent=identity.idempotent)
    return _wrapper(kind_of(function))(pipeline, function, identity)


def kind_of(function: Any) -> str:
    """How calls of `function` run: "sync", "async", "generator" or "async_generator"; looks through partials and objects."""
    base = function
    while isinstance(base, functools.partial):
        base = base.func
    if not inspect.isroutine(base) and not hasattr(base, "__code__"):
        base = getattr(type(base), "__call__", base)  # noqa: B004  # the method's kind is wanted, not whether there is one
    if inspect.isasyncgenfunction(base):
        return "async_generator"
    if inspect.iscoroutinefunction(base):
        return "async"
    return "generator" if inspect.isgeneratorfunction(base) else "sync"


def _refuse(function: Any) -> None:
    if isinstance(function, type):
        raise Misplaced(f"{function.__qualname__} is a class; decorate its methods, or a function that makes it")
    if not callable(function):
        raise Misplaced(f"only callables can be guarded; got {function!r}")
    registrar = held_by(function)
    if registrar is not None:
        name = getattr(function, "__qualname__", repr(function))
        raise Misplaced(f"{registrar} already holds the bare {name}, so this guard would never run; put {registrar} on top of it")
    inner = getattr(function, "__wrapped__", None)
    if inner is None or kind_of(function) != "sync":
        return
    if isinstance(function, functools._lru_cache_wrapper) and kind_of(inner) != "sync":
        raise Misplaced("a cache around an async or generator function keeps used-up results; take the cache away")
    if kind_of(inner) in ("generator", "async_generator"):
        raise Misplaced(
            "this makes a context manager or iterator out of a generator function, whose body would run unguarded; "
            "put the pipeline under that decorator, directly on the generator function"
        )


def _wrapper(kind: str) -> Callable[[Pipeline, Any, Identity], Any]:
    return {"sync": _sync, "async": _async, "generator": _generator, "async_generator": _async_generator}[kind]


def _sync(pipeline: Pipeline, function: Any, identity: Identity) -> Any:
    run = getattr(type(pipeline), "plain_sync", None)  # a pipeline of a file is asked for at each call, since files are reloaded

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if run is None:
            return pipeline.run_sync(function, args, kwargs, identity)
        return run(pipeline, function, args, kwargs, identity)

    return _compiled(pipeline, function, identity, guarded, is_async=False) or guarded


def _async(pipeline: Pipeline, function: Any, identity: Identity) -> Any:
    run = getattr(type(pipeline), "plain_async", None)

    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        if run is None:
            return await pipeline.run_async(function, args, kwargs, identity)
        return await run(pipeline, function, args, kwargs, identity)

    return _compiled(pipeline, function, identity, guarded, is_async=True) or guarded


def caller(pipeline: Pipeline, identity: Identity, *, is_async: bool) -> Any:
    """The compiled guard whose first argument is the function to call; None when nothing is compiled."""

    def plain(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return pipeline.plain_sync(function, args, kwargs, identity)

    async def aplain(function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await pipeline.plain_async(function, args, kwargs, identity)

    return _compiled(pipeline, None, identity, aplain if is_async else plain, is_async=is_async)


def _compiled(pipeline: Pipeline, function: Any, identity: Identity, plain: Any, *, is_async: bool) -> Any:
    from seawall.pipeline import compiler

    if not compiler.enabled() or not hasattr(type(pipeline), "plain_sync"):
        return None
    return compiler.compiled(pipeline, function, identity, is_async=is_async, plain=plain)


def _generator(pipeline: Pipeline, function: Any, identity: Identity) -> Any:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return (yield from pipeline.run_stream(function, args, kwargs, identity))

    return guarded


def _async_generator(pipeline: Pipeline, function: Any, identity: Identity) -> Any:
    @functools.wraps(function)
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        source = pipeline.run_async_stream(function, args, kwargs, identity)
        try:
            item = await anext(source, _END)
            while item is not _END:
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:
                    item = await _or_end(source.athrow(error))
                else:
                    item = await _or_end(source.asend(sent))
        finally:
            await source.aclose()

    return guarded


_END: Any = object()


async def _or_end(step: Awaitable[Any]) -> Any:
    try:
        return await step
    except StopAsyncIteration:
        return _END
