"""Sagas for the tests of the command line: one saga class in two versions, found as `shop_sagas:build` and `shop_sagas:newer`."""

from __future__ import annotations

from typing import Any

import seawall as sw
from seawall.saga import Context, Saga, Unknown, step, wait_signal


class No(Exception):
    """Nothing happened."""


FAILING = {"undo": False, "send": False}


class Order(Saga[dict[str, Any], str]):
    """Reserve, wait for a word, ship once."""

    name = "order"

    @step(rejects=No)
    def reserve(self, ctx: Context, order: dict[str, Any]) -> int:
        """Refused when the input says so."""
        if order.get("fails") == "reserve":
            raise No("nothing left")
        return 7

    @reserve.undo(retry=sw.Retry(backoff=sw.Backoff(base=0.001, cap=0.002)), alert_after=2)
    def release(self, ctx: Context, order: dict[str, Any], reserved: int | Unknown) -> None:
        """Fails while the test says so."""
        if FAILING["undo"]:
            raise OSError("the warehouse is on fire")

    @reserve.alternate
    def by_post(self, ctx: Context, order: dict[str, Any], reserved: int | Unknown) -> None:
        """Another way to take it back."""

    approved = wait_signal("approved", bool, after=reserve)

    @step(after=approved, rejects=No, undo="none")
    def ship(self, ctx: Context, order: dict[str, Any]) -> str:
        """Refused when the input says so."""
        if order.get("fails") == "ship":
            raise No("no truck")
        return "shipped"


class Newer(Saga[dict[str, Any], str]):
    """The same one day later: nothing is reserved any more."""

    name = "order"
    version = 2

    @step(undo="none")
    def ship(self, ctx: Context, order: dict[str, Any]) -> str:
        """At once."""
        return "shipped"


class Older(Saga[dict[str, Any], str]):
    """Waits for a word, then ships."""

    name = "order"

    approved = wait_signal("approved", bool)

    @step(after=approved, undo="none")
    def ship(self, ctx: Context, order: dict[str, Any]) -> str:
        """At once."""
        return "shipped"


class Young(Saga[dict[str, Any], str]):
    """The same without the wait."""

    name = "order"
    version = 2

    @step(undo="none")
    def ship(self, ctx: Context, order: dict[str, Any]) -> str:
        """At once."""
        return "shipped"


class BothWays(Saga[dict[str, Any], str]):
    """Sends, and is told that it cannot."""

    name = "order"

    @step()
    def reserve(self, ctx: Context, order: dict[str, Any]) -> int:
        """A seat."""
        return 7

    @reserve.undo(retry=sw.Retry(backoff=sw.Backoff(base=0.001, cap=0.002)), alert_after=2)
    def release(self, ctx: Context, order: dict[str, Any], reserved: int | Unknown) -> None:
        """Fails while the test says so."""
        if FAILING["undo"]:
            raise OSError("the warehouse is on fire")

    @step(after=reserve, rejects=No, undo="none")
    def send(self, ctx: Context, order: dict[str, Any]) -> str:
        """Refused while the test says so."""
        if FAILING["send"]:
            raise No("no truck")
        return "sent"


class Through(Saga[dict[str, Any], str]):
    """Sends by way of a circuit."""

    name = "order"
    circuit = sw.CircuitBreaker(consecutive_failures=1, open_for=60, name="partner")

    @step(undo="none", through=sw.Pipeline(circuit, name="partner"))
    def send(self, ctx: Context, order: dict[str, Any]) -> str:
        """To a partner."""
        return "sent"


class Careful(Saga[dict[str, Any], str]):
    """Sends at most once, after a word."""

    name = "order"

    @step(undo="none", at_most_once=True)
    def send(self, ctx: Context, order: dict[str, Any]) -> str:
        """To somebody who cannot tell one from two."""
        return "sent"


def build() -> list[Saga[Any, Any]]:
    """For `seawall saga worker URL shop_sagas:build`."""
    return [Order()]


def newer() -> list[Saga[Any, Any]]:
    """What `seawall saga diff` is asked about."""
    return [Newer()]


wrong = [1]
