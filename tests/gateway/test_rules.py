"""What a gateway.toml says, and what Envoy is told of it: pure, without Envoy."""

from __future__ import annotations

from pathlib import Path

import pytest

from seawall.core.errors import ConfigError
from seawall.discovery import Instance, Snapshot
from seawall.gateway import GatewayConfig
from seawall.gateway.endpoints import assignment, keeps
from seawall.gateway.resources import Resources, check, compute

BASE = 'registry = "memory:"\n[listeners.web]\nport = 8080\n[services.stock]\n[[routes]]\nto = "stock"\npipeline = "stock"\n'


def read(folder: Path, text: str) -> GatewayConfig:
    path = folder / "gateway.toml"
    path.write_text(text)
    return GatewayConfig.read(path)


def resources(config: GatewayConfig, **snapshots: Snapshot) -> Resources:
    return compute(config, snapshots, lambda _kind, _name: {"ads": {}})


@pytest.mark.parametrize(
    ("policies", "told"),
    [
        ('{ circuit_breaker = { open_for = "5s" } }', r"gateway\.toml:9: .*circuit_breaker has no equal in Envoy.*ejection"),
        ("{ hedge = {} }", r"gateway\.toml:9: .*hedge has no equal"),
        ('{ timeout = { seconds = "1s", read = "1s" } }', r"gateway\.toml:9: .*timeout: Envoy has no equal of read"),
        ("{ bulkhead = { limit = 3, wait = 1 } }", r"gateway\.toml:9: .*bulkhead: Envoy has no equal of wait"),
        ('{ rate_limiter = { spec = "3/s", algorithm = "sliding_log" } }', r"gateway\.toml:9: .*token buckets only"),
        ('{ retry = { on = ["ValueError"] } }', r"gateway\.toml:9: .*knows no exceptions of Python"),
    ],
)
def test_what_envoy_has_no_equal_of_is_refused_by_name_at_its_line(tmp_path: Path, policies: str, told: str) -> None:
    """A policy that is silently not there in front of a service is worse than one that cannot be written."""
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, f"{BASE}[pipelines.stock]\npolicies = [{policies}]\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE, r"gateway\.toml:7: pipeline: there is no \[pipelines\.stock\]"),
        (BASE.replace('to = "stock"', 'to = "stok"'), r"gateway\.toml:6: to: .*did you mean 'stock'"),
        (BASE.replace("port = 8080", "port = 99999"), r"gateway\.toml:3: .*port must be in \[1, 65535\]"),
        (BASE.replace("[services.stock]", "[services.stock]\nbalanc = 1"), r"gateway\.toml:5: .*did you mean 'balance'"),
        (BASE.replace('to = "stock"', "to = { stock = 0 }"), r"gateway\.toml:6: .*above 0"),
        ("[[routes]\n", r"gateway\.toml: it is no TOML"),
        (BASE.replace('"memory:"', '"static:x.toml?pol=1s"'), r"gateway\.toml:1: .*static: has no option 'pol'; it has .*poll"),
        (BASE.replace('"memory:"', '"static:x.toml?poll=abc"'), r"gateway\.toml:1: .*poll must be a positive"),
        (BASE.replace('"memory:"', '"nope://x"'), r"gateway\.toml:1: .*url must begin with one of memory:"),
        (
            BASE.replace("[services.stock]", '[services.stock]\nregistry = "etcd://h:99999"'),
            r"gateway\.toml:5: .*host:port; got 'h:99999'",
        ),
        (BASE + '[rate_limits]\nstore = "foo://x"\n', r"gateway\.toml:9: .*URL whose scheme is one of .*redis"),
        (BASE.replace('"memory:"', "3"), r"gateway\.toml:1: .*registry must be a printable text"),
    ],
)
def test_a_slip_in_the_file_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    """Whoever edits the file at night reads this message and nothing else."""
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, text)


def test_the_same_tables_give_a_pipeline_and_what_envoy_is_told(tmp_path: Path) -> None:
    """One file for both sides is the promise; every number of it must arrive in Envoy's terms."""
    policies = (
        '{ timeout = "8s" }, { rate_limiter = { spec = "10/s burst 4" } }, '
        "{ retry = { attempts = 4, budget = { ratio = 0.2 } } }, "
        '{ bulkhead = { limit = 7, queue = 5 } }, { timeout = { seconds = "2s", connect = "300ms" } }'
    )
    (tmp_path / "seawall.toml").write_text(f"[pipelines.stock]\npolicies = [{policies}]\n")
    told = resources(read(tmp_path, 'include = "seawall.toml"\n' + BASE))
    first, second = told.routes["web"]["virtual_hosts"][0]["routes"]
    assert first["route"]["timeout"] == "8.000000s"
    retries = first["route"]["retry_policy"]
    assert (retries["num_retries"], retries["per_try_timeout"]) == (3, "2.000000s")
    assert "gateway-error" in retries["retry_on"]
    assert "gateway-error" not in second["route"]["retry_policy"]["retry_on"]
    bucket = first["typed_per_filter_config"]["envoy.filters.http.local_ratelimit"]["token_bucket"]
    assert bucket == {"max_tokens": 4, "tokens_per_fill": 1, "fill_interval": "0.100000s"}
    cluster = told.clusters["stock|stock"]
    assert cluster["connect_timeout"] == "0.300000s"
    threshold = cluster["circuit_breakers"]["thresholds"][0]
    assert (threshold["max_requests"], threshold["max_pending_requests"]) == (7, 5)
    assert threshold["retry_budget"]["budget_percent"]["value"] == pytest.approx(20)
    assert threshold["retry_budget"]["min_retry_concurrency"] == 10


def test_states_are_carried_and_versions_follow_the_content(tmp_path: Path) -> None:
    """A draining instance that Envoy takes for a healthy one gets requests that nobody will answer."""
    config = read(tmp_path, BASE.replace('pipeline = "stock"\n', ""))
    one = Snapshot("stock", (Instance("stock", port=1), Instance("stock", port=2, state="draining")), 1, 0.0, "live")
    told = resources(config, stock=one)
    states = [each["health_status"] for each in told.endpoints["stock"]["endpoints"][0]["lb_endpoints"]]
    assert states == ["HEALTHY", "DRAINING"]
    assert told.version() == resources(config, stock=one).version()
    assert told.version("endpoints") != resources(config, stock=Snapshot("stock")).version("endpoints")
    assert told.version("routes") == resources(config, stock=Snapshot("stock")).version("routes")


def test_an_empty_list_is_believed_of_a_live_registry_only() -> None:
    """A registry that is away must not empty a service that serves."""
    full = Snapshot("stock", (Instance("stock", port=1),), 1, 0.0, "live")
    assert keeps(full, Snapshot("stock")) is full
    assert keeps(full, Snapshot("stock", (), 2, 0.0, "stale")) is full
    empty = Snapshot("stock", (), 2, 0.0, "live")
    assert keeps(full, empty) is empty


def test_what_does_not_fit_together_is_found_before_it_is_published() -> None:
    """Envoy would take a route to nowhere, and answer 503."""
    route = {"virtual_hosts": [{"routes": [{"route": {"cluster": "gone"}}]}]}
    told = Resources(
        routes={"web": route}, clusters={"a": {"eds_cluster_config": {"service_name": "b"}}}, listeners={"other": {}}
    )
    assert check(told) == [
        "routes web: there is no cluster 'gone'",
        "cluster a: there are no endpoints 'b'",
        "listener other has no routes",
    ]


def test_host_names_need_addresses() -> None:
    """Envoy's endpoints take IP addresses only; a name it cannot use would make it refuse the whole service."""
    one = Snapshot("stock", (Instance("stock", host="stock.example", port=1), Instance("stock", port=2)), 1, 0.0, "live")
    assert len(assignment("stock", one, {})["endpoints"][0]["lb_endpoints"]) == 1
    assert len(assignment("stock", one, {"stock.example": "192.0.2.1"})["endpoints"][0]["lb_endpoints"]) == 2
