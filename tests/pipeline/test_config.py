"""Pipelines from a file: read whole or not at all, and reloaded without forgetting."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock

GOOD = """
[pipelines.stock]
policies = [
    { timeout = "10s" },
    { retry = { attempts = 4, on = ["ConnectionError"], backoff = { base = 0.2 }, budget = { ratio = 0.2 } } },
    { circuit_breaker = { open_for = "5s", consecutive_failures = 2, slow_call = false } },
    { rate_limiter = "100/s burst 20" },
    { bulkhead = { limit = 20, queue = 50, wait = 1 } },
    { timeout = "2s" },
]

[pipelines.prices]
observe = true
policies = [{ fallback = 0 }, { hedge = { after = "p95" } }, { retry = { budget = false, on = "transient" } }]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good file."""
    path = tmp_path / "seawall.toml"
    path.write_text(GOOD)
    return path


def test_a_file_becomes_pipelines(file: Path, seawall_time: VirtualClock) -> None:
    """The front door's example, and every kind of policy a file can hold."""
    config = sw.load(file)
    assert list(config) == ["stock", "prices"]
    assert len(config) == 2
    stock = config["stock"]
    kinds = [policy.kind for policy in stock.policies]
    assert kinds == ["timeout", "retry", "circuit_breaker", "rate_limiter", "bulkhead", "timeout"]
    retry = stock.policy(sw.Retry)
    assert (retry.rule.attempts, retry.rule.backoff.base, retry.budget.rule.ratio) == (4, 0.2, 0.2)
    assert stock.call(Script(ConnectionResetError(), 5)) == 5
    assert asyncio.run(stock.acall(Script(5).acall)) == 5
    assert config["prices"].snapshot().observes
    assert config["prices"].call(Script(OSError())) == 0
    assert config["prices"].policy(sw.Retry).budget is None
    assert "stock" in repr(stock)
    assert "4 attempts" in str(stock.explain())


def test_a_file_can_let_some_policies_observe(tmp_path: Path) -> None:
    """A new limit is tried out by one line; a name that no policy has is refused with its place."""
    path = tmp_path / "seawall.toml"
    path.write_text('[pipelines.stock]\nobserve = ["bulkhead"]\npolicies = [{ timeout = "1s" }, { bulkhead = 1 }]\n')
    assert sw.load(path)["stock"].snapshot().observed == ("bulkhead",)
    path.write_text('[pipelines.stock]\nobserve = ["limit"]\npolicies = [{ timeout = "1s" }, { bulkhead = 1 }]\n')
    with pytest.raises(sw.ConfigError, match="'limit'"):
        list(sw.load(path).values())


def test_every_kind_a_file_can_hold_is_made_from_it(tmp_path: Path) -> None:
    """A kind that the table names and that cannot be built would be found in production."""
    from seawall.pipeline.build import KINDS

    values = {"timeout": 1, "bulkhead": 2, "rate_limiter": '"5/s"', "fallback": 0, "cache": '"1min"'}
    for kind in KINDS:
        path = tmp_path / f"{kind}.toml"
        path.write_text(f"[pipelines.a]\npolicies = [{{ {kind} = {values.get(kind, '{}')} }}]")
        config = sw.load(path)
        assert [policy.kind for policy in config["a"].policies] == [kind]
        config.reload()


def test_names_are_looked_up_when_used_so_decorators_work_at_import(tmp_path: Path) -> None:
    """Modules are imported before anybody knows where the file is."""
    path = tmp_path / "later.toml"
    config = sw.load(path)

    @config["stock"]
    def read(sku: str) -> str:
        return sku

    @config["stock"]
    async def aread(sku: str) -> str:
        return sku

    with pytest.raises(sw.ConfigError, match="cannot be read"):
        read("a")
    path.write_text(GOOD)
    assert read("a") == "a"
    assert asyncio.run(aread("a")) == "a"
    with pytest.raises(sw.ConfigError, match=r"no pipeline 'stok'; the file has: prices, stock"):
        config["stok"].call(lambda: 1)


def test_reloading_keeps_what_was_learnt_and_changes_the_numbers(file: Path, seawall_time: VirtualClock) -> None:
    """A new limit must not close an open circuit, free a taken seat or forgive a debt, whatever the window."""
    config = sw.load(file)
    stock = config["stock"]
    heard: list[sw.Event] = []
    stock.subscribe(heard.append)
    for _ in range(2):
        with pytest.raises(OSError):
            stock.policy(sw.CircuitBreaker).call(Script(OSError()))
    limiter = stock.policy(sw.RateLimiter)
    assert all(limiter.try_acquire() for _ in range(20))
    with stock.policy(sw.Bulkhead).permit():
        file.write_text(
            GOOD.replace("100/s", "200/s").replace("limit = 20", "limit = 10").replace("attempts = 4", "attempts = 2")
        )
        config.reload()
        assert stock.policy(sw.CircuitBreaker).state == "open"
        assert stock.policy(sw.Bulkhead).snapshot().taken == 1
        assert stock.policy(sw.Bulkhead).snapshot().limit == 10
        assert not stock.policy(sw.RateLimiter).try_acquire()
        assert stock.policy(sw.RateLimiter).peek().retry_after == pytest.approx(1 / 200, abs=1e-6)
        assert stock.policy(sw.Retry).rule.attempts == 2
    assert stock.policy(sw.Bulkhead).snapshot().taken == 0
    heard.clear()
    with pytest.raises(sw.CircuitOpen):
        stock.call(lambda: 1)
    assert "breaker.rejected" in {event.kind for event in heard}
    file.write_text(GOOD.replace("slow_call = false", "window_calls = 50").replace("100/s burst 20", "5/s"))
    config.reload()
    assert stock.policy(sw.CircuitBreaker).state == "open"


def test_a_bad_file_is_refused_whole_and_the_old_one_stays(file: Path) -> None:
    """A typing mistake in the night must not take the guards away."""
    config = sw.load(file)
    before = config["stock"].policies
    file.write_text(GOOD.replace('timeout = "2s"', 'timeout = "2 parsecs"'))
    with pytest.raises(sw.ConfigError, match=r"seawall.toml:9: pipeline stock: timeout: seconds must be"):
        config.reload()
    assert config["stock"].policies is before


A = "[pipelines.a]\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[pipelines.a", r"no TOML"),
        ("x = 1", r"holds no \[pipelines.NAME\]"),
        ("[pipelines]\na = 1", r"must be a table"),
        ("[pipelines.a]\npolices = []", r":2: unknown key 'polices'; did you mean 'policies'"),
        ("[pipelines.a]\npolicies = 3", r":2: policies must be an array"),
        ("[pipelines.a]\npolicies = [3]", r"a policy is a table with one name"),
        ("[pipelines.a]\npolicies = [{ timeout = 1, retry = 2 }]", r"a policy is a table with one name"),
        ("[pipelines.a]\npolicies = [\n{ time = 1 }]", r":3: .*unknown policy 'time'; did you mean 'timeout'"),
        (A + "policies = [\n{ timeout = 1 },\n{ retry = { attemps = 1 } }]", r":4: .*no option 'attemps'; did you mean 'att"),
        ("[pipelines.a]\npolicies = [{ retry = { attempts = 0 } }]", r"attempts must be >= 1; got 0"),
        ("[pipelines.a]\npolicies = [{ retry = { on = ['os.system'] } }]", r"on must name exceptions"),
        ("[pipelines.a]\npolicies = [{ retry = { clock = 1 } }]", r"no option 'clock'"),
        ("[pipelines.a]\npolicies = [" + "{ bulkhead = { limit = 1, name = 'x' } }, " * 2 + "]", r"two policies are called 'x'"),
        ("[pipelines.a]\nx = " + "[" * 40 + "]" * 40, r"at most 32 deep"),
        ("#" * (1 << 20) + "\n\n", r"larger than 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_where_and_why(tmp_path: Path, text: str, complaint: str) -> None:
    """File, line, and what to do: nobody reads a configuration parser."""
    path = tmp_path / "seawall.toml"
    path.write_text(text)
    with pytest.raises(sw.ConfigError, match=complaint):
        sw.load(path).reload()


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Binary rubbish is no configuration."""
    path = tmp_path / "seawall.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(sw.ConfigError, match="not UTF-8"):
        sw.load(path).reload()


def test_the_check_command_explains_a_file(file: Path, tmp_path: Path, capsys: Any, command: Any) -> None:
    """What continuous integration asks before a deployment."""
    assert command(["check", str(file)]) == 0
    assert "stock: at most 4 attempts, 10 s" in (out := capsys.readouterr().out)
    assert "warning SW003 retry" in out
    assert command(["check", str(file), "--strict"]) == 1
    broken = tmp_path / "broken.toml"
    broken.write_text('[pipelines.a]\npolicies = [{ timeout = "1s" }, { timeout = "2s" }]')
    assert command(["check", str(broken)]) == 1
    assert "error SW011 timeout-2" in capsys.readouterr().out
    clean = tmp_path / "clean.toml"
    clean.write_text('[pipelines.a]\npolicies = [{ timeout = "2s" }, { bulkhead = { limit = 5, queue = 2 } }]')
    assert command(["check", str(clean), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (one,) = told["pipelines"]
    assert (one["name"], one["attempts"], one["wall_time"], told["settings"]) == ("a", 1, 2.0, [])
    assert one["findings"][0]["page"] == "docs/warnings/SW001.md"
    assert command(["check", str(clean), "--strict", "--processes", "4"]) == 0
    assert "note SW012 bulkhead" in capsys.readouterr().out
    assert command(["check", str(clean), "--processes", "0"]) == 2
    assert "processes must be in [1, 100000]; got 0" in capsys.readouterr().err
    assert command(["check", str(tmp_path / "absent.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
