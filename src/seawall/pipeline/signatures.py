"""A function's own parameters as text, for a guard that repeats them: half the price of a cheap guard is `*args, **kwargs`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final


@dataclass(frozen=True)
class Shape:
    """parameters: as in a `def`, with `None` where there is a default: the defaults themselves are given to the function as
    objects.
    call: the same handed on. args, kwargs: the same as a tuple and a dict."""

    parameters: str
    call: str
    args: str
    kwargs: str
    defaults: tuple[Any, ...] | None = None
    keyword_defaults: dict[str, Any] | None = None


GENERIC: Final = Shape("*args, **kwargs", "*args, **kwargs", "args", "kwargs")
"""For whatever shows no parameters that could be repeated."""


def shape_of(function: Any) -> Shape:
    """The parameters of a plain Python function; those of every other callable may change or lie, so it gets the generic
    shape."""
    if not isinstance(function, FunctionType) or hasattr(function, "__signature__"):
        return GENERIC
    parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    if any(parameter.name.startswith("_sw_") for parameter in parameters):
        return GENERIC
    return Shape(
        ", ".join(_written(parameters)),
        ", ".join(_handed_on(parameter) for parameter in parameters),
        _tuple(parameters),
        _dict(parameters),
        function.__defaults__,
        function.__kwdefaults__,
    )


def _written(parameters: list[inspect.Parameter]) -> list[str]:
    words: list[str] = []
    for index, parameter in enumerate(parameters):
        before = parameters[index - 1].kind if index else None
        if before is parameter.POSITIONAL_ONLY and parameter.kind is not parameter.POSITIONAL_ONLY:
            words.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and before not in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL):
            words.append("*")
        default = "" if parameter.default is parameter.empty else "=None"
        stars = _stars(parameter)
        words.append(f"{stars}{parameter.name}{default}")
    if parameters and parameters[-1].kind is inspect.Parameter.POSITIONAL_ONLY:
        words.append("/")
    return words


def _stars(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return "*"
    return "**" if parameter.kind is parameter.VAR_KEYWORD else ""


def _handed_on(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.KEYWORD_ONLY:
        return f"{parameter.name}={parameter.name}"
    return f"{_stars(parameter)}{parameter.name}"


def _tuple(parameters: list[inspect.Parameter]) -> str:
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    return f"({''.join(f'{_handed_on(parameter)}, ' for parameter in positional)})"


def _dict(parameters: list[inspect.Parameter]) -> str:
    words = [f"{p.name!r}: {p.name}" for p in parameters if p.kind is p.KEYWORD_ONLY]
    words += [f"**{p.name}" for p in parameters if p.kind is p.VAR_KEYWORD]
    return f"{{{', '.join(words)}}}"
