"""The pure parts: which addresses pass, when the brake holds, what a record and a URL say."""

from __future__ import annotations

import ipaddress
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.discovery import AddressRules, Brake, Instance, RegistryError
from seawall.discovery.brake import BrakeState
from seawall.discovery.instance import LEAVING
from seawall.discovery.place import read_place
from seawall.discovery.records import LARGEST_BYTES, as_record, decode, encode

STRICT = AddressRules()

# --- addresses


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.8.8.8", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "::1", "::ffff:127.0.0.1", "localhost",
        "LOCALHOST.", "a.localhost", "169.254.169.254", "2852039166", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200", "metadata.google.internal", "0.0.0.0", "::",
        "224.0.0.1", "ff02::1", "255.255.255.255",
    ],
)  # fmt: skip
def test_addresses_that_lead_home_or_to_credentials_are_refused(host: str) -> None:
    """Every spelling that a resolver takes must be read as it reads it."""
    assert STRICT.refusal(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1", "payments", "a.b.example.com"])
def test_addresses_of_networks_pass(host: str) -> None:
    """An allow-list that stops private networks stops everybody."""
    assert STRICT.refusal(host) is None


def test_each_rule_can_be_lifted_and_some_addresses_never_pass() -> None:
    """Tests on one machine and node-local agents are legitimate; a wildcard address never is."""
    loose = AddressRules(allow_loopback=True, allow_link_local=True)
    for host in ("127.0.0.1", "localhost", "169.254.169.254", "fe80::1", "metadata.google.internal"):
        assert loose.refusal(host) is None
    assert loose.refusal("0.0.0.0")
    assert loose.refusal("ff02::1")


@given(st.one_of(st.integers(0x7F000000, 0x7FFFFFFF), st.integers(0xA9FE0000, 0xA9FEFFFF)), st.integers(0, 5))
def test_no_spelling_of_a_forbidden_address_passes(number: int, spelling: int) -> None:
    """A filter that knows one spelling is a filter for honest people only."""
    plain = str(ipaddress.IPv4Address(number))
    a, b, c, d = map(int, plain.split("."))
    spellings = (plain, str(number), hex(number), f"{a}.{b}.{c * 256 + d}", f"0{a:o}.{b}.{c}.{d}", f"::ffff:{plain}")
    assert STRICT.refusal(spellings[spelling])


# --- the brake

fleets = st.sets(st.integers(1, 12), max_size=12).map(lambda ports: tuple(Instance("a", port=port) for port in sorted(ports)))


@given(st.lists(st.tuples(st.floats(0, 20), fleets), min_size=1, max_size=12), st.floats(0.05, 1))
def test_the_brake_holds_only_whom_the_registry_dropped_and_never_beyond_its_time(
    story: list[tuple[float, tuple[Instance, ...]]], share: float
) -> None:
    """Whatever a registry tells, the list is what it names plus some that it named before."""
    brake, state, now = Brake(share=share, hold=10, empty_hold=50), BrakeState(), 0.0
    before: tuple[Instance, ...] = ()
    named: dict[str, float] = {}
    for pause, told in story:
        now += pause
        state.expire(now)
        state.heed(brake, now, before, told)
        names = {one.id for one in told}
        assert not names & state.held.keys()
        assert state.held.keys() <= named.keys()
        if before and not told:
            assert {one.id for one in before} <= state.held.keys()
        for id, each in state.held.items():
            assert each.until <= now + (50 if not told else 10)
            assert each.until <= named[id] + pause + 50 + 240
        named |= dict.fromkeys(names, now)
        before = told
    assert state.expire(now + 51) is not None
    assert not state.held


@given(fleets)
def test_the_brake_believes_those_who_said_goodbye(fleet: tuple[Instance, ...]) -> None:
    """An orderly shutdown of everything is not an error of the registry."""
    state = BrakeState()
    leaving = tuple(one.with_state("draining" if one.port % 2 else "down") for one in fleet)
    state.heed(Brake(), 0, fleet, leaving)
    assert state.heed(Brake(), 1, leaving, ()) == ()
    assert {one.state for one in leaving} <= LEAVING


def test_the_brake_counts_those_who_go_one_by_one_in_a_short_time() -> None:
    """Leases end one after the other when a registry loses them all: each word alone looks harmless."""
    fleet = tuple(Instance("a", port=port) for port in range(1, 6))
    state, brake = BrakeState(), Brake()
    held = [state.heed(brake, at, fleet[at:], fleet[at + 1 :]) for at in range(4)]
    assert [len(each) for each in held] == [0, 0, 1, 1]
    slow = BrakeState()
    assert [slow.heed(brake, at * 11, fleet[at:], fleet[at + 1 :]) for at in range(4)] == [()] * 4


def test_the_brake_forgets_at_its_moments_and_not_before() -> None:
    """A bound that is off by one heartbeat keeps dead instances, or drops live ones, once in a while and never in a test."""
    brake, fleet = Brake(hold="10s", empty_hold="1min"), tuple(Instance("a", port=port) for port in range(1, 6))  # type: ignore[arg-type]
    assert (brake.hold, brake.empty_hold) == (10.0, 60.0)
    doubting = BrakeState()
    doubting.doubt(10.0)
    assert doubting.heed(brake, 9.9, fleet, fleet[1:]) == ("127.0.0.1:1",)
    assert doubting.heed(brake, 10.0, fleet[1:], fleet[2:]) == ()
    recent, later = BrakeState(), BrakeState()
    for state, pause, held in ((recent, 9.9, 1), (later, 10.0, 0)):
        state.heed(brake, 0.0, fleet, fleet[2:])
        assert len(state.heed(brake, pause, fleet[2:], fleet[3:])) == held


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [({"share": 0}, "share"), ({"share": 1.1}, "share"), ({"hold": -1}, "hold"), ({"probe_every": 0}, "probe_every")],
)
def test_a_brake_that_cannot_be_meant_is_refused(wrong: dict[str, float], complaint: str) -> None:
    """A share of 0 would doubt every goodbye for ever."""
    with pytest.raises(ValueError, match=complaint):
        Brake(**wrong)


# --- records

words = st.text(string.ascii_letters + string.digits + " äß-", max_size=20)
instances = st.builds(
    Instance,
    st.sampled_from(["payments", "a.b-c_d"]),
    port=st.integers(1, 65535),
    host=st.sampled_from(["10.0.0.1", "::1", "a.example.com"]),
    zone=st.none() | words,
    weight=st.floats(0, 1e6),
    version=st.none() | words,
    tags=st.lists(words, max_size=4).map(tuple),
    metadata=st.dictionaries(words, words, max_size=4),
    state=st.sampled_from(["starting", "ready", "draining", "down"]),
)


@given(instances)
def test_a_record_reads_back_as_it_was_written(instance: Instance) -> None:
    """What one process writes, every other one must read the same."""
    assert decode(encode(instance), service=instance.service) == instance
    assert json.loads(encode(instance)) == as_record(instance)
    assert hash(instance) == hash(decode(encode(instance)))


@given(
    st.dictionaries(
        st.sampled_from(list(as_record(Instance("a", port=1)))),
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.integers())),
    )
)
def test_a_record_of_anything_is_an_instance_or_an_error_of_ours(record: dict[str, object]) -> None:
    """Whoever writes garbage into a registry must not crash those who read it."""
    try:
        assert isinstance(decode(json.dumps(record)), Instance)
    except RegistryError:
        return


LARGE = "x" * (LARGEST_BYTES + 1)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "[" * 100_000, '{"service":"a","port":1,"weight":NaN}', LARGE])
def test_records_that_are_none_are_refused(text: str) -> None:
    """Deep, large and broken ones included."""
    with pytest.raises(RegistryError):
        decode(text)
    with pytest.raises(RegistryError, match="lies under"):
        decode(encode(Instance("a", port=1)), service="b")


# --- URLs


def test_urls_are_read_and_secrets_are_not_shown() -> None:
    """Names of registries stand in logs and events."""
    place = read_place("etcd://root:s%3Acret@h1:2379,[::1]:99/x?prefix=/p&tls=yes")
    assert (place.hosts, place.path, place.user, place.password) == ((("h1", 2379), ("::1", 99)), "/x", "root", "s:cret")
    assert place.flag("tls")
    assert "cret" not in place.name + repr(place)
    assert read_place("sqlite:///a.db").path == "a.db"
    assert read_place("sqlite:////a.db").path == "/a.db"
    assert read_place("static:a/b.toml").path == "a/b.toml"
    assert read_place("kubernetes://").hosts == ()
    with pytest.raises(ValueError, match=r"etcd://\.\.\.@h") as told:
        read_place("etcd:root:secret@h")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("etcd://h:99999", "host:port"),
        ("etcd://:1", "host:port"),
        ("etcd://h?tls", "bad query field"),
        ("etcd://h?tls=perhaps", "tls must be true or false"),
        ("consul://h?wait=0", "wait must be"),
        ("dns://h/z?default_port=0", "default_port must be"),
        ("sqlite:///a?poll=nothing", "poll must be"),
    ],
)
def test_urls_that_cannot_be_meant_are_refused(url: str, complaint: str) -> None:
    """A registry that opens on a typo fails at night."""
    from seawall.discovery import Registry

    with pytest.raises(ValueError, match=complaint):
        Registry.open(url).watch("a") and Registry.open(url)._here(object())
