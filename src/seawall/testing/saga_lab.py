"""Tests a saga by running it into everything that can go wrong, in virtual time, and checks that it always ends all or nothing.

The engine is the real one, so is the journal: only time, the worker's deaths and the outcomes of steps are the lab's.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from seawall.core import units
from seawall.saga.context import Context
from seawall.saga.definition import Definition, Saga
from seawall.saga.plan import Record
from seawall.saga.tombstone import Effect
from seawall.testing.modes import virtual_time
from seawall.testing.saga_case import Case, crashes, mixtures, schedules
from seawall.testing.saga_stage import Called, LabSagas, Ran, Stage

FAST: Final = Path("/dev/shm")  # a folder in memory where there is one
SHOWN: Final = 10


class Effects:
    """A stand-in for services that honour keys: `do(ctx)` takes effect once per key, `undo(ctx)` takes it back, or bars it
    for good.

    It is a `Participant` without storage. `effects()` counts what stands, by step.
    """

    def __init__(self) -> None:
        self._known: dict[str, Effect] = {}
        self._steps: dict[str, str] = {}

    def do(self, ctx: Context) -> None:
        """Take effect. Raises EffectUndone or StaleFence where a participant would."""
        from seawall.saga.errors import EffectUndone, StaleFence

        verdict, after = self._known.get(ctx.key, Effect()).do("lab", ctx.fence, ctx.step, holder_lives=False)
        if verdict == "refuse":
            raise EffectUndone(f"{ctx.key} was undone")
        if verdict == "stale":
            raise StaleFence(f"{ctx.key} was asked for by a newer owner")
        self._known[ctx.key] = after.finish("lab")
        self._steps[ctx.key] = ctx.step

    def undo(self, ctx: Context) -> None:
        """Take the effect back, or see to it that it never comes. Raises StaleFence."""
        from seawall.saga.errors import StaleFence

        key = ctx.undoes or ctx.key
        verdict, after = self._known.get(key, Effect()).undo("lab", ctx.fence, holder_lives=False)
        if verdict == "stale":
            raise StaleFence(f"{key} was asked for by a newer owner")
        self._known[key] = after.undone("lab")

    def effects(self) -> dict[str, int]:
        """How many effects of each step stand."""
        return dict(sorted(Counter(self._steps[key] for key, effect in self._known.items() if effect.mark == "done").items()))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case came to. problems: what is wrong with it, none when it is right. state: of the world afterwards.
    calls: of steps and undos, in order. records: the journal. errors: told, not judged."""

    case: str
    status: str
    problems: tuple[str, ...]
    state: Any
    commits: int
    calls: tuple[Called, ...]
    records: tuple[Record, ...]
    errors: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What an exploration came to. ends: how many cases ended how. wrong: the outcomes that are wrong."""

    cases: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[Outcome] = field(default_factory=list)


class LabFailure(AssertionError):
    """A saga did not end all or nothing. `report` has every wrong case; the message names the first, with how to replay them."""

    def __init__(self, report: Report) -> None:
        self.report = report
        lines = [f"{len(report.wrong)} of {report.cases} cases are wrong:"]
        for outcome in report.wrong[:SHOWN]:
            lines += [f'  lab.replay("{outcome.case}")', *(f"    {problem}" for problem in outcome.problems)]
        super().__init__("\n".join(lines + (["  ..."] if len(report.wrong) > SHOWN else [])))


class SagaLab:
    """Explores a saga: `SagaLab(PlaceOrder(stock)).explore(order)`.

    saga: an instance of the class, which is copied deeply for every case, with the stand-ins that it holds; or a function without
        parameters that makes a fresh one. others: the inner sagas that it starts, in the same way.
    state: a function of the saga to a comparable value of the world that it changes. Default: what `effects()` says of
        everything that the saga holds and that has such a method, as `Effects` has. Without any, only the engine's own marks
        are checked.
    signals: sent right after the start, by name. Default none.
    seed: of the random cases. Default 0. mixed: how many of those, with two deaths each, >= 0. Default 40.

    Raises TypeError or ValueError for a parameter out of range.
    """

    def __init__(
        self, saga: Saga[Any, Any] | Callable[[], Saga[Any, Any]], *others: Saga[Any, Any],
        state: Callable[[Any], Any] | None = None, signals: Mapping[str, Any] | None = None, seed: int = 0, mixed: int = 40,
    ) -> None:  # fmt: skip
        if isinstance(saga, type) or not (isinstance(saga, Saga) or callable(saga)):
            raise TypeError(f"saga must be an instance of a Saga class, or a function that makes one; got {saga!r}")
        self._make: Callable[[], Saga[Any, Any]] = (lambda: copy.deepcopy(saga)) if isinstance(saga, Saga) else saga
        self._others = others
        self._state = state or _found_effects
        self._signals = dict(signals or {})
        self._seed = seed
        self._mixed = units.whole("mixed", mixed, least=0)
        self._inputs: tuple[Any, ...] = ()
        self._expected: dict[int, tuple[Any, Outcome]] = {}

    def explore(self, *inputs: Any) -> Report:
        """Run every case for each input: each step and undo in all of its outcomes, a death before and after each commit of
        each of these, everything twice, requests that come after their undo, and random mixtures.

        A case is wrong when the saga does not end, when it completes and the world is not as after a run without faults (so each
        effect is there once), or when it is taken back and the world is not as before. Raises LabFailure.
        """
        self._inputs = inputs or (None,)
        self._expected.clear()
        report, began = Report(), time.monotonic()
        with _Bench() as bench:
            for number in range(len(self._inputs)):
                found: list[tuple[Case, int]] = []
                for case in schedules(self._definition(), number):
                    outcome = self._judge(case, bench, report)
                    found.append((case, outcome.commits))
                    self._judge(Case(case.input, case.faults, (), twice=True), bench, report)
                for case, commits in found:
                    for dying in crashes(case, commits):
                        self._judge(dying, bench, report)
                for case in mixtures(found, Random(f"{self._seed}/{number}"), self._mixed):
                    self._judge(case, bench, report)
        report.seconds = time.monotonic() - began
        if report.wrong:
            raise LabFailure(report)
        return report

    def replay(self, case: str, *inputs: Any) -> Outcome:
        """Run one case again, by the name that a failure printed. inputs: those of `explore`, when it was not called before.
        Raises ValueError for a name that cannot be read, or an input that is not there."""
        self._inputs = inputs or self._inputs or (None,)
        parsed = Case.parse(case)
        if parsed.input >= len(self._inputs):
            raise ValueError(f"case {case!r} is of input {parsed.input}; only {len(self._inputs)} inputs were given")
        with _Bench() as bench:
            return self._run(parsed, bench)

    def _definition(self) -> Definition:
        return self._make().definition

    def _judge(self, case: Case, bench: _Bench, report: Report) -> Outcome:
        outcome = self._run(case, bench)
        report.cases += 1
        report.ends[outcome.status] += 1
        if outcome.problems:
            report.wrong.append(outcome)
        return outcome

    def _run(self, case: Case, bench: _Bench) -> Outcome:
        from seawall.testing.saga_checks import check

        if case.input not in self._expected and case != Case(case.input):
            self._run(Case(case.input), bench)
        saga = self._make()
        before = copy.deepcopy(self._state(saga))
        ran = bench.run(case, saga, [copy.deepcopy(other) for other in self._others], self._inputs[case.input], self._signals)
        state = copy.deepcopy(self._state(saga))
        row = ran.rows[0] if ran.rows else None
        expected = self._expected.get(case.input)
        wanted = None if expected is None or expected[1].status != "completed" else expected[1].state
        problems = check(saga.definition, ran, before, state, wanted)
        outcome = Outcome(
            str(case), row.status if row else "not started", tuple(problems), state, ran.commits, tuple(ran.calls),
            tuple(row.records) if row else (), tuple(ran.errors),
        )  # fmt: skip
        if case == Case(case.input):
            self._expected[case.input] = (before, outcome)
        return outcome


class _Bench:
    """A folder in memory and threads, for many cases."""

    def __enter__(self) -> _Bench:
        self._folder = Path(tempfile.mkdtemp(prefix="seawall-lab-", dir=FAST if FAST.is_dir() else None))
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="seawall-lab")
        self._number = 0
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, case: Case, saga: Saga[Any, Any], others: list[Saga[Any, Any]], value: Any, signals: dict[str, Any]) -> Ran:
        """One case, from an empty journal."""
        self._number += 1
        stage = Stage(case, self._pool)
        path = self._folder / f"{self._number}.db"
        with virtual_time(seed=self._number) as clock:

            async def main() -> Ran:
                sagas = LabSagas(str(path), [saga, *others], stage, clock)
                sagas._open()
                try:
                    return await stage.run(sagas, type(saga), value, signals)
                finally:
                    sagas.die()
                    sagas._close()

            ran = _outside_loops(main)
        for left in self._folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return ran


def _outside_loops(main: Callable[[], Any]) -> Ran:
    """Run it in a loop of its own, in a thread of its own when this one has a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        ran: Ran = asyncio.run(main())
        return ran
    with ThreadPoolExecutor(1) as aside:
        found: Ran = aside.submit(lambda: asyncio.run(main())).result()
    return found


def _found_effects(saga: Any) -> Any:
    held = vars(saga) if hasattr(saga, "__dict__") else {}
    return {name: value.effects() for name, value in held.items() if callable(getattr(value, "effects", None))}
