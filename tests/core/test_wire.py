"""Deadlines, keys and attempts between services: as headers out, and bounded on their way in."""

from __future__ import annotations

import pytest

import seawall as sw
from seawall.testing import VirtualClock, capture_events


def test_a_deadline_crosses_as_what_remains_and_shrinks_on_its_way(seawall_time: VirtualClock) -> None:
    """Two machines' clocks need not agree on a length."""
    assert sw.outgoing_headers() == {}
    with sw.deadline(2), sw.priority("critical"):
        seawall_time.advance(0.5)
        headers = sw.outgoing_headers()
    assert headers == {"Seawall-Remaining-Ms": "1500", "Seawall-Priority": "critical"}
    with sw.incoming(headers) as context:
        assert sw.remaining() == pytest.approx(1.5)
        assert context.priority == "critical"
        seawall_time.advance(3)
        assert sw.outgoing_headers()["Seawall-Remaining-Ms"] == "0"
    assert sw.remaining() is None


def test_the_key_and_the_attempt_cross_with_a_retried_call(seawall_time: VirtualClock) -> None:
    """The callee can recognise a repeated call, and count attempts."""
    seen: list[dict[str, str]] = []
    retry = sw.Retry(3, budget=None)

    @retry(idempotency_key=lambda: "order-7")
    def call() -> None:
        seen.append(sw.outgoing_headers())
        if len(seen) < 2:
            raise ConnectionRefusedError

    call()
    assert seen == [{"Idempotency-Key": "order-7"}, {"Idempotency-Key": "order-7", "Seawall-Attempt": "2"}]
    with sw.incoming({key.lower(): value for key, value in seen[1].items()}) as context:
        assert (context.attempt, sw.call_key()) == (2, "order-7")


@pytest.mark.parametrize("lie", ["-5", "1e9", "nan", "inf", "9" * 13, "9" * 500, "1\r\nX: y", "", "ten", "١٢"])
def test_a_lie_in_a_header_is_ignored_and_a_long_deadline_is_clamped(seawall_time: VirtualClock, lie: str) -> None:
    """A hostile caller may neither hold the server longer nor break it."""
    headers = {"Seawall-Remaining-Ms": lie, "Seawall-Attempt": lie, "Seawall-Priority": lie, "Idempotency-Key": "\x00"}
    with sw.incoming(headers, longest=10) as context:
        assert sw.remaining() == pytest.approx(10)
        assert (context.attempt, context.priority, context.key) == (1, "default", None)
    with sw.incoming({"Seawall-Remaining-Ms": "3600000"}, longest="10s"):
        assert sw.remaining() == pytest.approx(10)
    with sw.deadline(1), sw.incoming({"Seawall-Remaining-Ms": "5000"}):
        assert sw.remaining() == pytest.approx(1)
    with pytest.raises(ValueError, match="longest"), sw.incoming({}, longest=0):
        pass


def test_strangers_are_not_believed_about_their_priority(seawall_time: VirtualClock) -> None:
    """Priority is what an authenticated caller has, not what a header says."""
    with sw.incoming({"Seawall-Priority": "critical", "Seawall-Attempt": "9"}, trusted=False) as context:
        assert (context.priority, context.attempt) == ("default", 1)
    with sw.incoming({"Seawall-Attempt": "99999"}) as context:
        assert context.attempt == 1


def test_a_dark_deadline_is_only_told(seawall_time: VirtualClock) -> None:
    """Before deadlines are enforced between services, one wants to know what they would have done."""
    with capture_events("deadline.") as events, sw.incoming({"Seawall-Remaining-Ms": "50"}, dark=True):
        assert sw.remaining() == pytest.approx(60)
    assert [(event.kind, event.data["remaining"]) for event in events] == [("deadline.dark", 0.05)]
