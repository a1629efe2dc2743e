"""TLS of a door or of a way out: files that are read and tried before anybody depends on them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from seawall.gateway import tables
from seawall.gateway.tables import Table


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of one side's TLS. cert, key: who we are; ca: whom we trust; name: whom we expect, as SNI and in the certificate."""

    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    name: str | None = None

    def check(self) -> None:
        """Raise ValueError for files that hold no certificate, no key, or two that do not belong together."""
        for label, path in (("ca", self.ca), ("cert", self.cert)):
            if path is not None:
                _load(label, path, partial(ssl.SSLContext.load_verify_locations, cafile=path))
        cert, key = self.cert, self.key
        if cert is not None and key is not None:
            _load("key", key, lambda context: context.load_cert_chain(cert, key, password=lambda: b""))


def _load(label: str, path: str, step: Callable[[ssl.SSLContext], None]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        step(context)
    except ssl.SSLError as error:
        what = "the key of cert, without a passphrase" if label == "key" else "certificates in PEM"
        raise ValueError(f"{label}: {path} does not hold {what}: {error.reason or error}") from error
    except OSError as error:
        raise ValueError(f"{label}: {path} cannot be read: {error.strerror or error}") from error


def read_tls(table: Table | None, *, server: bool) -> Tls | None:
    """A `tls` table of a door (server) or of a way out. Raises ConfigError."""
    if table is None:
        return None
    file = tables.file_of(table.path.parent)
    cert, key, ca = (table.read(part, file, None) for part in ("cert", "key", "ca"))
    found = Tls(cert, key, ca, table.read("name", tables.text, None))
    table.done()
    if (found.cert is None) != (found.key is None) or (server and found.cert is None):
        raise table.error(f"{table.label} needs cert and key together", "cert" if found.cert else "key")
    if not server and found.ca is None:
        raise table.error(f"{table.label} must say ca: whose certificates are believed")
    try:
        found.check()
    except ValueError as error:
        raise table.error(f"{table.label}: {error}", str(error).partition(":")[0]) from error
    return found
