"""Events, and the envelope that they travel in: a CloudEvents 1.0 message in structured JSON, the same on every broker."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid
from collections.abc import Callable
from typing import Any, Final, TypeVar, dataclass_transform, overload

from seawall.choreography.errors import EventError
from seawall.saga.codec import Codec, readable
from seawall.saga.errors import NotSerialisable

T = TypeVar("T", bound=type)
Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
_MARK: Final = "__seawall_event__"
_OPTIONAL: Final = ("correlationid", "causationid", "sagastep", "idempotencykey", "traceparent")


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What is known of an event class. failure: whether it says that something failed, and so must be compensated."""

    name: str
    version: int
    failure: bool
    upcasters: dict[int, Upcaster]


@overload
@dataclass_transform(frozen_default=True)
def event(cls: T, /) -> T: ...
@overload
@dataclass_transform(frozen_default=True)
def event(*, name: str | None = None, version: int = 1, failure: bool = False) -> Callable[[T], T]: ...
def event(cls: Any = None, /, *, name: str | None = None, version: int = 1, failure: bool = False) -> Any:
    """Make a class an event; a plain class becomes a frozen dataclass, pydantic and msgspec models stay what they are.

    name: its type on the wire, default the class's name. version: of its fields, >= 1. failure: it must be compensated.
    Raises EventError for a version below 1, and for a class whose values could not be read back.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise EventError(f"version must be a whole number >= 1; got {version!r}")

    def mark(kind: Any) -> Any:
        model = hasattr(kind, "model_validate") or hasattr(kind, "__struct_fields__")
        made = kind if model or dataclasses.is_dataclass(kind) else dataclasses.dataclass(frozen=True)(kind)
        why = readable(made)
        if why is not None:
            raise EventError(f"{kind.__qualname__} cannot be an event: {why}")
        setattr(made, _MARK, Kind(name or kind.__name__, version, failure, {}))
        return made

    return mark if cls is None else mark(cls)


def kind_of(cls: Any) -> Kind:
    """What is known of an event class. Raises EventError for any other."""
    found = vars(cls).get(_MARK) if isinstance(cls, type) else None
    if not isinstance(found, Kind):
        raise EventError(f"{cls!r} is no event: put @event above its class")
    return found


def upcast(cls: type, *, version: int) -> Callable[[Upcaster], Upcaster]:
    """Declare how the data of `version` of an event becomes that of `version + 1`. Raises EventError for another version."""
    kind = kind_of(cls)
    if not 1 <= version < kind.version:
        raise EventError(
            f"version must be 1 to {kind.version - 1} for {kind.name}, which has version {kind.version}; got {version!r}"
        )

    def keep(function: Upcaster) -> Upcaster:
        kind.upcasters[version] = function
        return function

    return keep


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One event on its way. Names are those of CloudEvents; subject: the key within which order holds; data: plain JSON."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    schema: int
    data: Any
    correlationid: str
    causationid: str | None = None
    sagastep: str | None = None
    idempotencykey: str | None = None
    traceparent: str | None = None

    def text(self) -> str:
        """The message, as JSON."""
        message = {
            "specversion": "1.0", "id": self.id, "type": self.type, "source": self.source, "subject": self.subject,
            "time": self.time, "datacontenttype": "application/json", "dataschema": f"urn:seawall:{self.type}:{self.schema}",
        }  # fmt: skip
        more = {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        return json.dumps({**message, **more, "data": self.data}, separators=(",", ":"), allow_nan=False)

    @classmethod
    def read(cls, text: str | bytes) -> Envelope:
        """The envelope of a message. Raises EventError when it is none."""
        try:
            message = json.loads(text)
            fields = {name: str(message[name]) for name in ("id", "type", "source", "subject", "time", "correlationid")}
            more = {name: message.get(name) for name in _OPTIONAL if name != "correlationid"}
            schema = int(str(message.get("dataschema", ":1")).rpartition(":")[2])
            return cls(**fields, **more, schema=schema, data=message["data"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EventError(f"this message is no event of ours: {error!r}: {text[:80]!r}") from error


def wrap(
    value: Any,
    *,
    source: str,
    correlation: str,
    cause: Envelope | None = None,
    step: str | None = None,
    nth: int = 0,
    trace: str | None = None,
) -> Envelope:
    """The envelope of a new event. It has the correlation and the trace of what caused it."""
    kind = kind_of(type(value))
    text = Codec().write(value, f"event {kind.name}")
    own = uuid.uuid4().hex
    return Envelope(
        id=own, type=kind.name, source=source, subject=correlation, schema=kind.version, data=json.loads(text or "null"),
        time=datetime.datetime.now(datetime.UTC).isoformat(), correlationid=correlation, causationid=cause.id if cause else None,
        sagastep=step, idempotencykey=f"{cause.id}:{step}:{nth}" if cause else own,
        traceparent=cause.traceparent if cause else trace,
    )  # fmt: skip


def unwrap(envelope: Envelope, cls: type) -> Any:
    """The event of an envelope, brought up to the version of its class. Raises EventError for data that cannot be read so."""
    kind, data = kind_of(cls), envelope.data
    if envelope.schema > kind.version:
        raise EventError(
            f"{kind.name} came as version {envelope.schema}; this process knows {kind.version}: deploy readers first"
        )
    for version in range(envelope.schema, kind.version):
        if version not in kind.upcasters:
            raise EventError(
                f"{kind.name} came as version {version}, and no upcaster leads to {version + 1}: see seawall's upcast"
            )
        data = kind.upcasters[version](dict(data))
    try:
        return Codec().read(json.dumps(data), cls, f"event {kind.name}")
    except NotSerialisable as error:
        raise EventError(str(error)) from error
