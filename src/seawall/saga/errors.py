"""What sagas raise. Each says which saga or step, what rule was broken, and what to do next."""

from __future__ import annotations

from typing import Any

from seawall.core.errors import SeawallError


class SagaError(SeawallError):
    """Base of all errors of sagas."""


class DefinitionError(SagaError, TypeError):
    """A saga class cannot work as it is written; the message names the step and the rule. Raised when the class is defined."""


class NotOffered(DefinitionError):
    """The engine behind this URL cannot do what the saga or the call asks for; the message names what, and why it cannot."""


class UnknownSaga(SagaError, LookupError):
    """No saga has this name, version or id here."""


class InputChanged(SagaError, ValueError):
    """A saga with this id was already started with another input, so this start would lose one of them."""


class NotSerialisable(SagaError, TypeError):
    """A value cannot be written to the journal, or what was written does not fit the type that is asked for."""


class PayloadTooLarge(SagaError, ValueError):
    """A value is larger than the journal's limit; store it elsewhere and keep a reference."""


class WrongResult(SagaError, TypeError):
    """A step returned what its annotation does not allow. Whether it took effect is unknown, so its undo runs."""


class JournalError(SagaError):
    """The database that holds the journal cannot be used; nothing was half-written."""


class JournalReadOnly(JournalError):
    """The database is read-only for this process."""


class JournalFull(JournalError):
    """The disk or the database is full."""


class JournalLocked(JournalError):
    """Another program holds the database for longer than we wait."""


class JournalTooNew(JournalError):
    """The tables were made by a newer Seawall; upgrade this one."""


class JournalMissing(JournalError):
    """The database cannot be opened or reached."""


class LeaseLost(SagaError):
    """Another worker, or a human's word, owns the saga now; this process's write was refused, as it must be."""


class StepFailed(SagaError):
    """What a step left behind, as far as the journal tells: its error's type and message."""


class LockHeld(SagaError):
    """Another saga holds a semantic lock that this step asked for."""


class VersionChanged(SagaError):
    """What was read before is not what is there now, so the step was refused before it began."""


class SignalTimeout(SagaError):
    """A signal did not come in time."""


class NotAllowed(SagaError, ValueError):
    """An operator's verb cannot be applied in this state; the message says what can."""


class ParticipantError(SagaError):
    """Base of what a participant refuses. In `Guarded` each has a status of its own."""


class BadCall(ParticipantError, ValueError):
    """A request to a participant lacks something, or names it in a way that cannot be read (400)."""


class EffectBusy(ParticipantError):
    """A request with the same key is under way; ask again after `retry_after` seconds (409)."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _busy, (self.args[0], self.retry_after)


class EffectUndone(ParticipantError):
    """The key was taken back before, so a late request for it is refused (410)."""


class EffectExpired(ParticipantError):
    """The request is older than what the participant remembers, so nobody can tell whether it was undone (410)."""


class StaleFence(ParticipantError):
    """The request comes from a worker that has lost the saga to another one (412)."""


class KeyReused(ParticipantError, ValueError):
    """The key was used with another request (422)."""


def _busy(message: str, retry_after: float) -> EffectBusy:
    return EffectBusy(message, retry_after=retry_after)


class _Ended(SagaError):
    """How a saga ended that did not complete.

    id: the user's id. name: the saga's name. status: its status. cause: what turned it back or stopped it, as text.
    """

    def __init__(self, message: str, *, id: str = "", name: str = "", status: str = "", cause: str | None = None) -> None:
        super().__init__(message)
        self.id = id
        self.name = name
        self.status = status
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {"id": self.id, "name": self.name, "status": self.status, "cause": self.cause}
        return _rebuild, (type(self), self.args[0], fields)


class SagaCompensated(_Ended):
    """The saga was taken back. `status` is "compensated", "compensated_partially" when a human skipped an undo, or "failed" when
    there was nothing to take back. `cause` says which step turned it, and why."""


class SagaStuck(_Ended):
    """The saga cannot go on by itself and waits for a human; `seawall saga why ID` says what for."""


class ResultTimeout(SagaError, TimeoutError):
    """The saga has not ended yet; it goes on, and can be asked again."""


def _rebuild(kind: type[_Ended], message: str, fields: dict[str, Any]) -> _Ended:
    return kind(message, **fields)


class Stop(BaseException):
    """Ends a worker's own task from inside; never leaves the package."""
