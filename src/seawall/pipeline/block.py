"""A permit block: `with breaker.permit() as permit: ...`, for code that is no function. What repeats cannot hold one."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seawall.core.errors import Misplaced
from seawall.core.runtime import refuse_under_loop
from seawall.pipeline import guard_sync
from seawall.pipeline.run import Run

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline
    from seawall.pipeline.policy import Policy


class PermitBlock:
    """One use of a permit. Exceptions settle it by themselves; `settle(result)` lets the classifier see a result as well.

    Enter it once, with `with` or `async with`. Raises Rejected on entering when a policy refuses.
    """

    def __init__(self, pipeline: Pipeline, policies: Sequence[Policy]) -> None:
        for policy in policies:
            if policy.why_no_block is not None:
                raise Misplaced(f"{policy.name} cannot guard a block: {policy.why_no_block}")
        self._pipeline = pipeline
        self._policies = policies
        self._held: list[Any] = []
        self._run: Run | None = None
        self._settled = False

    def settle(self, result: Any) -> None:
        """Let the classifier see what the block got: a result, or an error it will not raise. Raises RuntimeError outside."""
        if self._run is None:
            raise RuntimeError("settle a permit inside its block")
        self._settled = True
        for held in self._held:
            if isinstance(result, BaseException):
                held.fail(result)
            else:
                held.judge(result)

    def __enter__(self) -> PermitBlock:
        if any(policy.may_wait for policy in self._policies):
            refuse_under_loop("with ... permit()", "async with ... permit()")
        run = self._begin(self._pipeline.clock.threads)
        try:
            guard_sync.take(self._policies, self._held, run)
        except BaseException as error:
            self._leave(error)
            raise
        return self

    async def __aenter__(self) -> PermitBlock:
        from seawall.pipeline import guard_async

        run = self._begin(self._pipeline.clock.tasks)
        try:
            await guard_async.take(self._policies, self._held, run)
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(error)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(error)

    def _begin(self, port: Any) -> Run:
        if self._run is not None:
            raise RuntimeError("a permit is entered once; ask for another one with permit()")
        self._run = run = Run(self._pipeline, port, _a_block)
        run.open()
        return run

    def _leave(self, error: BaseException | None) -> None:
        """Judge and give back, innermost first; a limit that cut the block raises TimedOut for the policies outside it."""
        raised = error
        while self._held:
            held = self._held.pop()
            try:
                if raised is not None:
                    held.fail(raised)
                elif not self._settled:
                    held.judge(None)
            except BaseException as replaced:
                raised = replaced
            finally:
                held.settle()
        if self._run is not None and raised is None:
            self._run.succeeded()
        elif self._run is not None and raised is not None:
            self._run.failed(raised)
        if raised is not None and raised is not error:
            raise raised


def _a_block() -> None:
    """Stands for the body of a permit block."""
