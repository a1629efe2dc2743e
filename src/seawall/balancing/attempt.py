"""One request of a service client on its way: whom it has tried, what each attempt says of its instance, and what of that the
service as a whole has to answer for.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Final

from seawall.balancing.balancer import Balancer
from seawall.balancing.clients.port import Request
from seawall.balancing.rules.host import Pick, Told
from seawall.core.clock import Clock
from seawall.core.outcome import Classifier, DefaultClassifier, Kind, Outcome, Verdict
from seawall.core.runtime import Mark
from seawall.policies.verdict import DUST

TOLD: Final[Mapping[Kind, Told]] = {
    Kind.SUCCESS: Told.OK,
    Kind.PERMANENT: Told.OK,
    Kind.NEVER_SENT: Told.REFUSED,
    Kind.CONNECT_TIMEOUT: Told.REFUSED,
    Kind.CONNECTION: Told.BAD,
    Kind.TIMEOUT: Told.BAD,
    Kind.OVERLOADED: Told.BAD,
    Kind.SERVER_ERROR: Told.BAD,
    Kind.ERROR: Told.BAD,
    Kind.THROTTLED: Told.BUSY,
    Kind.REJECTED: Told.VOID,
    Kind.CANCELLED: Told.CUT,
}
"""What each kind of ending says of the instance. A 4xx is an answer; an error of kind PERMANENT arose here: see `failed`."""


@dataclass(frozen=True, slots=True)
class Spared(Verdict):
    """A failure of one instance that the service's circuit does not count: others are well. Retries see it as it is."""

    @property
    def outcome(self) -> Outcome:
        """Nothing about the service."""
        return Outcome.IGNORED


class Call:
    """One request through all its attempts and copies. tried: ids of the instances they went to; latest: the newest attempt.
    until: the moment at which the caller's own deadline passes, or None."""

    __slots__ = ("headers", "idempotency_key", "key", "latest", "request", "tried", "until")

    def __init__(
        self, request: Request, headers: Mapping[str, str], key: str | None, idempotency_key: str | None, until: float | None
    ) -> None:
        self.request = request
        self.headers = headers
        self.key = key
        self.idempotency_key = idempotency_key
        self.until = until
        self.tried: list[str] = []
        self.latest: Attempt | None = None


class Attempt:
    """One attempt of a call at one instance, from its pick to its end."""

    __slots__ = ("_balancer", "_call", "_clock", "_settled", "_spared", "pick")

    def __init__(self, balancer: Balancer, call: Call, clock: Clock) -> None:
        self._balancer = balancer
        self._call = call
        self._clock = clock
        self._settled = False
        self._spared = False
        self.pick: Pick = balancer.pick(call.key, call.tried)
        call.tried.append(self.pick.host.id)
        call.latest = self
        ATTEMPT.set(self)

    @property
    def spared(self) -> bool:
        """Whether its failure is the instance's alone. A thread that nobody waits for any more has not settled it yet."""
        return self._spared if self._settled else not self._balancer.blames_service(self.pick)

    @property
    def url(self) -> str:
        """Where the instance is."""
        return self.pick.host.instance.url

    def heard(self) -> None:
        """The answer has begun."""
        self._balancer.hear(self.pick)

    def answered(self, verdict: Verdict) -> None:
        """It has its answer; verdict: what that means."""
        self._settle(TOLD[verdict.kind])

    def failed(self, error: BaseException, verdict: Verdict, *, ours: bool, pipeline: object) -> Told:
        """It ended with an error. ours: it arose on our side. pipeline: whose limits count against the instance. What it says."""
        told = TOLD[verdict.kind]
        if ours or verdict.kind is Kind.PERMANENT:
            told = Told.VOID
        elif told is Told.CUT:
            told = self._weigh(error, pipeline)
        elif verdict.kind is Kind.TIMEOUT and self._call.until is not None:
            late = self._clock.monotonic() >= self._call.until - DUST
            told = Told.CUT if late else told
        self._settle(told)
        return told

    def drop(self) -> None:
        """Whatever happened, it is over; settled before, this does nothing."""
        self._settle(Told.VOID)

    def _weigh(self, error: BaseException, pipeline: object) -> Told:
        """A limit of the pipeline that cut the attempt counts against the instance when it had at least half of it."""
        for mark in error.args:
            if isinstance(mark, Mark) and mark.owner is pipeline:
                return Told.BAD if self._clock.monotonic() - self.pick.at >= mark.limit / 2 else Told.CUT
        return Told.CUT

    def _settle(self, told: Told) -> None:
        if self._settled:
            return
        self._settled = True
        self._balancer.settle(self.pick, told)
        if told in (Told.BAD, Told.REFUSED):
            self._spared = not self._balancer.blames_service(self.pick)


ATTEMPT: Final[ContextVar[Attempt | None]] = ContextVar("seawall.balancing.attempt", default=None)
"""The newest attempt of this task or thread, for the classifier of the layers around it."""
CALL: Final[ContextVar[Call | None]] = ContextVar("seawall.balancing.call", default=None)
"""The call that runs, for layers whose inside runs on a thread of its own: they see its newest attempt."""
Scope = tuple[Token[Attempt | None], Token[Call | None]]


def enter(call: Call) -> Scope:
    """A call begins in this task or thread."""
    return ATTEMPT.set(None), CALL.set(call)


def leave(scope: Scope) -> None:
    """It is over: what runs next here is no part of it."""
    with suppress(ValueError):  # a stream that another task ends: the variables are that task's own
        ATTEMPT.reset(scope[0])
        CALL.reset(scope[1])


def marked(error: BaseException) -> bool:
    """Whether a cancellation carries the mark of a limit."""
    return any(isinstance(mark, Mark) for mark in error.args)


class ServiceClassifier:
    """The classifier of a pipeline in front of several instances: it also judges answers, and spares the service's circuit what
    is the fault of one instance while others are well.

    inner: the pipeline's own, which says what errors mean, and answers too where it judges results.
    """

    judges_results = True

    def __init__(self, inner: Classifier) -> None:
        self._inner = inner
        self._answers: Classifier = inner if inner.judges_results else DefaultClassifier(responses=True)

    def error(self, error: BaseException) -> Verdict:
        """What an error means."""
        return _spared(self._inner.error(error))

    def result(self, value: Any) -> Verdict:
        """What an answer means."""
        return _spared(self._answers.result(value))

    def plain(self, *, error: BaseException | None = None, answer: Any = None) -> Verdict:
        """What an error or an answer means for its instance."""
        return self._answers.result(answer) if error is None else self._inner.error(error)


def _spared(verdict: Verdict) -> Verdict:
    if verdict.outcome is not Outcome.FAILURE:
        return verdict
    call = CALL.get()
    attempt = ATTEMPT.get() or (None if call is None else call.latest)
    if attempt is None or not attempt.spared:
        return verdict
    return Spared(verdict.kind)  # how long that one wants to be left alone is no reason to wait for the others
