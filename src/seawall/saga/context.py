"""What a step is told about itself, and what an undo is told when nobody knows whether its step happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from seawall.core.wire import FENCE, IDEMPOTENCY_KEY, ISSUED, UNDO
from seawall.saga.errors import SagaError
from seawall.saga.lease import Fence

if TYPE_CHECKING:
    from seawall.saga.definition import Step
    from seawall.saga.port import StepTx

R = TypeVar("R")


class Unknown:
    """Stands for a result that nobody knows: the step may or may not have taken effect. Its undo must stand both."""

    __slots__ = ("reason",)

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Unknown({self.reason!r})"

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """A probe's answer: the step took effect, with this result."""

    result: R


class NotDone:
    """A probe's answer: the step took no effect, and no attempt under way can still cause it."""

    __slots__ = ()


NOT_DONE: Final = NotDone()


@dataclass(slots=True)
class Context:
    """What a step, undo or probe can know.

    id: the saga's id as the user gave it. saga_id: its own id in the journal. name, step: of the saga and the step.
    key: the idempotency key of this step, the same for every attempt in every process; an undo has one of its own, and the key of
    what it takes back in `undoes` (else None). fence: grows with each owner of the saga; give it to participants that can
    compare.
    attempt: from 1, in this process. doubtful: whether an earlier attempt may have started before this process began.
    issued: the moment at which this attempt's worker set out, in seconds since 1970; None where nobody said.
    headers: all of that for a request to a participant that has a `Participant` at its door.
    tx: in a `tx=True` step the journal's own connection, for rows that commit together with the step; else raises.
    """

    id: str
    saga_id: str
    name: str
    step: str
    key: str
    fence: Fence
    attempt: int = 1
    doubtful: bool = False
    undoes: str | None = None
    results: Callable[[str], Any] | None = None
    transaction: StepTx | None = None
    issued: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request that this step, or its undo, makes: the step's key, fence, moment, and the undo marker."""
        headers = {IDEMPOTENCY_KEY: self.undoes or self.key, FENCE: f"{self.fence.timeline}.{self.fence.epoch}"}
        if self.issued is not None:
            headers[ISSUED] = f"{self.issued:.3f}"
        if self.undoes is not None:
            headers[UNDO] = "1"
        return headers

    def result(self, step: Step[R]) -> R:
        """What an earlier step returned. Raises SagaError when it has not passed: name it in `after`."""
        if self.results is None:
            raise SagaError(f"{self.name}.{self.step} runs outside a saga, so {step.name} has no result")
        value: R = self.results(step.name)
        return value

    @property
    def tx(self) -> StepTx:
        """The transaction of a `tx=True` step. Raises SagaError in any other step."""
        if self.transaction is None:
            raise SagaError(f"{self.name}.{self.step} has no transaction; write @step(tx=True)")
        return self.transaction
