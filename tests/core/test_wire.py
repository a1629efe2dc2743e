"""Deadlines, keys and attempts between services: as headers out, and bounded on their way in."""

from __future__ import annotations

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock, capture_events


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
    retries = [headers.pop("Seawall-Retry") for headers in seen]
    assert retries[0] == retries[1]
    assert retries[0].startswith('1;at="test_wire.py:')
    assert seen == [{"Idempotency-Key": "order-7"}, {"Idempotency-Key": "order-7", "Seawall-Attempt": "2"}]
    with sw.incoming({key.lower(): value for key, value in seen[1].items()}) as context:
        assert (context.attempt, sw.call_key()) == (2, "order-7")


@pytest.mark.parametrize("lie", ["-5", "1e9", "nan", "inf", "9" * 13, "9" * 500, "1\r\nX: y", "", "ten", "١٢"])
def test_a_lie_in_a_header_is_ignored_and_a_long_deadline_is_clamped(seawall_time: VirtualClock, lie: str) -> None:
    """A hostile caller may neither hold the server longer nor break it."""
    headers = {"Seawall-Remaining-Ms": lie, "Seawall-Attempt": lie, "Seawall-Priority": lie, "Seawall-Retry": lie}
    headers["Idempotency-Key"] = "\x00"
    with sw.incoming(headers, longest=10) as context:
        assert sw.remaining() == pytest.approx(10)
        assert (context.attempt, context.priority, context.key) == (1, "default", None)
        assert (context.depth, context.retry) == (0, None)
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


def test_a_retry_in_another_service_is_noticed_and_named(seawall_time: VirtualClock) -> None:
    """Three services of three attempts are 27 calls, and none of them sees the other two."""
    outer, told = sw.Retry(3), []
    outer.call(lambda: told.append(sw.outgoing_headers()))
    line = outer.made_at.rsplit(":", 1)[-1]
    assert told == [{"Seawall-Retry": f'1;at="test_wire.py:{line}"'}]

    warning, yielding, allowing = sw.Retry(3, budget=None), sw.Retry(3, nested="yield"), sw.Retry(2, nested="allow", budget=None)
    with sw.incoming(told[0]) as context, capture_events("retry.nested") as events:
        assert (context.depth, context.retry) == (1, f"test_wire.py:{line} in a calling service")
        with pytest.warns(sw.NestedRetryWarning, match=f"one made at test_wire.py:{line} in a calling service") as seen:
            assert warning.call(Script(ConnectionRefusedError(), 1)) == 1
        assert warning.call(Script(ConnectionRefusedError(), 1)) == 1
        assert len(seen) == 1
        assert warning.made_at in str(seen[0].message)
        for policy, attempts in ((yielding, 1), (allowing, 2)):
            script = Script(ConnectionRefusedError())
            with pytest.raises(ConnectionRefusedError):
                policy.call(script)
            assert len(script.calls) == attempts
    assert [event.data["outer"] for event in events] == [f"test_wire.py:{line} in a calling service"]


def test_retries_are_passed_on_by_services_in_between(seawall_time: VirtualClock) -> None:
    """The one that notices may be two services away; a Retry in between is the nearer one."""
    with sw.incoming({"seawall-retry": '2;at="client.py:7"'}):
        assert sw.outgoing_headers()["Seawall-Retry"] == '2;at="client.py:7"'
        near = sw.Retry(2, nested="allow")
        passed: list[str] = []
        near.call(lambda: passed.append(sw.outgoing_headers()["Seawall-Retry"]))
        assert passed == [f'3;at="test_wire.py:{near.made_at.rsplit(":", 1)[-1]}"']
    with sw.incoming({"Seawall-Retry": "1"}) as context:
        assert (context.depth, context.retry) == (1, "an unknown line in a calling service")
        assert sw.outgoing_headers()["Seawall-Retry"] == "1"


@pytest.mark.parametrize(
    "lie",
    ["0", "100", "1;at=x", '1;at=""', '1;at="a b"', '1;at="%s"' % ("x" * 81), '1;at="a";b=2', "-1", "1 ", '1;at="/etc/passwd"'],
)
def test_a_lie_about_retries_is_ignored(lie: str) -> None:
    """What is warned of, and logged, must not be what a stranger wrote."""
    with sw.incoming({"Seawall-Retry": lie}) as context:
        assert (context.depth, context.retry) == (0, None)
    with sw.incoming({"Seawall-Retry": "1"}, trusted=False) as context:
        assert (context.depth, context.retry) == (0, None)
