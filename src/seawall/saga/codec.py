"""Values to text and back: JSON, led by the types that steps declare. Dataclasses, pydantic and msgspec models, enums, dates,
decimals, UUIDs, bytes, tuples and sets come back as what they were. Nothing that is read can run code."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import hashlib
import importlib
import json
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol

from seawall.saga.errors import NotSerialisable, PayloadTooLarge

LARGEST: Final = 1_048_576
_PLAIN: Final = (str, int, float, bool, type(None))
_TEXTUAL: Final[dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    datetime.datetime: (datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: (datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: (datetime.time.isoformat, datetime.time.fromisoformat),
    decimal.Decimal: (str, decimal.Decimal),
    uuid.UUID: (str, uuid.UUID),
    bytes: (lambda value: base64.b64encode(value).decode(), base64.b64decode),
}
_LISTS: Final = {list: list, tuple: tuple, set: set, frozenset: frozenset}


class Cipher(Protocol):
    """Hides what is written: give one as `cipher=`. Both verbs must be quick and thread-safe."""

    def seal(self, text: str) -> str:
        """The text as it is to be stored."""
        ...

    def open(self, text: str) -> str:
        """What `seal` was given."""
        ...


class Codec:
    """Writes values as JSON and reads them by their type.

    largest: bytes of one value, >= 64. Default 1 MiB. cipher: hides every payload, or None.
    """

    def __init__(self, *, largest: int = LARGEST, cipher: Cipher | None = None) -> None:
        if not isinstance(largest, int) or largest < 64:
            raise ValueError(f"largest must be a whole number of bytes >= 64; got {largest!r}")
        self.largest = largest
        self.cipher = cipher

    def write(self, value: Any, what: str) -> str | None:
        """The text of a value; None for None. Raises NotSerialisable or PayloadTooLarge, naming `what`."""
        if value is None:
            return None
        try:
            text = _ENCODER.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotSerialisable(
                f"{what} cannot be written as JSON: {error}; return plain data, a dataclass, or a pydantic or msgspec model"
            ) from error
        if len(text) > self.largest and len(text.encode()) > self.largest:
            raise PayloadTooLarge(
                f"{what} has {len(text.encode())} bytes, the limit is {self.largest}; store it elsewhere and keep a reference"
            )
        return text if self.cipher is None else self.cipher.seal(text)

    def read(self, text: str | None, wanted: Any, what: str) -> Any:
        """The value of a text, as the type `wanted`. Raises NotSerialisable when it does not fit."""
        if text is None:
            return None
        plain = text if self.cipher is None else self.cipher.open(text)
        try:
            return restore(json.loads(plain), wanted)
        except (TypeError, ValueError, KeyError, LookupError, decimal.DecimalException) as error:
            raise NotSerialisable(f"{what} was written as something that is no {_name(wanted)}: {error}") from error

    def fingerprint(self, value: Any, what: str) -> str:
        """What tells one input from another: SHA-256 of its canonical JSON, of the text before any cipher."""
        try:
            text = json.dumps(value, default=plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise NotSerialisable(f"{what} cannot be written as JSON: {error}") from error
        return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """One value as JSON can say it; called for what JSON does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    kind = type(value)
    for known, (write, _) in _TEXTUAL.items():
        if kind is known:
            return write(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, set, frozenset)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    if hasattr(kind, "__pydantic_validator__"):
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else value.__pydantic_serializer__.to_python(value)
    if hasattr(kind, "__struct_fields__"):
        return importlib.import_module("seawall.saga.codec_msgspec").plain(value)
    raise TypeError(f"{kind.__qualname__} has no JSON form")


_ENCODER: Final = json.JSONEncoder(default=plain, separators=(",", ":"), allow_nan=False)


def restore(value: Any, wanted: Any) -> Any:
    """What JSON said, as the type `wanted`. Raises TypeError or ValueError when it is none."""
    if type(value) is wanted and wanted in _PLAIN:
        return value
    if wanted is Any or wanted is object or isinstance(wanted, typing.TypeVar):
        return value
    if wanted is None or wanted is type(None):
        return _must(value is None, value, wanted) and None
    origin = typing.get_origin(wanted)
    if origin is not None:
        return _restore_generic(value, wanted, origin)
    if wanted in _TEXTUAL:
        _must(isinstance(value, str), value, wanted)
        return _TEXTUAL[wanted][1](value)
    if wanted is float:
        _must(isinstance(value, (int, float)) and not isinstance(value, bool), value, wanted)
        return float(value)
    if wanted in _PLAIN:
        _must(isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)), value, wanted)
        return value
    if isinstance(wanted, type):
        return _restore_class(value, wanted)
    raise TypeError(f"{_name(wanted)} cannot be read from JSON")


def _restore_generic(value: Any, wanted: Any, origin: Any) -> Any:
    arguments = typing.get_args(wanted)
    if origin is typing.Annotated:
        return restore(value, arguments[0])
    if origin is typing.Literal:
        return _must(value in arguments, value, wanted) and value
    if origin in (typing.Union, types.UnionType):
        return _restore_union(value, arguments, wanted)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        _must(isinstance(value, list) and len(value) == len(arguments), value, wanted)
        return tuple(restore(item, kind) for item, kind in zip(value, arguments, strict=True))
    if origin in _LISTS or origin.__name__ in ("Sequence", "Iterable", "Collection"):
        _must(isinstance(value, list), value, wanted)
        return _LISTS.get(origin, list)(restore(item, arguments[0]) for item in value)
    if origin is dict or origin.__name__ in ("Mapping", "MutableMapping"):
        _must(isinstance(value, dict), value, wanted)
        return {_key(key, arguments[0]): restore(item, arguments[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(origin):
        return _restore_class(value, typing.cast(type, origin))
    raise TypeError(f"{_name(wanted)} cannot be read from JSON")


def _restore_union(value: Any, choices: tuple[Any, ...], wanted: Any) -> Any:
    problems = []
    for choice in sorted(choices, key=lambda kind: kind in _TEXTUAL or kind is str):
        try:
            return restore(value, choice)
        except (TypeError, ValueError, LookupError, decimal.DecimalException) as error:
            problems.append(str(error))
    raise TypeError(f"{value!r:.80} is none of {_name(wanted)}: {'; '.join(problems)}")


def _restore_class(value: Any, wanted: type) -> Any:
    if wanted in (list, dict):
        _must(isinstance(value, wanted), value, wanted)
        return value
    if wanted in _LISTS:
        _must(isinstance(value, list), value, wanted)
        return _LISTS[wanted](value)
    if issubclass(wanted, enum.Enum):
        return wanted(value)
    if hasattr(wanted, "model_validate"):
        return wanted.model_validate(value)
    if hasattr(wanted, "__struct_fields__"):
        return importlib.import_module("seawall.saga.codec_msgspec").restore(value, wanted)
    if not dataclasses.is_dataclass(wanted):
        raise TypeError(f"{_name(wanted)} cannot be read from JSON")
    _must(isinstance(value, dict), value, wanted)
    hints = _hints(wanted)
    fields = {field.name: field for field in dataclasses.fields(wanted) if field.init}
    _must(set(value) <= {field.name for field in dataclasses.fields(wanted)}, value, wanted)
    return wanted(**{name: restore(value[name], hints.get(name, Any)) for name in fields if name in value})


def readable(wanted: Any) -> str | None:
    """Why values of a type could not be read back, or None when they can: asked when a saga class is defined."""
    if wanted in (Any, None, object) or wanted in _PLAIN or wanted in _TEXTUAL or isinstance(wanted, typing.TypeVar):
        return None
    origin = typing.get_origin(wanted)
    if origin is typing.Literal:
        return None
    if origin is not None:
        parts = [part for part in typing.get_args(wanted) if part is not Ellipsis]
        return next((why for part in (parts[:1] if origin is typing.Annotated else parts) if (why := readable(part))), None)
    if not isinstance(wanted, type):
        return f"{_name(wanted)} is no type"
    if wanted in _LISTS or wanted is dict or issubclass(wanted, enum.Enum):
        return None
    if hasattr(wanted, "model_validate") or hasattr(wanted, "__struct_fields__"):
        return None
    if not dataclasses.is_dataclass(wanted):
        return f"{_name(wanted)} is neither plain data nor a dataclass, pydantic or msgspec model"
    return next((f"its field {name}: {why}" for name, kind in _hints(wanted).items() if (why := readable(kind))), None)


_known_hints: dict[type, dict[str, Any]] = {}


def _hints(wanted: type) -> dict[str, Any]:
    found = _known_hints.get(wanted)
    if found is None:
        try:
            found = typing.get_type_hints(wanted)
        except NameError:  # a class of a function's own scope names another one there; its fields are then taken as they are
            found = {}
        if len(_known_hints) < 10_000:
            _known_hints[wanted] = found
    return found


def _key(key: str, wanted: Any) -> Any:
    return int(key) if wanted is int else restore(key, wanted)


def _must(fits: bool, value: Any, wanted: Any) -> bool:  # noqa: FBT001  # not public
    if not fits:
        raise TypeError(f"{value!r:.80} is no {_name(wanted)}")
    return True


def _name(wanted: Any) -> str:
    return wanted.__qualname__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)
