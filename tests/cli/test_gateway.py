"""`seawall gateway`: what it prints, and how it says no."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[[list[str]], int]
GOOD = 'registry = "static:services.toml"\n[listeners.web]\nport = 8080\n[services.stock]\n[[routes]]\nto = "stock"\n'


def test_render_prints_what_envoy_would_be_told(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever changes a file wants to see what becomes of it before traffic does."""
    (tmp_path / "services.toml").write_text("[[services.stock]]\nport = 9001\n")
    (tmp_path / "gateway.toml").write_text(GOOD)
    assert command(["gateway", "render", str(tmp_path / "gateway.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    endpoint = told["endpoints"][0]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9001}


def test_render_shows_global_limits_and_where_they_are_asked(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that is asked of a server which is told nowhere would be open in silence."""
    (tmp_path / "services.toml").write_text("[[services.stock]]\nport = 9001\n")
    limits = 'limits = ["user"]\n[rate_limits]\noutage = "closed"\nport = 18001\n'
    limits += '[rate_limits.limits.user]\nlimit = "3/h"\nby = "address"\n'
    (tmp_path / "gateway.toml").write_text(GOOD + limits)
    assert command(["gateway", "render", str(tmp_path / "gateway.toml")]) == 0
    told = json.loads(capsys.readouterr().out)
    cluster = next(each for each in told["clusters"] if each["name"] == "seawall-rate-limits")
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18001}
    manager = told["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    asks = manager["http_filters"][0]["typed_config"]
    assert asks["failure_mode_deny"] is True
    assert asks["rate_limit_service"]["grpc_service"]["envoy_grpc"]["cluster_name"] == cluster["name"]
    route = told["routes"][0]["virtual_hosts"][0]["routes"][0]["route"]
    limit = {"generic_key": {"descriptor_key": "limit", "descriptor_value": "user"}}
    assert route["rate_limits"] == [{"actions": [limit, {"remote_address": {}}]}]


def test_a_bad_file_is_told_with_its_line_and_status_2(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts read the status, people the line."""
    (tmp_path / "gateway.toml").write_text(GOOD.replace("8080", "0"))
    for words in (["gateway"], ["gateway", "render"]):
        assert command([*words, str(tmp_path / "gateway.toml")]) == 2
        assert "gateway.toml:3: " in capsys.readouterr().err


def test_status_of_a_folder_without_a_gateway_is_refused(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped folder must not look like a gateway that is well."""
    assert command(["gateway", "status", str(tmp_path)]) == 2
    assert "no folder of a running gateway" in capsys.readouterr().err
