"""The manifests of docs/operations/kubernetes.md: valid by the API's own schemas, and true to what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from seawall.health import Health
from seawall.health.asgi import PATHS
from seawall.health.drain import RESERVE

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "operations" / "kubernetes.md"
LONGEST_DRAIN = 5.5 + 20 + RESERVE  # as the page's own snippet computes it


def manifests() -> list[dict[str, Any]]:
    text = PAGE.read_text()
    return [each for block in re.findall(r"```yaml\n(.*?)```", text, re.S) for each in yaml.safe_load_all(block)]


ALL = manifests()
NAMES = [f"{each['kind']}-{each['metadata']['name']}" for each in ALL]


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each pod of the page: name, spec, its only container."""
    for each in ALL:
        spec = (
            each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"] if each["kind"] == "Deployment" else None
        )
        if spec is not None:
            yield each["metadata"]["name"], spec, spec["containers"][0]


@pytest.mark.parametrize("manifest", ALL, ids=NAMES)
def test_every_manifest_is_valid_by_the_schemas_of_the_api(manifest: dict[str, Any]) -> None:
    """A manifest that is copied and refused, or whose misspelt field is dropped in silence, is worse than none."""
    for version in ("1.30", kubernetes_validate.latest_version()):  # 1.30 is the first in which preStop may sleep
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_notice_a_misspelt_field() -> None:
    """A validator that accepts anything proves nothing."""
    broken = yaml.safe_load(yaml.safe_dump(ALL[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_probes_ask_for_what_is_answered_on_ports_that_exist() -> None:
    """A liveness probe that asks /readyz restarts the fleet in the next outage of a database."""
    wanted = {"startupProbe": "startup", "livenessProbe": "live", "readinessProbe": "ready"}
    seen = 0
    for name, _, container in pods():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe, group in wanted.items():
            asked = container.get(probe)
            if asked is None:
                continue
            seen += 1
            if "grpc" in asked:
                assert asked["grpc"]["service"] == group
                assert asked["grpc"]["port"] in ports.values()
            else:
                assert PATHS[asked["httpGet"]["path"]] == group, name
                assert asked["httpGet"]["port"] in ports
    assert seen >= 7


def test_liveness_waits_longer_than_the_lag_that_it_looks_for() -> None:
    """A pod must be restarted for a stuck loop, not for one long collection of garbage."""
    for _, _, container in pods():
        probe = container["livenessProbe"]
        assert probe["periodSeconds"] * probe.get("failureThreshold", 3) >= Health().max_lag


def test_the_grace_holds_the_whole_drain() -> None:
    """The kubelet kills at its end, in the middle of somebody's request; preStop counts as well."""
    for name, spec, container in pods():
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = before + 20 + RESERVE if before else LONGEST_DRAIN
        assert spec["terminationGracePeriodSeconds"] >= needed, name
    Health().drain(delay=0, timeout=20, grace=24)
    with pytest.raises(ValueError, match="grace"):
        Health().drain(delay=10, timeout=20, grace=30)


def test_every_pod_has_requests_and_limits_and_equal_memory() -> None:
    """A pod without limits is a bulkhead without a wall."""
    for name, _, container in pods():
        resources = container["resources"]
        assert set(resources) == {"requests", "limits"}, name
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_selectors_find_the_pods_and_roles_their_account() -> None:
    """A service that selects nothing is valid, and silent."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for each in ALL:
        by_kind.setdefault(each["kind"], []).append(each)
    labels = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in by_kind["Deployment"]}
    ports = {name: {port["name"] for port in container["ports"]} for name, _, container in pods()}
    for service in by_kind["Service"]:
        selector = service["spec"]["selector"]
        found = [name for name, carried in labels.items() if selector.items() <= carried.items()]
        assert found == ["orders"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports["orders"]
    headless = next(service for service in by_kind["Service"] if service["metadata"]["name"] == "orders-peers")
    assert headless["spec"]["clusterIP"] == "None", "the text None, which YAML does not read as nothing"
    for each in by_kind["Deployment"]:
        assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
    binding, role, account = by_kind["RoleBinding"][0], by_kind["Role"][0], by_kind["ServiceAccount"][0]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"] == "orders"
    assert role["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}
    ]
