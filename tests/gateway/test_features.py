"""Everything that a route and a service can say, accepted by a real Envoy and seen from outside."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from tests.gateway.kit import backend, certificates, free_port, services_file, until

from seawall.gateway import Gateway

pytestmark = pytest.mark.xdist_group("envoy")


def services(path: Path, **ports: int) -> None:
    path.write_text("\n".join(f"[[services.{name}]]\nport = {port}" for name, port in ports.items()))


ROUTES = """
[services.one]
health_check = { path = "/health", every = "200ms" }
[services.two]
balance = "maglev"
[[routes]]
path = "/canary"
to = { one = 0, two = 100 }
[[routes]]
path = "/mirrored"
to = "one"
mirror = { two = 1.0 }
[[routes]]
path = "/broken"
to = "one"
fault = { abort = 1.0, status = 418, delay = "10ms", delayed = 1.0 }
[[routes]]
path = "/hashed"
to = "two"
hash = "x-user"
priority = "high"
rewrite = "/elsewhere"
[[routes]]
exact_path = "/limited"
to = "one"
pipeline = "limited"
[[routes]]
host = "two.example"
to = "two"
[[routes]]
headers = { x-beta = "1" }
to = "two"
[[routes]]
to = "one"
[pipelines.limited]
policies = [{ rate_limiter = { spec = "2/h" } }, { bulkhead = { limit = 5, queue = 5 } }]
"""


async def test_everything_that_a_route_can_say_is_seen_from_outside(tmp_path: Path) -> None:
    """A key of the file that Envoy quietly does not follow is worse than one that is not there."""
    port = free_port()
    async with backend("one") as one, backend("two") as two:
        services(tmp_path / "services.toml", one=one.port, two=two.port)
        path = tmp_path / "gateway.toml"
        path.write_text(f'registry = "static:services.toml"\n[listeners.web]\nport = {port}\n{ROUTES}')
        async with Gateway(path, folder=tmp_path / "envoy", access_log=True) as gateway, aiohttp.ClientSession() as session:

            async def ask(where: str, **headers: str) -> tuple[int, str]:
                async with session.get(f"http://127.0.0.1:{port}{where}", headers=headers) as answer:
                    return answer.status, await answer.text()

            assert await ask("/") == (200, "one")
            assert await ask("/", **{"x-beta": "1"}) == (200, "two")
            assert await ask("/", host="two.example") == (200, "two")
            assert await ask("/canary") == (200, "two")
            assert (await ask("/broken"))[0] == 418
            assert await ask("/hashed", **{"x-user": "ann"}) == (200, "two")
            assert [(await ask("/limited"))[0] for _ in range(3)] == [200, 200, 429]
            seen = two.seen
            assert await ask("/mirrored") == (200, "one")

            async def mirrored() -> bool:
                return two.seen == seen + 1

            await until(mirrored)
            assert gateway.envoy is not None
            assert await gateway.envoy.admin.rejections() == 0
            assert (await gateway.envoy.admin.stats("health_check.attempt"))["cluster.one.health_check.attempt"] > 0

        assert '"status":418' in (tmp_path / "envoy" / "access.log").read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
async def test_tls_at_the_door_and_a_wrong_name_behind_it(tmp_path: Path) -> None:
    """Plain text at a door that should be closed, or an upstream that is not who it says, must not pass."""
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext"
    more = ["subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "web.key", "-out", "web.pem"]
    subprocess.run([*words.split(), *more], cwd=tmp_path, check=True, capture_output=True)
    outer, inner = free_port(), free_port()
    tls = 'tls = { cert = "web.pem", key = "web.key" }'
    async with backend("one") as one:
        services(tmp_path / "services.toml", one=one.port, right=inner, wrong=inner)
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'registry = "static:services.toml"\n[listeners.outer]\nport = {outer}\n{tls}\n'
            f"[listeners.inner]\nport = {inner}\n{tls}\n"
            '[services.one]\n[services.right]\ntls = { ca = "web.pem", name = "localhost" }\n'
            '[services.wrong]\nejection = false\ntls = { ca = "web.pem", name = "other.example" }\n'
            '[[routes]]\nlistener = "inner"\nto = "one"\n[[routes]]\nlistener = "outer"\npath = "/right"\nto = "right"\n'
            '[[routes]]\nlistener = "outer"\npath = "/wrong"\nto = "wrong"\n'
        )
        trust = ssl.create_default_context(cafile=str(tmp_path / "web.pem"))
        async with Gateway(path), aiohttp.ClientSession() as session:
            async with session.get(f"https://127.0.0.1:{outer}/right", ssl=trust) as answer:
                assert (answer.status, await answer.text()) == (200, "one")
            async with session.get(f"https://127.0.0.1:{outer}/wrong", ssl=trust) as answer:
                assert answer.status == 503
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://127.0.0.1:{outer}/right")


async def test_ring_hash_keeps_a_user_with_an_instance_while_others_come_and_go(tmp_path: Path) -> None:
    """Who hashes has something warm on the other side; each user that is moved without need finds it cold."""
    port = free_port()
    async with backend("one") as one, backend("two") as two, backend("three") as three:
        there = {one.port: "one", two.port: "two", three.port: "three"}
        services_file(tmp_path / "services.toml", "stock", *there)
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'registry = "static:services.toml?poll=50ms"\n[listeners.web]\nport = {port}\n[services.stock]\n'
            'balance = "ring_hash"\n[[routes]]\nto = "stock"\nhash = "x-user"\n'
        )
        async with Gateway(path) as gateway, aiohttp.ClientSession() as session:

            async def ask(user: int) -> str:
                async with session.get(f"http://127.0.0.1:{port}/", headers={"x-user": str(user)}) as answer:
                    return await answer.text()

            first = [await ask(user) for user in range(60)]
            assert set(first) == {"one", "two", "three"}
            assert [await ask(user) for user in range(60)] == first
            services_file(tmp_path / "services.toml", "stock", one.port, two.port)

            async def two_left() -> bool:
                assert gateway.envoy is not None
                return (await gateway.envoy.admin.stats("cluster.stock.membership_total"))["cluster.stock.membership_total"] == 2

            await until(two_left, 40)
            second = [await ask(user) for user in range(60)]
        assert set(second) == {"one", "two"}
        stayed = [now == before for now, before in zip(second, first, strict=True) if before != "three"]
        assert sum(stayed) > len(stayed) / 2  # about seven of eight: Envoy gives those who are left more points on its ring


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
async def test_http2_is_spoken_on_both_sides_where_the_file_says(tmp_path: Path) -> None:
    """gRPC services take nothing else, and their callers ask for it in the handshake."""
    certificates(tmp_path, "web")
    outer, inner = free_port(), free_port()
    async with backend("one") as one:
        services(tmp_path / "services.toml", one=one.port, new=inner, old=inner)
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'registry = "static:services.toml"\n[listeners.outer]\nport = {outer}\n'
            'tls = { cert = "web.pem", key = "web.key" }\n'
            f"[listeners.inner]\nport = {inner}\n[services.one]\n[services.new]\nhttp2 = true\n[services.old]\n"
            '[[routes]]\nlistener = "inner"\nto = "one"\n[[routes]]\nlistener = "outer"\npath = "/new"\nto = "new"\n'
            '[[routes]]\nlistener = "outer"\nto = "old"\n'
        )
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        async with Gateway(path) as gateway, aiohttp.ClientSession() as session:
            assert gateway.envoy is not None
            for where, count in (("/", 0), ("/new", 1)):
                async with session.get(f"https://localhost:{outer}{where}", ssl=trust) as answer:
                    assert (answer.status, await answer.text()) == (200, "one")
                found = await gateway.envoy.admin.stats("downstream_cx_http2_total$")
                assert found["http.inner.downstream_cx_http2_total"] == count
            asked = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            asked.set_alpn_protocols(["h2"])
            _, writer = await asyncio.open_connection("localhost", outer, ssl=asked)
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            writer.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
async def test_a_door_with_an_authority_lets_in_only_its_certificates(tmp_path: Path) -> None:
    """Mutual TLS that lets somebody in without a certificate looks exactly like one that works."""
    certificates(tmp_path, "web", "caller")
    certificates(tmp_path, "stranger", authority="others")
    port = free_port()
    async with backend("one") as one:
        services(tmp_path / "services.toml", one=one.port)
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'registry = "static:services.toml"\n[listeners.web]\nport = {port}\n'
            'tls = { cert = "web.pem", key = "web.key", ca = "ca.pem" }\n[services.one]\n[[routes]]\nto = "one"\n'
        )

        async def ask(name: str | None) -> int:
            context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
            if name is not None:
                context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            async with aiohttp.ClientSession() as session, session.get(f"https://localhost:{port}/", ssl=context) as answer:
                return answer.status

        async with Gateway(path):
            assert await ask("caller") == 200
            for name in (None, "stranger"):
                with pytest.raises((aiohttp.ClientError, OSError)):
                    await ask(name)
        assert one.seen == 1
