"""One check: a function of the user's with a name, run with a time limit, sync ones in a thread of their own.

No more than one run of a check is under way at a time: a thread that hangs is waited for, not joined by a second one.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

from seawall.health.standing import CheckRule, Finding, Standing, Status

if TYPE_CHECKING:
    from seawall.core.clock import Clock

Group = Literal["live", "ready", "startup"]
_SECRETS: Final = (
    (re.compile(r"(?<=//)[^/@\s]*@"), "***@"),
    (
        re.compile(r"(?i)\b(password|passwd|pwd|secret|token|api_?key|authorization)(\s*[=:]\s*)(?:bearer\s+)?[^\s,;&'\"]+"),
        r"\1\2***",
    ),
)


class Check:
    """What Health keeps of one registered function.

    name: unique in its group. critical: whether its failure takes the instance out, or only degrades it to "warn".
    kind: the componentType of application/health+json ("datastore", "component", "system"), or None.
    """

    def __init__(self, name: str, function: Callable[[], Any], rule: CheckRule, *, group: Group, critical: bool) -> None:
        self.name = name
        self.function = function
        self.rule = rule
        self.group = group
        self.critical = critical
        self.kind: str | None = getattr(function, "kind", None)
        self.standing = Standing()
        self.passed_once = False
        self.wall: float | None = None  # time of day of the last result
        self._thread: threading.Thread | None = None

    @property
    def over(self) -> bool:
        """Whether nobody needs to look any more: a start happens once."""
        return self.group == "startup" and self.passed_once

    async def run(self, clock: Clock) -> Finding:
        """Run the function once; whatever it does within the time limit becomes a finding."""
        timer = clock.tasks.timer(self.rule.timeout)
        mark = timer.arm()
        try:
            return read(await self._call(clock))
        except BaseException as error:
            if timer.fired(mark, error):
                return Finding(Status.FAIL, f"no answer within {self.rule.timeout:g} s")
            if not isinstance(error, Exception):
                raise
            return Finding(Status.FAIL, told(error))
        finally:
            timer.disarm(mark)

    async def _call(self, clock: Clock) -> Any:
        if is_async(self.function):
            return await self.function()
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("the run before this one still hangs in its thread")
        done = clock.tasks.event()
        answers: list[Any] = []
        errors: list[BaseException] = []
        job = clock.job()

        def work() -> None:
            with job:  # to the end of telling, so that a virtual clock does not jump while the answer is on its way
                try:
                    answers.append(self.function())
                except BaseException as error:  # handed to the task that waits
                    errors.append(error)
                if not _set(done):
                    errors.clear()

        self._thread = threading.Thread(target=work, name=f"seawall-health-{self.name}", daemon=True)
        self._thread.start()
        await done.wait()
        if errors:
            raise errors[0]
        if inspect.isawaitable(answers[0]):
            close = getattr(answers[0], "close", None)
            if close is not None:
                close()
            raise TypeError(f"the check {self.name!r} is a plain function that returned an awaitable; make it `async def`")
        return answers[0]


def _set(done: Any) -> bool:
    try:
        done.set()
    except RuntimeError:  # the loop that waited was closed meanwhile: nobody is left to tell
        return False
    return True


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def read(answer: object) -> Finding:
    """What a check returned, as a finding: None and True pass, False fails, a Status or a Finding says it itself.

    Raises TypeError for anything else: a check that returns rows, or a response, did not say how it is.
    """
    if isinstance(answer, Finding):
        return answer
    if answer is None or answer is True:
        return Finding(Status.PASS)
    if answer is False:
        return Finding(Status.FAIL, "the check returned False")
    if isinstance(answer, Status):
        return Finding(answer)
    raise TypeError(f"a check returns None, True, False, a Status or a Finding; got {type(answer).__name__}")


def told(error: BaseException) -> str:
    """An error for people: its type and text, with what looks like a secret left out."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
