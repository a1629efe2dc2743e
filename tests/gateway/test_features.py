"""Everything that a route and a service can say, accepted by a real Envoy and seen from outside."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from tests.gateway.kit import backend, free_port, until

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
