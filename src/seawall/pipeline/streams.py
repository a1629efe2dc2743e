"""A guarded stream while it runs: the guarded call is its first item, its permits are held to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Final

from seawall.pipeline.run import Run

if TYPE_CHECKING:
    from seawall.pipeline.held import Held


class _End:
    """The item after the last one."""


END: Final = _End()


class SyncStream(Run):
    """A call of a generator function. The guarded call is its first item; permits are held to its end.

    returned: what the generator returned, once it has ended.
    """

    __slots__ = ("returned",)
    streaming = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.returned: Any = None

    def finish(self, source: Generator[Any, Any, Any]) -> Any:
        """Keep the fresh generator and make its first item."""
        self.source = source
        return self.step(None)

    def answer(self, value: Any) -> Any:
        """Go on with the items of a fallback's iterable."""
        self.source = _as_generator(value)
        return self.step(None)

    def step(self, sent: Any) -> Any:
        """The next item, or END."""
        try:
            return self.source.send(sent)
        except StopIteration as stop:
            self.returned = stop.value
            return END

    def throw(self, error: BaseException) -> Any:
        """Raise the consumer's error at the generator's yield; the item it answers with, or END."""
        try:
            return self.source.throw(error)
        except StopIteration as stop:
            self.returned = stop.value
            return END

    def stop(self) -> None:
        """Close the generator, when it was opened."""
        if self.source is not None:
            self.source.close()

    def settle(self, held: Held) -> None:
        """Permits that opened the stream are held until it ends."""
        _hold(self, held)


class AsyncStream(Run):
    """A call of an async generator function. The guarded call is its first item; permits are held to its end."""

    __slots__ = ()
    streaming = True

    async def finish(self, source: AsyncGenerator[Any, Any]) -> Any:
        """Keep the fresh generator and make its first item."""
        self.source = source
        return await self.step(None)

    async def answer(self, value: Any) -> Any:
        """Go on with the items of a fallback's iterable, async or not."""
        self.source = _as_async_generator(value)
        return await self.step(None)

    async def step(self, sent: Any) -> Any:
        """The next item, or END."""
        try:
            return await self.source.asend(sent)
        except StopAsyncIteration:
            return END

    async def throw(self, error: BaseException) -> Any:
        """Raise the consumer's error at the generator's yield; the item it answers with, or END."""
        try:
            return await self.source.athrow(error)
        except StopAsyncIteration:
            return END

    async def stop(self) -> None:
        """Close the generator, when it was opened."""
        if self.source is not None:
            await self.source.aclose()

    def settle(self, held: Held) -> None:
        """Permits that opened the stream are held until it ends."""
        _hold(self, held)


def _hold(run: Run, held: Held) -> None:
    if held.succeeded:
        run.held.append(held)
    else:
        held.release()


def _as_generator(items: Any) -> Generator[Any, Any, Any]:
    yield from items


async def _as_async_generator(items: Any) -> AsyncGenerator[Any, Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
