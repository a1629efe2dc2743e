"""The one file of this room that knows msgspec; it is loaded when a value or a type is a msgspec Struct."""

from __future__ import annotations

from typing import Any

import msgspec


def plain(value: Any) -> Any:
    """A Struct as plain data."""
    return msgspec.to_builtins(value)


def restore(value: Any, wanted: Any) -> Any:
    """Plain data as a Struct. Raises TypeError when it does not fit."""
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        raise TypeError(str(error)) from error
