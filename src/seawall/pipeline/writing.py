"""Puts the text of a compiled guard together: the templates of its layers, one in the other, around the function's own
parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from seawall.core.runtime import CHEAP_LOOP
from seawall.pipeline import templates
from seawall.pipeline.signatures import Shape
from seawall.pipeline.templates import Part

Form = Literal["flat", "told", "away", "first"]
"""flat: the guard. told: the same, telling of each call. away: the plain guards. first: what makes the first call."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """What a compiled guard is written from.

    parts: its layers, outermost first. whole: whether these are all; else the plain guards go on inside. shape: the function's
    parameters. given: whether each call brings its function as the first argument. marked: whether calls have a key.
    exact: whether the clock can be read in nanoseconds.
    """

    parts: tuple[Part, ...]
    whole: bool
    shape: Shape
    given: bool
    is_async: bool
    marked: bool
    exact: bool

    def text(self, form: Form) -> str:
        """The source of one form, as a function called `guarded`."""
        body = self._guard(tells=form == "told") if form in ("flat", "told") else f"return AWAIT _sw_cold.{_LEAVES[form]}(CALL)"
        for word, meant in (
            ("ARGUMENTS", f"{self.shape.args}, {self.shape.kwargs}"),
            ("AWAIT ", "await " if self.is_async else ""),
            ("BEFORE", "None" if self._alone else "_sw_run"),
            ("CALL", f"{'_sw_fn, ' if self.given else ''}{self.shape.call}"),
        ):
            body = body.replace(word, meant)
        if self._alone:
            body = body.replace("_sw_run = None\n", "")
        parameters = f"{'_sw_fn, /, ' if self.given else ''}{self.shape.parameters}"
        return f"{'async def' if self.is_async else 'def'} guarded({parameters}):\n{_indented(body, 4)}\n"

    @property
    def _alone(self) -> bool:
        return self.whole and len(self.parts) <= 1

    def _guard(self, *, tells: bool) -> str:
        inner = self._call() if self.whole else self._layer(templates.SLOWLY, len(self.parts))
        for index in range(len(self.parts) - 1, -1, -1):
            part = self.parts[index]
            flags = part.flags | ({"last"} if self._is_last(index) and not tells else set())
            slowly = self._layer(templates.SLOWLY, index)
            inner = _filled(self._layer(_chosen(part.text, flags), index), {"SLOWLY": slowly, "INNER": inner})
        if self.marked:
            inner = _filled(_KEYED, {"INNER": inner})
        if tells:
            inner = _filled(_TELLING, {"INNER": inner})
        return _filled(self._frame(tells=tells), {"INNER": inner})

    def _layer(self, text: str, index: int) -> str:
        """A template as the layer of that number: `ARMED` becomes the nearest limit of this call around it."""
        limits = [number for number in range(index) if "_sw_limit@" in self.parts[number].text]
        armed = f"_sw_armed{limits[-1]}" if limits else "None"
        return text.strip("\n").replace("@", str(index)).replace("ARMED", armed)

    def _is_last(self, index: int) -> bool:
        """Whether nothing is left to do once this layer has its result: no layer around it looks at it, no key is taken back."""
        return {part.text for part in self.parts[:index]} <= {templates.LIMITER} and not self.marked

    def _call(self) -> str:
        call = f"_sw_r = _sw_fn({self.shape.call})"
        if not self.is_async:
            return f"{call}\nif _sw_r is not None and _sw_r.__class__ not in _sw_known:\n    _sw_cold.look(_sw_r)"
        if self.given:
            return (
                f'{call}\nif not hasattr(_sw_r.__class__, "__await__"):\n    _sw_cold.refuse(_sw_fn, _sw_r)\n_sw_r = await _sw_r'
            )
        return f"_sw_r = await _sw_fn({self.shape.call})"

    def _frame(self, *, tells: bool) -> str:
        text = "".join(part.text for part in self.parts)
        flags = {"limits"} if "_sw_limit@" in text else set()
        flags |= {"cheap"} if CHEAP_LOOP else set()
        flags |= {"told"} if tells else set()
        frame = _chosen(_FRAME_TASKS if self.is_async else _FRAME_THREADS, frozenset(flags))
        return frame.replace("CLOCK", self._clock(text, tells=tells))

    def _clock(self, text: str, *, tells: bool) -> str:
        """The one clock read of an attempt, in seconds, in nanoseconds, or both."""
        timed = [part for part in self.parts if part.timed]
        if "_sw_ns" not in text:
            return "_sw_t = _sw_now()" if tells or timed else ""
        if self.exact:  # a second read costs less than the conversion of the first
            both = tells or any("_sw_ns" not in part.text for part in timed)
            return "_sw_ns = _sw_nanoseconds()" + ("\n_sw_t = _sw_now()" if both else "")
        return "_sw_t = _sw_now()\n_sw_ns = int(_sw_t * 1e9)"


_LEAVES: Final = {"away": "plain", "first": "first"}

_FRAME_THREADS: Final = """
if _sw_deadline() is not None and _sw_cold.within(_sw_deadline()) is None: #if not limits
    return _sw_cold.plain(CALL) #if not limits
_sw_o = _sw_deadline() #if limits
if _sw_o is not None: #if limits
    _sw_o = _sw_cold.within(_sw_o) #if limits
    if _sw_o is None: #if limits
        return _sw_cold.plain(CALL) #if limits
_sw_run = None
CLOCK
INNER
return _sw_r
"""

_FRAME_TASKS: Final = """
_sw_o = _sw_deadline()
if _sw_o is not None:
    _sw_o = _sw_cold.within(_sw_o)
    if _sw_o is None:
        return await _sw_cold.dated(_sw_guarded, _sw_fn, CALL) #if not told
        return await _sw_cold.plain(CALL) #if told
_sw_run = None
_sw_home = _sw_home_lanes.lane #if limits
if _sw_home.loop is not _sw_running(): #if limits and cheap
if _sw_home.life._thread_id != _sw_ident(): #if limits and not cheap
    _sw_home = _sw_home_lanes.find() #if limits
_sw_task = _sw_current(_sw_home.loop) #if limits and cheap
_sw_task = _sw_tasks.get(_sw_home.loop) #if limits and not cheap
if _sw_task is None: #if limits
    return await _sw_cold.plain(CALL) #if limits
CLOCK
INNER
return _sw_r
"""

_KEYED: Final = """
_sw_held_key = _sw_set_key(_sw_key(ARGUMENTS))
try:
    INNER
finally:
    _sw_reset_key(_sw_held_key)
"""


_TELLING: Final = """
try:
    INNER
except BaseException as _sw_error:
    _sw_cold.tell_failure(_sw_error, _sw_t)
    raise
_sw_ended = _sw_now()
_sw_told = _sw_event(_sw_Event, ("call.ended", _sw_name, _sw_ended, _sw_name, _sw_ended_well, _sw_ended - _sw_t))
try:
    _sw_sink(_sw_told)
except Exception:
    _sw_cold.report(_sw_sink, _sw_told)
"""


def _chosen(text: str, flags: frozenset[str]) -> str:
    """The lines of a text that stand under these flags."""
    lines = []
    for line in text.strip("\n").splitlines():
        code, _, condition = line.partition(" #if ")
        if not condition or any(all(_holds(term, flags) for term in way.split(" and ")) for way in condition.split(" or ")):
            lines.append(code)
    return "\n".join(lines)


def _holds(term: str, flags: frozenset[str]) -> bool:
    return term.removeprefix("not ") in flags if not term.startswith("not ") else term.removeprefix("not ") not in flags


def _filled(text: str, words: dict[str, str]) -> str:
    """The text with each line that is one of the words replaced by that word's lines, as deep as it stood."""
    lines: list[str] = []
    for line in text.strip("\n").splitlines():
        inner = words.get(line.strip())
        lines.append(line if inner is None else _indented(inner, len(line) - len(line.lstrip())))
    return "\n".join(lines)


def _indented(text: str, by: int) -> str:
    return "\n".join(f"{' ' * by}{line}" if line else line for line in text.splitlines())
