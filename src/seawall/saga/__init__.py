"""Sagas: a distributed transaction as a sequence of local ones, each with an undo, that survives kill -9.

`async with Sagas("sqlite:///orders.db", [PlaceOrder(stock)]) as sagas: handle = await sagas.start(PlaceOrder, order,
id="order-42")`
"""

from typing import TYPE_CHECKING

from seawall.core.lazy import lazy

if TYPE_CHECKING:
    from seawall.saga.context import NOT_DONE as NOT_DONE
    from seawall.saga.context import Context as Context
    from seawall.saga.context import Done as Done
    from seawall.saga.context import NotDone as NotDone
    from seawall.saga.context import Unknown as Unknown
    from seawall.saga.definition import Saga as Saga
    from seawall.saga.definition import Step as Step
    from seawall.saga.definition import sleep as sleep
    from seawall.saga.definition import step as step
    from seawall.saga.definition import subsaga as subsaga
    from seawall.saga.definition import wait_signal as wait_signal
    from seawall.saga.errors import DefinitionError as DefinitionError
    from seawall.saga.errors import InputChanged as InputChanged
    from seawall.saga.errors import JournalError as JournalError
    from seawall.saga.errors import LeaseLost as LeaseLost
    from seawall.saga.errors import NotAllowed as NotAllowed
    from seawall.saga.errors import NotOffered as NotOffered
    from seawall.saga.errors import NotSerialisable as NotSerialisable
    from seawall.saga.errors import PayloadTooLarge as PayloadTooLarge
    from seawall.saga.errors import ResultTimeout as ResultTimeout
    from seawall.saga.errors import SagaCompensated as SagaCompensated
    from seawall.saga.errors import SagaError as SagaError
    from seawall.saga.errors import SagaStuck as SagaStuck
    from seawall.saga.errors import UnknownSaga as UnknownSaga
    from seawall.saga.handle import Handle as Handle
    from seawall.saga.lease import Fence as Fence
    from seawall.saga.operate import Word as Word
    from seawall.saga.participant import Call as Call
    from seawall.saga.participant import Participant as Participant
    from seawall.saga.sagas import Sagas as Sagas

_NAMES = {
    "context": ("NOT_DONE", "Context", "Done", "NotDone", "Unknown"),
    "definition": ("Saga", "Step", "sleep", "step", "subsaga", "wait_signal"),
    "errors": (
        "DefinitionError", "InputChanged", "JournalError", "LeaseLost", "NotAllowed", "NotOffered", "NotSerialisable",
        "PayloadTooLarge", "ResultTimeout", "SagaCompensated", "SagaError", "SagaStuck", "UnknownSaga",
    ),
    "handle": ("Handle",),
    "lease": ("Fence",),
    "operate": ("Word",),
    "participant": ("Call", "Participant"),
    "sagas": ("Sagas",),
}  # fmt: skip
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)  # noqa: PLE0605  # one list of names, not two

__getattr__, __dir__ = lazy(__name__, _HOMES)
