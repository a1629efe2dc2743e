"""A limiter in a configuration file that counts in a store which processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

import seawall as sw
from seawall.testing.servers import RedisServer


def write(path: Path, limiter: str) -> None:
    """A file of one pipeline that holds nothing but this limiter."""
    path.write_text(f"[pipelines.stock]\npolicies = [{{ rate_limiter = {limiter} }}]\n")


def admitted(config: sw.Config, calls: int) -> int:
    """How many calls pass."""
    count = 0
    for _ in range(calls):
        try:
            config["stock"].call(int)
            count += 1
        except sw.RateLimited:
            continue
    return count


def test_two_processes_of_one_file_share_one_limit(valkey: RedisServer, unique: str, tmp_path: Path) -> None:
    """Whoever moves a limit to a store must not have to touch the code for it."""
    path = tmp_path / "seawall.toml"
    write(path, f'{{ spec = "1/h burst 6", name = "{unique}", store = "{valkey.url}", budget = "5s", observe = false }}')
    first, second = sw.load(path), sw.load(path)
    assert (admitted(first, 4), admitted(second, 4)) == (4, 2)


def test_a_limit_moves_into_a_store_and_back_while_the_file_is_read_again(
    valkey: RedisServer, unique: str, tmp_path: Path
) -> None:
    """What is owed stays where it was counted, so each place has its own account."""
    path = tmp_path / "seawall.toml"
    alone = f'{{ spec = "1/h burst 3", name = "{unique}" }}'
    shared = f'{{ spec = "1/h burst 3", name = "{unique}", store = "{valkey.url}", budget = "5s" }}'
    write(path, alone)
    config = sw.load(path)
    assert admitted(config, 5) == 3
    for limiter, passes in ((shared, 3), (shared, 0), (alone, 3)):
        write(path, limiter)
        config.reload()
        assert admitted(config, 5) == passes


def test_the_password_of_a_store_is_not_shown(tmp_path: Path) -> None:
    """A file is read aloud in tickets and logs."""
    path = tmp_path / "seawall.toml"
    write(path, '{ spec = "5/s", name = "a", store = "redis://me:sesame@127.0.0.1:1/0" }')
    text = "\n".join(str(row) for row in sw.load(path).settings())
    assert "redis://***@127.0.0.1:1/0" in text
    assert "sesame" not in text
    write(path, '{ spec = "5/s", name = "a", store = "nothing://me:sesame@127.0.0.1" }')
    with pytest.raises(sw.ConfigError, match="store must be a URL whose scheme is one of") as raised:
        sw.load(path)["stock"].call(int)
    assert "sesame" not in str(raised.value)


def test_a_store_that_is_no_text_is_refused_with_its_place(tmp_path: Path) -> None:
    """The store itself belongs in code."""
    path = tmp_path / "seawall.toml"
    write(path, '{ spec = "5/s", store = 6379 }')
    with pytest.raises(sw.ConfigError, match=r'seawall.toml:2: .*store must be a URL such as "redis://127.0.0.1:6379"; got 6379'):
        sw.load(path)["stock"].call(int)
