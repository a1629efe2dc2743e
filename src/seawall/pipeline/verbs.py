"""The verbs that a pipeline and a policy alone share: call, try, decorate, guard a block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from seawall.core.errors import Misplaced, Rejected, WrongTwin
from seawall.pipeline.result import Result
from seawall.pipeline.run import UNMARKED

if TYPE_CHECKING:
    from seawall.pipeline.block import PermitBlock
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.wrap import Marked

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Verbs:
    """What can be done with guards. `whole` is the pipeline that does it."""

    @property
    def whole(self) -> Pipeline:
        """The pipeline that runs the calls."""
        raise TypeError(f"{type(self).__name__} runs no calls")

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function. Raises what it raises, Rejected or TimedOut; WrongTwin under a running event loop when a
        policy may have to wait, and for a function that returns an awaitable."""
        return self.whole.run_sync(function, args, kwargs, UNMARKED)  # type: ignore[no-any-return]

    async def acall(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call an async function. Raises what it raises, Rejected or TimedOut."""
        return await self.whole.run_async(function, args, kwargs, UNMARKED)  # type: ignore[no-any-return]

    def try_call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
        """As `call`, with the rejection or error as a value. Cancellation and misuse still raise."""
        refused = self.whole.refusal()
        if refused is not None:
            return Result(rejection=refused)
        try:
            return Result(self.call(function, *args, **kwargs))
        except (Misplaced, WrongTwin):
            raise
        except Rejected as rejection:
            return Result(rejection=rejection)
        except Exception as error:
            return Result(error=error)

    async def atry_call(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
        """As `acall`, with the rejection or error as a value. Cancellation and misuse still raise."""
        refused = self.whole.refusal()
        if refused is not None:
            return Result(rejection=refused)
        try:
            return Result(await self.acall(function, *args, **kwargs))
        except (Misplaced, WrongTwin):
            raise
        except Rejected as rejection:
            return Result(rejection=rejection)
        except Exception as error:
            return Result(error=error)

    def permit(self) -> PermitBlock:
        """A block for `with` and `async with`. Raises Misplaced when a policy cannot hold one, such as Retry."""
        from seawall.pipeline.block import PermitBlock

        return PermitBlock(self.whole, self.whole.policies)

    @overload
    def __call__(self, function: F, /) -> F: ...

    @overload
    def __call__(self, /, *, idempotent: bool = ..., idempotency_key: Callable[..., str] | None = ...) -> Marked: ...

    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        idempotent: bool = False,
        idempotency_key: Callable[..., str] | None = None,
    ) -> Any:
        """Decorate a function: plain, async, generator, async generator, method, static or class method.

        idempotent: its calls may be repeated. idempotency_key: from the call's arguments to the key that all attempts and
        headers carry; implies idempotent. With idempotent alone each call gets a key of its own (`sw.call_key()`).
        Raises Misplaced for classes and for functions that would stay unguarded, with advice.
        """
        from seawall.pipeline.wrap import decorate, mark

        if function is None:
            return mark(self.whole, idempotent=idempotent, key=idempotency_key)
        return decorate(self.whole, function, UNMARKED)
