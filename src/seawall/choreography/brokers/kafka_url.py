"""What a Kafka URL says: servers, TLS and a login, as the settings that librdkafka wants."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from seawall.choreography.errors import ChoreographyError

MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
FILES: Final = {"ca": "ssl.ca.location", "cert": "ssl.certificate.location", "key": "ssl.key.location"}
LIKE: Final = '"kafka://127.0.0.1:9092,127.0.0.1:9093" or "kafkas://user:password@host:9093?ca=/path/ca.pem"'


def read(url: str) -> dict[str, Any]:
    """The settings of a URL. kafkas:// is TLS. user:password@ before the first server is a login, by SCRAM-SHA-512, with TLS by
    PLAIN, or by `?mechanism=`. `?ca=`, `cert=` and `key=` are files in PEM, with TLS. Raises ChoreographyError, without the
    password."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("kafka", "kafkas"):
        raise ChoreographyError(f"broker must read like {LIKE}; got {scheme!r} as its scheme")
    places, _, query = rest.partition("?")
    login, _, servers = places.rpartition("@")
    secure, named = scheme == "kafkas", dict(parse_qsl(query, keep_blank_values=True))
    settings: dict[str, Any] = {"bootstrap.servers": _servers(servers.removesuffix("/"))}
    if login or secure:
        settings["security.protocol"] = f"{'SASL_' if login else ''}{'SSL' if secure else 'PLAINTEXT'}"
    if login:
        settings |= _login(login, named.pop("mechanism", "PLAIN" if secure else "SCRAM-SHA-512"))
    known = FILES if secure else {}
    for name, value in named.items():
        if name not in known or not value:
            offered = ", ".join([*(("mechanism",) if login else ()), *known]) or "none without TLS or a login"
            raise ChoreographyError(f"the broker's options are {offered}; got {name!r}")
        settings[known[name]] = value
    return settings


def _login(login: str, mechanism: str) -> dict[str, Any]:
    user, colon, password = login.partition(":")
    if not (user and colon and password):
        raise ChoreographyError(f"broker must read like {LIKE}; a login needs user:password@")
    if mechanism not in MECHANISMS:
        raise ChoreographyError(f"mechanism must be one of {', '.join(MECHANISMS)}; got {mechanism!r}")
    return {"sasl.mechanism": mechanism, "sasl.username": unquote(user), "sasl.password": unquote(password)}


def _servers(text: str) -> str:
    for server in text.split(","):
        try:
            parts = urlsplit(f"//{server}")
            good = bool(parts.hostname) and bool(parts.port) and not set(server) & set("/?#@") and server == server.strip()
        except ValueError:
            good = False
        if not good:
            got = server.rpartition("@")[2]  # what stands before it may be a secret
            raise ChoreographyError(f"broker must read like {LIKE}; got {got!r} as a server")
    return text
