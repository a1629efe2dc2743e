"""ADS for Envoys on other machines: over TLS, for those alone who show a certificate that we know."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.gateway.kit import backend, certificates, free_port, load, services_file, until
from tests.gateway.test_real_envoy import get

from seawall.cli import main as command
from seawall.core.errors import ConfigError
from seawall.core.events import Event
from seawall.gateway import Gateway, GatewayConfig, over_grpc
from seawall.gateway.access_log import FLAGS
from seawall.gateway.envoy import Envoy, binary
from seawall.gateway.over_grpc import Certificates, discovery_pb2
from seawall.gateway.tls import Tls

pytestmark = [
    pytest.mark.xdist_group("envoy"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl"),
]
BASE = 'registry = "static:services.toml?poll=50ms"\n[listeners.web]\nport = {port}\n[services.stock]\n[[routes]]\nto = "stock"\n'
XDS = (
    '[envoy]\ncontrol = "ads"\nxds_address = "0.0.0.0"\nxds_port = {xds}\n'
    'xds_tls = {{ cert = "gateway.pem", key = "gateway.key", ca = "ca.pem" }}\n'
    'xds_client = {{ cert = "envoy.pem", key = "envoy.key", ca = "ca.pem", name = "localhost" }}\n'
)
LIMITED = 'limits = ["user"]\n[rate_limits]\ntimeout = "2s"\n[rate_limits.limits.user]\nlimit = "2/h"\nby = "header:x-user"\n'


def write(folder: Path, port: int, xds: int, more: str = "") -> Path:
    certificates(folder, "gateway", "envoy")
    path = folder / "gateway.toml"
    path.write_text(BASE.format(port=port) + more + XDS.format(xds=xds))
    return path


async def _is(value: bool) -> bool:
    return value


async def test_a_real_envoy_follows_over_tls_and_asks_global_limits_there(tmp_path: Path) -> None:
    """An Envoy on another machine gets everything, also the answers to its limits, by the one way that it was given."""
    port = free_port()
    async with backend("old") as old, backend("new") as new:
        services_file(tmp_path / "services.toml", "stock", old.port)
        path = write(tmp_path, port, free_port(), LIMITED)
        async with Gateway(path):
            assert [(await get(port, headers={"x-user": "ann"}))[0] for _ in range(3)] == [200, 200, 429]
            async with load(f"http://127.0.0.1:{port}/") as asking:  # without x-user nobody counts
                await until(lambda: _is(asking.seen["old"] > 20))
                services_file(tmp_path / "services.toml", "stock", new.port)
                await until(lambda: _is(asking.seen["new"] > 20))
            assert not asking.failed, asking.failed


async def test_an_envoy_elsewhere_starts_from_the_printed_bootstrap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever runs a fleet needs a file for each machine, and no knowledge of how ours asks."""
    port, xds = free_port(), free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = write(tmp_path, port, xds)
        assert command(["gateway", "bootstrap", str(path), "localhost", "--node", "edge-7"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["node"]["id"] == "edge-7"
        async with Gateway(path):
            folder = tmp_path / "elsewhere"
            folder.mkdir()
            other = Envoy(binary(), told, folder, drain=1.0, workers=1, tell=lambda *_, **__: None, file_bytes=1 << 26)
            await other.start()
            try:
                found = await other.admin.stats("membership_healthy$")
                assert found["cluster.stock.membership_healthy"] == 1
            finally:
                await other.stop()


async def test_an_envoy_elsewhere_tells_its_requests_over_the_same_way(tmp_path: Path) -> None:
    """A file on each machine of a fleet is read by nobody; and Envoy refuses a listener whose log has no folder there."""
    port = free_port()
    events: list[Event] = []
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        more = (
            'pipeline = "stock"\n[access_log]\n[pipelines.stock]\n'
            'policies = [{ retry = { attempts = 3, backoff = { base = "10ms" } } }]\n'
        )
        async with Gateway(write(tmp_path, port, free_port(), more), folder=tmp_path / "envoy") as gateway:
            gateway.subscribe(lambda event: events.append(event) if event.kind == "gateway.request" else None)
            one.statuses, one.takes = [503], 0.05
            assert (await get(port))[0] == 200
            one.statuses = [503] * 3
            assert (await get(port))[0] == 503
            await until(lambda: _is(len(events) == 2))
            assert not (tmp_path / "envoy" / "access.log").exists()
    told = {**events[0].data}
    assert told == {
        "node": "seawall-gateway",
        "listener": "web",
        "route": "route-0",
        "method": "GET",
        "status": 200,
        "flags": (),
        "service": "stock",
        "upstream": f"127.0.0.1:{one.port}",
        "retries": 1,
    }
    assert events[0].took is not None
    assert 0.1 <= events[0].took < 5
    assert (events[1].data["status"], events[1].data["flags"], events[1].data["retries"]) == (503, ("URX",), 2)


def test_every_flag_of_the_log_has_its_short_name() -> None:
    """A flag that only one of the two logs knows would make the same failure look like two."""
    flags = importlib.import_module("envoy.data.accesslog.v3.accesslog_pb2").ResponseFlags.DESCRIPTOR.fields
    assert {field.name for field in flags} == FLAGS.keys()


def test_a_bootstrap_without_tls_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot lead an Envoy anywhere is better not printed."""
    path = tmp_path / "gateway.toml"
    path.write_text(BASE.format(port=8080) + '[envoy]\ncontrol = "ads"\n')
    assert command(["gateway", "bootstrap", str(path), "localhost"]) == 2
    assert "needs control = 'ads', an xds_port" in capsys.readouterr().err


async def ask(port: int, credentials: Any) -> Any:
    """What the first answer of ADS is, to whom shows these credentials."""
    place = f"localhost:{port}"
    channel = grpc.aio.insecure_channel(place) if credentials is None else grpc.aio.secure_channel(place, credentials)
    async with channel:
        call = channel.stream_stream(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()
        async with asyncio.timeout(10):
            await call.write(
                discovery_pb2.DiscoveryRequest(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"),
            )
            return await call.read()


async def test_who_shows_no_certificate_of_ours_learns_nothing(tmp_path: Path) -> None:
    """Whoever may ask ADS knows every address and every certificate path of the fleet."""
    port, xds = free_port(), free_port()
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        path = write(tmp_path, port, xds)
        certificates(tmp_path, "stranger", authority="others")
        ca = (tmp_path / "ca.pem").read_bytes()

        def shown(name: str) -> Any:
            key, cert = ((tmp_path / f"{name}.{part}").read_bytes() for part in ("key", "pem"))
            return grpc.ssl_channel_credentials(ca, key, cert)

        async with Gateway(path):
            assert (await ask(xds, shown("envoy"))).resources
            for credentials in (None, grpc.ssl_channel_credentials(ca), shown("stranger")):
                with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)) as caught:
                    await ask(xds, credentials)
                assert "UNAVAILABLE" in str(caught.value) or isinstance(caught.value, asyncio.InvalidStateError)
            # a certificate of the other authority is taken as soon as the file names that authority too
            (tmp_path / "ca.pem").write_bytes(ca + (tmp_path / "others.pem").read_bytes())
            assert (await ask(xds, shown("stranger"))).resources


async def test_an_envoy_that_is_gone_without_a_word_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lost its power closes nothing; each would be a stream and a set of sent resources for ever."""
    sooner = {"grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    monkeypatch.setattr(over_grpc, "OPTIONS", tuple((name, sooner.get(name, value)) for name, value in over_grpc.OPTIONS))
    async with backend("one") as one:
        services_file(tmp_path / "services.toml", "stock", one.port)
        async with Gateway(write(tmp_path, free_port(), free_port())) as gateway:
            assert gateway.envoy is not None
            assert gateway.envoy.pid is not None
            await until(lambda: _is(len(gateway.ads._streams) == 1))
            await asyncio.sleep(1.5)
            assert len(gateway.ads._streams) == 1  # one that answers stays
            os.kill(gateway.envoy.pid, signal.SIGSTOP)
            await until(lambda: _is(not gateway.ads._streams), 30)
            os.kill(gateway.envoy.pid, signal.SIGCONT)
            await until(lambda: _is(len(gateway.ads._streams) == 1), 40)


def test_certificates_that_are_being_changed_are_not_taken_half(tmp_path: Path) -> None:
    """Between the writing of a key and of its certificate a handshake must find the two of before."""
    certificates(tmp_path, "gateway", "later")
    tls = Tls(*(str(tmp_path / name) for name in ("gateway.pem", "gateway.key", "ca.pem")))
    held = Certificates(tls)
    assert held.newer() is None
    shutil.copy(tmp_path / "later.key", tmp_path / "gateway.key")
    assert held.newer() is None
    shutil.copy(tmp_path / "later.pem", tmp_path / "gateway.pem")
    assert held.newer() is not None
    assert held.newer() is None
    (tmp_path / "gateway.pem").unlink()
    assert held.newer() is None


SERVER = 'xds_tls = { cert = "gateway.pem", key = "gateway.key", ca = "ca.pem" }\n'
CLIENT = 'xds_client = { cert = "envoy.pem", key = "envoy.key", ca = "ca.pem", name = "localhost" }\n'


@pytest.mark.parametrize(
    ("envoy", "told"),
    [
        (
            'xds_address = "0.0.0.0"\n',
            r"gateway\.toml:9: envoy: xds_address: 0\.0\.0\.0 can be reached from other machines.*xds_tls",
        ),
        (
            'xds_address = "0.0.0.0"\nxds_tls = { cert = "gateway.pem", key = "gateway.key" }\n' + CLIENT,
            r"gateway\.toml:10: envoy\.xds_tls must say ca",
        ),
        (SERVER, r"gateway\.toml:9: envoy must say \[envoy\.xds_client: what Envoy shows"),
        (CLIENT, r"gateway\.toml:9: envoy must say \[envoy\.xds_tls: what the gateway shows"),
        (SERVER + CLIENT.replace(', name = "localhost"', ""), r"gateway\.toml:10: envoy\.xds_client must say name: whom"),
        (SERVER + 'xds_client = { ca = "ca.pem", name = "x" }\n', r"gateway\.toml:10: envoy\.xds_client must say cert and key"),
        (
            SERVER.replace("gateway.key", "envoy.key") + CLIENT,
            r"gateway\.toml:9: envoy\.xds_tls: key: .*envoy\.key does not hold",
        ),
        (
            SERVER.replace('ca = "ca.pem"', 'ca = "san.txt"') + CLIENT,
            r"gateway\.toml:9: envoy\.xds_tls: ca: .*certificates in PEM",
        ),
        ('xds_address = "gateway.example"\n', r"gateway\.toml:9: .*does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_what_would_leave_ads_open_or_useless_is_refused_at_its_line(tmp_path: Path, envoy: str, told: str) -> None:
    """An open control plane is found by strangers long before it is found by its owner."""
    certificates(tmp_path, "gateway", "envoy")
    path = tmp_path / "gateway.toml"
    path.write_text(f'{BASE.format(port=8080)}[envoy]\ncontrol = "ads"\n{envoy}')
    with pytest.raises(ConfigError, match=told):
        GatewayConfig.read(path)
    path.write_text(f'{BASE.format(port=8080)}[rate_limits]\nport = 1\n[envoy]\ncontrol = "ads"\n{SERVER}{CLIENT}')
    with pytest.raises(ConfigError, match=r"gateway\.toml:8: rate_limits: port means nothing beside xds_tls"):
        GatewayConfig.read(path)
    path.write_text(f'{BASE.format(port=8080)}[envoy]\n\nxds_address = "127.0.0.2"\n')
    with pytest.raises(ConfigError, match=r"gateway\.toml:9: envoy: xds_address means nothing without control = 'ads'"):
        GatewayConfig.read(path)
