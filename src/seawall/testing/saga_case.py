"""One case of a `SagaLab`: which steps fail how, where the worker dies, whether everything happens twice; as text and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from seawall.saga.definition import Definition, Step

FAULTS: Final = ("rejected", "unknown", "lost", "late", "turned")
_CRASH: Final = re.compile(r"(\d+)([ba])")


@dataclass(frozen=True, slots=True)
class Case:
    """What goes wrong in one run.

    input: which of the inputs. faults: pairs (step, how) or ("undo:" + step, how). How: "rejected" raises an error of `rejects`
    before anything happened; "unknown" raises another one before; "lost" raises after the effect; "late" raises, and the effect
    comes when the saga has ended; "turned" lets the first call pass and rejects each later one, as when the stock ran out
    meanwhile.
    crashes: pairs (number of the commit, "b" before or "a" after it). twice: every step and undo is delivered twice.
    """

    input: int = 0
    faults: tuple[tuple[str, str], ...] = ()
    crashes: tuple[tuple[int, str], ...] = ()
    twice: bool = False

    def __str__(self) -> str:
        words = [f"input={self.input}", *(f"{step}={how}" for step, how in self.faults)]
        if self.crashes:
            words.append("crash=" + ",".join(f"{number}{side}" for number, side in self.crashes))
        return " ".join([*words, *(["twice"] if self.twice else [])])

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case of its text. Raises ValueError for anything else."""
        case = cls()
        for word in text.split():
            name, _, value = word.rpartition("=")
            if word == "twice":
                case = replace(case, twice=True)
            elif name == "input" and value.isdigit():
                case = replace(case, input=int(value))
            elif name == "crash" and (found := _CRASH.findall(value)):
                case = replace(case, crashes=tuple((int(number), side) for number, side in found))
            elif name and value in FAULTS:
                case = replace(case, faults=(*case.faults, (name, value)))
            else:
                raise ValueError(f"a case reads like 'input=0 reserve=lost crash=3b,5a twice'; got {word!r} in {text!r}")
        return case

    def fault(self, step: str) -> str | None:
        """What the case does to a step, or to "undo:" + step."""
        return dict(self.faults).get(step)


def must_succeed(step: Step[object]) -> bool:
    """Whether a step is repeated until its outcome is known, so that it may fail only for a while."""
    return step.options.repeats.forever or (bool(step.traits.get("pivot")) and step.undo_fn is None)


def schedules(definition: Definition, number: int) -> Iterator[Case]:
    """The ways in which one step, or one undo after another step's failure, ends otherwise than well."""
    yield Case(number)
    steps = [step for step in definition.steps.values() if step.kind == "step"]
    for step in steps:
        for how in _ways(step):
            yield Case(number, ((step.name, how),))
    last = next((step for step in reversed(steps) if step.options.rejects and not must_succeed(step)), None)
    turning = (last.name, "rejected") if last is not None else _turning(steps)
    for step in steps:
        if step.undo_fn is not None and turning is not None and step.name != turning[0]:
            yield Case(number, (turning, (f"undo:{step.name}", "unknown")))
            yield Case(number, (turning, (f"undo:{step.name}", "lost")))


def _turning(steps: list[Step[object]]) -> tuple[str, str] | None:
    found = next((step for step in reversed(steps) if not must_succeed(step)), None)
    return None if found is None else (found.name, "unknown")


def _ways(step: Step[object]) -> Iterator[str]:
    """How a step can end: a step in a transaction cannot be lost, and one that must succeed cannot be rejected for ever."""
    if step.options.rejects and not step.options.repeats.forever:
        yield "rejected"
        if step.undo_fn is not None and not step.options.tx:
            yield "turned"
    yield "unknown"
    if not step.options.tx:
        yield "lost"
        if step.undo_fn is not None and not must_succeed(step):
            yield "late"


def crashes(case: Case, commits: int) -> Iterator[Case]:
    """The same case with the worker's death before and after each of its commits."""
    for number in range(1, commits + 1):
        for side in ("b", "a"):
            yield replace(case, crashes=((number, side),))


def mixtures(cases: list[tuple[Case, int]], draw: Random, many: int) -> Iterator[Case]:
    """Random cases: two deaths, everything twice in half of them, over any of the schedules with its number of commits."""
    for _ in range(many):
        case, commits = draw.choice(cases)
        points = sorted({draw.randint(1, commits + 1) for _ in range(2)})
        yield replace(case, crashes=tuple((point, draw.choice("ba")) for point in points), twice=draw.random() < 0.5)
