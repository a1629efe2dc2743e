"""Reading registry URLs: which system, where, and with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from seawall.core import units

FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
Token = str | Callable[[], str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """Where a registry is.

    scheme: "memory", "static", "sqlite", "etcd", "consul", "dns" or "kubernetes". hosts: (host, port or None) pairs.
    path: what follows the host. options: the query. user, password: from the URL; token: given beside it, a text or a
    function that is asked before each use.
    """

    scheme: str
    hosts: tuple[tuple[str, int | None], ...] = ()
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """How events and messages call it: without secrets and options."""
        hosts = ",".join(host if port is None else f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}:{'//' if hosts else ''}{hosts}{self.path}"

    def known(self, *names: str) -> None:
        """Raise ValueError for an option that this registry does not have."""
        for option in self.options:
            if option not in (*names, *COMMON):
                raise ValueError(f"{self.scheme}: has no option {option!r}; it has {', '.join(sorted((*names, *COMMON)))}")
        if "tls" in names:
            self.flag("tls")

    def text(self, name: str, default: str) -> str:
        """An option that is a text."""
        return self.options.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """An option that is true or false. Raises ValueError for another word."""
        word = self.options.get(name)
        if word is None:
            return default
        if word.lower() not in FLAGS:
            raise ValueError(f"{name} must be true or false; got {word!r}")
        return FLAGS[word.lower()]

    def seconds(self, name: str, default: float, *, least: float = 0.001) -> float:
        """An option that is a length of time: "2" or "250ms". Raises ValueError when it is below `least`."""
        word = self.options.get(name)
        if word is None:
            return default
        return units.seconds(name, float(word) if word.replace(".", "", 1).isdigit() else word, above=least)

    def secret(self) -> str | None:
        """The token as it is now: given, or read from the file that the option `token_file` names (it may be renewed)."""
        if self.token is not None:
            return self.token() if callable(self.token) else self.token
        path = self.options.get("token_file")
        return None if path is None else Path(path).read_text(encoding="utf-8").strip()


COMMON: Final = ("allow_loopback", "allow_link_local")
FILES: Final = ("static", "sqlite", "memory")


def read_place(url: str, *, token: Token | None = None) -> Place:
    """Read a registry URL: `memory:`, `static:services.toml`, `sqlite:///registry.db` (four slashes for an absolute path),
    `etcd://host:2379`, `consul://host:8500`, `dns://server/zone`, `kubernetes://namespace`.

    Raises TypeError for no text, ValueError for what is no such URL.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a text such as 'sqlite:///registry.db'; got {url!r}")
    scheme, colon, rest = url.partition(":")
    if not colon or not scheme.isalnum():
        raise ValueError(f"url must begin with a scheme, such as 'sqlite:///registry.db'; got {_shown(url)!r}")
    bare, _, query = rest.partition("?")
    options = MappingProxyType(dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))) if query else {}
    if scheme in FILES:
        path = bare.removeprefix("///") if bare.startswith("///") else bare
        if path.startswith("//"):
            raise ValueError(f"a path comes after three slashes, an absolute one after four; got {_shown(url)!r}")
        return Place(scheme=scheme, path=unquote(path), options=options)
    if bare and not bare.startswith("//"):
        raise ValueError(f"url must read like '{scheme}://host:port'; got {_shown(url)!r}")
    split = urlsplit(f"{scheme}:{bare}")
    user, _, hosts = split.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return Place(
        scheme=scheme,
        hosts=tuple(read_host(host) for host in hosts.split(",") if host),
        path=unquote(split.path),
        options=options,
        user=unquote(name) or None,
        password=unquote(password) or None,
        token=token,
    )


def read_host(text: str) -> tuple[str, int | None]:
    """Read "host" or "host:port". Raises ValueError for what is neither."""
    try:
        split = urlsplit(f"//{text}")
        host, port = split.hostname, split.port
    except ValueError as error:
        raise ValueError(f"url must hold hosts as host:port; got {text!r}") from error
    if not host:
        raise ValueError(f"url must hold hosts as host:port; got {text!r}")
    return host, port


def _shown(url: str) -> str:
    """A URL in a message, without what may be a password."""
    head, at, tail = url.rpartition("@")
    return f"{head.partition(':')[0]}://...@{tail}" if at else url[:200]
