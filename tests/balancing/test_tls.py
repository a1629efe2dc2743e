"""Instances behind certificates: registries know addresses, certificates know names."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.balancing.servers import Backend, ListedWatch

import seawall as sw
from seawall.balancing import ServiceClient, SyncServiceClient

NAME = "stock.internal"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """An instance with a certificate for a name, not for its address. Skips where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    words = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={NAME}".split()
    words += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    one = Backend("safe", certificate=(f"{folder}/cert.pem", f"{folder}/key.pem"))
    one.start()
    yield one
    one.stop()


def trusting(backend: Backend) -> ssl.SSLContext:
    assert backend.certificate is not None
    return ssl.create_default_context(cafile=str(Path(backend.certificate[0])))


@pytest.mark.parametrize("transport", ["httpx2", "httpx", "aiohttp"])
def test_the_name_is_checked_where_the_registry_knows_an_address(backend: Backend, transport: str) -> None:
    """Whoever takes over an address must not take over the service: the certificate is checked against the name."""
    watch = ListedWatch(backend.instance)

    async def scenario() -> None:
        more = {"transport": transport, "tls": trusting(backend), "pipeline": sw.Pipeline(name="stock")}
        async with ServiceClient("stock", watch, server_name=NAME, **more) as client:  # type: ignore[arg-type]
            assert (await client.get("/x")).json() == {"from": "safe"}
        async with ServiceClient("stock", watch, **more) as client:  # type: ignore[arg-type]
            with pytest.raises(Exception, match=r"(?i)certificate"):
                await client.get("/x")

    backend.seen.clear()
    asyncio.run(scenario())
    assert [one["headers"]["host"] for one in backend.seen] == [NAME]


def test_threads_check_the_name_too(backend: Backend) -> None:
    """As for tasks."""
    watch = ListedWatch(backend.instance)
    pipeline = sw.Pipeline(name="stock")
    with SyncServiceClient("stock", watch, server_name=NAME, tls=trusting(backend), pipeline=pipeline) as client:  # type: ignore[arg-type]
        assert client.get("/x").json() == {"from": "safe"}
    with SyncServiceClient("stock", watch, server_name=NAME, pipeline=pipeline) as client:  # type: ignore[arg-type]
        with pytest.raises(Exception, match=r"(?i)certificate"):
            client.get("/x")
