"""One telling: the processes, the wires between them, the scenes, and everything that is heard meanwhile."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from seawall.demo.figures import Figures, Mark, Order, Part, figures, part
from seawall.demo.process import Child, ChildDied, Children
from seawall.demo.story import DEADLINE, Scene, Story
from seawall.testing.fault_proxy import FaultProxy

TICK: Final = 0.2  # seconds between looks at the proxies and the view
ENDS_WITHIN: Final = DEADLINE + 3.0  # seconds that the customers have to report after the last scene
TOTALS_WITHIN: Final = 2.0  # seconds in which the services say their totals
SERVICES: Final = "seawall.demo.services"

Kind = Literal["bare", "guarded"]


@dataclass
class Heard:
    """What one telling has let us know so far. moment: seconds since it began, 0 before."""

    story: Story
    kind: Kind
    seed: int
    moment: float = 0.0
    answered: dict[int, Order] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=lambda: [Mark(0.0, 0)])
    events: dict[str, int] = field(default_factory=dict)
    breaker: str = ""
    charged_again: int = 0
    finished: bool = False
    done: list[Part] = field(default_factory=list)

    @cached_property
    def arrivals(self) -> list[float]:
        """When the customers come; their own process knows the same numbers."""
        return self.story.arrivals(self.seed)

    @property
    def orders(self) -> list[Order]:
        """Everybody who has come by now; who still waits has waited until now."""
        came = enumerate(self.arrivals[: bisect_right(self.arrivals, self.moment)])
        return [self.answered.get(number) or Order(at, self.moment - at, "waits") for number, at in came]

    def hear(self, report: dict[str, Any]) -> None:
        """Take in what a process told."""
        for number, took, answer in report.get("orders", ()):
            self.answered[number] = Order(self.arrivals[number], took, answer)
        self.events = report.get("events", self.events)
        self.breaker = report.get("breaker", self.breaker)
        self.charged_again = report.get("totals", {}).get("charged_again", self.charged_again)
        self.finished = self.finished or report.get("finished", False)

    def mark(self, at: float, calls: int) -> None:
        """Note what has been counted at this moment."""
        refused = sum(count for kind, count in self.events.items() if kind.endswith(".rejected"))
        self.marks.append(Mark(at, calls, self.breaker, refused, self.events.get("retry.scheduled", 0)))

    @property
    def step(self) -> float:
        """Seconds per row of the table: at most 60 rows per telling."""
        return max(1.0, self.story.seconds / 60)

    def rows(self) -> list[Part]:
        """A row per step whose orders have had their deadline."""
        while (row := self._next_row()) is not None:
            self.done.append(row)
        return self.done

    def _next_row(self) -> Part | None:
        begins = len(self.done) * self.step
        ends = min(begins + self.step, self.story.seconds)
        decided = self.finished or ends + DEADLINE + 2 * TICK <= self.moment
        if begins >= self.story.seconds - 1e-9 or not decided:
            return None
        return part(self.story.phase_at((begins + ends) / 2).name, begins, ends, self.orders, self.marks)


class Telling:
    """Tells one story once.

    view: called with what was heard, some five times a second. store: the URL of a store for payment's rate limit, or None.
    """

    def __init__(self, story: Story, kind: Kind, seed: int, view: Callable[[Heard], None], *, store: str | None = None) -> None:
        self._store = store
        self._story = story
        self._seed = seed
        self._view = view
        self.heard = Heard(story, kind, seed)

    async def tell(self) -> Figures:
        """Start everything, play the scenes, end everything. Raises ChildDied when a process ends before its time."""
        async with Children() as children:
            basics = [await self._start(children, name) for name in ("payment", "inventory")]
            payment, inventory = [(await child.ready())["port"] for child in basics]
            async with (
                FaultProxy("127.0.0.1", payment, seed=self._seed) as wire,
                FaultProxy("127.0.0.1", inventory, seed=self._seed) as other_wire,
            ):
                order = await self._start(children, "order", payment=wire.port, inventory=other_wire.port)
                customers = await self._start_customers(children, (await order.ready())["port"])
                await self._play(children, basics[0], customers, wire)
                await self._ask_totals(basics[0], order)
            return figures(
                self._story,
                self.heard.orders,
                self.heard.marks,
                charged_again=self.heard.charged_again,
                events=self.heard.events,
                pids=children.pids,
            )

    async def _start(self, children: Children, name: str, **ports: int) -> Child:
        return await children.start(
            f"{SERVICES}.{name}",
            self.heard.hear,
            seed=self._seed,
            guarded=self.heard.kind == "guarded",
            patience=self._story.patience,
            open_for=self._story.open_for,
            store=self._store,
            **ports,
        )

    async def _start_customers(self, children: Children, port: int) -> Child:
        customers = await children.start(
            "seawall.demo.load", self.heard.hear, seconds=self._story.seconds, seed=self._seed, port=port
        )
        await customers.ready()
        return customers

    async def _play(self, children: Children, payment: Child, customers: Child, wire: FaultProxy) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        customers.tell(go=True)
        for scene in self._story.scenes:
            self._set(scene, payment, wire)
            while (now := clock() - began) < scene.ends:
                children.check()
                self._look(now, wire)
                await asyncio.sleep(min(TICK, scene.ends - now))
            self.heard.mark(scene.ends, _calls(wire))
        while not self.heard.finished:
            children.check()
            if clock() - began > self._story.seconds + ENDS_WITHIN:
                raise ChildDied("the customers did not report their end")  # figures without them would be made up
            self.heard.moment = clock() - began
            self._view(self.heard)
            await asyncio.sleep(TICK)
        self._view(self.heard)

    @staticmethod
    def _set(scene: Scene, payment: Child, wire: FaultProxy) -> None:
        payment.tell(slowdown=scene.slowdown)
        wire.set(scene.faults)
        if scene.cut:
            wire.cut()

    def _look(self, now: float, wire: FaultProxy) -> None:
        self.heard.moment = now
        self.heard.mark(now, _calls(wire))
        self._view(self.heard)

    async def _ask_totals(self, payment: Child, order: Child) -> None:
        answered = asyncio.Event()

        def hear(report: dict[str, Any]) -> None:
            self.heard.hear(report)
            if "totals" in report:
                answered.set()

        payment.hear = hear
        order.tell(totals=True)
        payment.tell(totals=True)
        async with asyncio.timeout(TOTALS_WITHIN):
            await answered.wait()


def _calls(wire: FaultProxy) -> int:
    """Attempts that reached payment's door: requests on connections that were let in, and connections that were not."""
    shot = wire.snapshot()
    return shot.turns + shot.refused
