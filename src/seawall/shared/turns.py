"""One caller's way through a shared limiter: ask, wait in line, ask again, pass or be refused; in threads and in tasks.

A thread asks by itself, where it stands. A task sends its ask and looks again when the answer has woken it, so the guards' shape
of waiting serves both.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from seawall.core import units
from seawall.pipeline.switch import SWITCH
from seawall.policies.key_table import UNKEYED
from seawall.policies.limiter_state import Grant
from seawall.policies.verdict import Rejection
from seawall.shared.book import Book, Members
from seawall.shared.line import LineRule, Turn
from seawall.shared.port import CHARGE, TAKE, Answer, Ask
from seawall.shared.source import Source, quiet

if TYPE_CHECKING:
    from seawall.shared.limiter import SharedRateLimiter


class Turns:
    """The turns of one limiter."""

    def __init__(self, limiter: SharedRateLimiter, lines: LineRule, source: Source, book: Book, members: Members) -> None:
        self._limiter, self._lines, self._source, self._book, self._members = limiter, lines, source, book, members

    def begin(self, port: Any, now: float, key: Hashable, cost: int, until: float) -> Any:
        """A grant, a refusal, or a turn to wait with."""
        units.whole("cost", cost, least=0)
        if SWITCH.off or (self._book.leases and self._book.take(key, cost)):
            return Grant(key, cost, 0)
        ask = self._limiter.ask_for(TAKE, key, cost)
        ask.waits = until > now and self._lines.queue > 0
        tasks = port.kind == "asyncio"
        turn = Turn(now, until, ask.keys[-1], ask, tasks=tasks)
        turn.key = key
        behind = self._limiter.cell.apply(self._lines.arrive, turn)
        if behind is not None and (behind < 0 or now + behind > until):
            self._forget(turn, now)
            reason = f"has its queue of {self._lines.queue} full" if behind < 0 else "has others waiting before it"
            return self._observed(Rejection(f"{reason}{_of(key)}", max(0.0, behind)), key, cost)
        if tasks:
            self._members.greet_by_task()
        if tasks and not self._source.gate.store.at_once:
            if behind is None:
                self._send(turn)
            if turn.answer is None:
                return turn
        answer = self.poll(turn, now)
        if not tasks and not self._source.degraded:
            self._members.greet()
        return turn if isinstance(answer, float) else answer

    def _may_ask(self, turn: Turn, now: float) -> bool:
        return (
            now >= turn.due
            and (turn.due <= turn.until or turn.due == -math.inf)
            and self._limiter.cell.apply(self._lines.leads, turn)
        )

    def _send(self, turn: Turn) -> None:
        if not turn.tasks or self._source.gate.store.at_once:
            turn.answer = self._book.ask(turn.ask) if self._book.leases else self._source.ask(turn.ask)
            return
        turn.asking = True
        submit = self._book.submit if self._book.leases else self._source.submit

        def answered(answer: Answer) -> None:
            turn.asking = False
            turn.answer = answer
            if turn.given_up:
                turn.answer = None
                if answer.granted:
                    self._give_back(turn, answer)
            elif turn.event is not None:
                turn.event.set()

        submit(turn.ask, answered)

    def _weigh(self, turn: Turn, now: float) -> Any:
        answer, turn.answer = turn.answer, None
        assert answer is not None
        self._limiter.note(turn.ask, answer)
        if answer.granted:
            self._forget(turn, now)
            return Grant(turn.key, turn.cost, answer.at)
        wait = math.inf if answer.wait < 0 else answer.wait / 1e6
        moment = now + wait
        late = answer.wait < 0 or moment > turn.until or turn.until <= now or self._lines.queue == 0
        if not late and self._limiter.cell.apply(self._lines.stand, turn, moment):
            return max(0.0, moment - now)
        self._forget(turn, now)
        part = turn.ask.program.parts[answer.binding]
        if answer.wait < 0:
            reason = f"can never pass a cost of {turn.cost}: {part.limit} lets at most {part.limit.capacity} pass at once"
        elif not late:
            reason = f"has its queue of {self._lines.queue} full{_of(turn.key)}"
        else:
            reason = f"has spent {part.limit}{_of(turn.key)}; the call could pass in {wait:.3g} s"
        return self._observed(Rejection(reason, wait), turn.key, turn.cost)

    def _observed(self, rejection: Rejection, key: Hashable, cost: int) -> Any:
        if not self._limiter.observe:
            return rejection
        self._limiter.rejected += 1
        self._limiter.emit("limiter.would_reject", reason=rejection.reason, retry_after=rejection.retry_after, key=key)
        return Grant(key, cost, 0)

    def _forget(self, turn: Turn, now: float) -> None:
        if turn.queued:
            self._limiter.cell.apply(self._lines.leave, now, turn)

    def _give_back(self, turn: Turn, answer: Answer) -> None:
        ask = Ask(CHARGE, turn.ask.keys, turn.ask.program, x=-turn.cost, y=answer.at)
        if turn.tasks:
            self._source.submit(ask, quiet)
        else:
            self._source.ask(ask)

    def poll(self, ticket: Any, now: float) -> Any:
        """What a waiter looks at."""
        turn: Turn = ticket
        if turn.answer is None and not turn.asking and self._may_ask(turn, now):
            self._send(turn)
        if turn.answer is not None:
            return self._weigh(turn, now)
        if not turn.asking and turn.until <= now:
            self._forget(turn, now)
            return Rejection(f"had no room for the call within {now - turn.since:.3g} s", max(0.0, turn.due - now))
        if turn.asking:
            return math.inf  # the answer wakes it, within the budget
        leads = self._limiter.cell.apply(self._lines.leads, turn)
        return max(0.0, (min(turn.due, turn.until) if leads else turn.until) - now)

    def leave(self, ticket: Any, now: float) -> None:
        """A waiter gives up; what is granted to it after this is given back."""
        turn: Turn = ticket
        turn.given_up = True
        self._forget(turn, now)
        answer, turn.answer = turn.answer, None
        if answer is not None and answer.granted:
            self._give_back(turn, answer)


def _of(key: Hashable) -> str:
    return "" if key == UNKEYED else f" for {key!r}"[:84]
