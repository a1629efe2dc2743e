"""What both tellings come to, in words. Pure: figures in, lines out; what is meant to be read fits 79 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Final

from seawall.demo.figures import Figures, Part, better
from seawall.demo.story import BACK, DEADLINE, PAYMENT_RATE, SEATS, Story

WIDTH: Final = 79
HEADING: Final = (
    f"{'second':>6}  {'phase':<13}{'offered':>8}{'good':>6}{'pending':>9}{'lost':>6}{'p50':>8}{'p99':>8}"
    f"{'calls':>7}{'refused':>9}{'retries':>9}  breaker"
)


def row(part: Part) -> str:
    """One line of the running table."""
    times = f"{_seconds(part.p50):>8}{_seconds(part.p99):>8}"
    answers = f"{part.offered:>8}{part.good:>6}{part.pending:>9}{part.lost:>6}"
    return (
        f"{part.begins:>6.0f}  {part.name:<13}{answers}{times}{part.calls:>7}{part.refused:>9}{part.retries:>9}"
        f"  {part.breaker or '-'}"
    )


def opening(story: Story, seed: int) -> list[str]:
    """What is about to be told."""
    return [
        f"A shop of three services, told twice in {story.seconds:g} seconds each; seed {seed}.",
        *(f"  {scene.begins:>5.1f} s  {scene.phase}: {scene.words}" for scene in story.scenes),
        f"An order is good when it is really paid within {DEADLINE:g} s of the customer's click.",
    ]


def title(story: Story, kind: str) -> str:
    """Above each telling."""
    if kind == "bare":
        return f"BARE: a time-out of {story.patience:.2g} s and three retries at once, as often written by hand"
    return "GUARDED: the same calls through two Seawall pipelines"


def comparison(story: Story, bare: Figures, guarded: Figures) -> list[str]:
    """Both tellings side by side, with what the guards did and the verdict."""
    lines = [f"{'':<44}{'bare':>14}{'guarded':>14}"]
    for label, one, other in _pairs(story, bare, guarded):
        lines.append(f"{label:<44}{one:>14}{other:>14}")
    lines += ["", "Good orders per second in each phase"]
    for one_part, other_part in zip(bare.phases, guarded.phases, strict=True):
        label = f"  {one_part.name} ({one_part.offered / (one_part.ends - one_part.begins):.0f} offered)"
        lines.append(f"{label:<44}{one_part.goodput:>14.1f}{other_part.goodput:>14.1f}")
    return [*lines, "", "What the guards of payment did", *_wrapped(deeds(guarded)), "", verdict(bare, guarded)]


def _pairs(story: Story, bare: Figures, guarded: Figures) -> list[tuple[str, str, str]]:
    both = (bare, guarded)
    made: list[tuple[str, list[str]]] = [
        ("goodput, orders paid in time per second", [f"{one.whole.goodput:.1f}" for one in both]),
        ("  of all orders", [f"{100 * one.whole.good / max(1, one.whole.offered):.0f} %" for one in both]),
        ("told to wait for the payment (not good)", [str(one.whole.pending) for one in both]),
        ("p50 of the answer", [_seconds(one.whole.p50) for one in both]),
        ("p99 of the answer", [_seconds(one.whole.p99) for one in both]),
        ("calls that hit the broken service", [str(one.calls_to_broken) for one in both]),
        ("seconds to recover, once it was back", [_recovery(story, one) for one in both]),
        ("charged more than once for one order", [str(one.charged_again) for one in both]),
    ]
    return [(label, one, other) for label, (one, other) in made]


def deeds(guarded: Figures) -> list[str]:
    """What breaker, bulkhead, limiter and retry budget did, in words, counted from their events."""
    count = _Counts(guarded.events)
    return [
        f"The circuit breaker opened {_times(count['breaker.opened'])} and answered {count['breaker.rejected']} "
        f"calls at once instead of sending them into the outage; {_times(count['breaker.half_opened'])} it let a few probes "
        f"through, and it closed {_times(count['breaker.closed'])}.",
        f"The bulkhead kept at most {SEATS} calls at payment, so that no line grew there that nobody would wait for; "
        f"{count['bulkhead.rejected']} calls found no seat in time.",
        f"The rate limiter held us to the {PAYMENT_RATE} calls a second that payment can do, and turned "
        f"{count['limiter.rejected']} away.",
        f"The retry tried {count['retry.scheduled']} calls again, and its budget refused {count['retry.budget_spent']} "
        "further tries: it keeps retries near a tenth of the traffic, so that they cannot multiply the load.",
        f"The time-outs cut {count['timeout.expired']} calls, and the fallback told {count['fallback.used']} customers that "
        "their order is taken and the payment follows.",
    ]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class _Counts(dict[str, int]):
    def __init__(self, events: Mapping[str, int]) -> None:
        super().__init__(events)

    def __missing__(self, kind: str) -> int:
        return 0


def verdict(bare: Figures, guarded: Figures) -> str:
    """The last word."""
    if better(bare, guarded):
        return "Guarded was better: more orders paid, fewer calls hit, earlier recovery."
    return "Guarded was NOT better in all three of goodput, calls to the broken service and recovery."


def ending(guarded_file: str) -> list[str]:
    """What to look at next. guarded_file: where the pipelines of the guarded telling are written."""
    return [
        "What to look at next",
        f"  {guarded_file}",
        "    the two pipelines that made the difference; bare.py beside it has none",
        "  seawall demo --seed 7 --json shop.json",
        "    another day in the shop, with all its figures in a file",
        "  README.md",
        "    the first guarded call of your own, in five lines",
    ]


def _wrapped(sentences: list[str]) -> list[str]:
    return [
        line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH, initial_indent="  - ", subsequent_indent="    ")
    ]


def _recovery(story: Story, telling: Figures) -> str:
    if telling.recovery is None:
        return f"not in {story.phase(BACK).length:.1f} s"
    return f"{telling.recovery:.1f} s"


def _seconds(length: float) -> str:
    return f"{1000 * length:.0f} ms" if length < 1 else f"{length:.2f} s"
