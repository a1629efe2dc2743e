"""Where settings come from: a file, folders of single values, the environment; which one wins, and what is never shown."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import seawall as sw
from seawall.pipeline.config import Config

TEXT = """[pipelines.stock]
policies = [
    { timeout = { seconds = "10s", name = "total" } },
    { retry = { attempts = 4, backoff = { base = 0.2 } } },
    { bulkhead = 20 },
    { timeout = "2s" },
]

[pipelines.price-list]
preset = "http"
"""
STOCK = "SEAWALL__PIPELINES__STOCK__"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of two pipelines, one of them a preset."""
    path = tmp_path / "seawall.toml"
    path.write_text(TEXT)
    return path


def write(folder: Path, values: Mapping[str, str]) -> Path:
    """A folder of single-value files."""
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value)
    return folder


def told(config: Config) -> dict[str, tuple[Any, str]]:
    """Every value with its origin, by path."""
    return {row.path: (row.value, str(row.origin)) for row in config.settings()}


# --- the environment


@pytest.mark.parametrize(
    ("variable", "value", "path", "meant"),
    [
        ("POLICIES__0__TIMEOUT", "11s", "total.seconds", "11s"),
        ("POLICIES__0__TIMEOUT__SECONDS", "11", "total.seconds", 11),
        ("POLICIES__TOTAL", "12.5", "total.seconds", 12.5),
        ("POLICIES__TOTAL__CONNECT", "1s", "total.connect", "1s"),
        ("POLICIES__RETRY__ATTEMPTS", "7", "retry.attempts", 7),
        ("POLICIES__RETRY__BACKOFF__CAP", "3", "retry.backoff.cap", 3),
        ("POLICIES__RETRY__BACKOFF", "{ cap = 3 }", "retry.backoff.cap", 3),
        ("POLICIES__RETRY__ON", '["OSError", "TimeoutError"]', "retry.on", ["OSError", "TimeoutError"]),
        ("POLICIES__RETRY__BUDGET", "false", "retry.budget", False),
        ("POLICIES__BULKHEAD__QUEUE", "5", "bulkhead.queue", 5),
        ("POLICIES__BULKHEAD", "{ queue = 6, limit = 3 }", "bulkhead.limit", 3),
        ("POLICIES__TIMEOUT__ITEM", "1s", "timeout.item", "1s"),
    ],
)
def test_a_variable_sets_one_number_by_place_or_by_name(file: Path, variable: str, value: str, path: str, meant: Any) -> None:
    """The same image runs everywhere; what differs is in its environment."""
    config = sw.load(file, env={STOCK + variable: value})
    assert told(config)[f"pipelines.stock.policies.{path}"] == (meant, f"env {STOCK}{variable}")
    assert len(config["stock"].policies) == 4
    assert not config.findings


def test_what_a_variable_says_is_what_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown values that nobody obeys would be worse than none. The process's own environment is the default."""
    monkeypatch.setenv(f"{STOCK}POLICIES__RETRY__ATTEMPTS", "7")
    monkeypatch.setenv("seawall__pipelines__price_list__policies__attempt", "250ms")
    monkeypatch.setenv(f"{STOCK}OBSERVE", "true")
    config = sw.load(file)
    retry = config["stock"].policy(sw.Retry).rule
    assert (retry.attempts, retry.backoff.base, config["stock"].observes) == (7, 0.2, True)
    assert config["price-list"].policy("attempt").seconds == 0.25
    assert sw.load(file, env={})["stock"].policy(sw.Retry).rule.attempts == 4


def test_variables_alone_make_pipelines(tmp_path: Path) -> None:
    """A container without a file is still a container with limits."""
    env = {
        "SEAWALL__PIPELINES__STOCK__PRESET": "database",
        "SEAWALL__PIPELINES__STOCK__POLICIES__BULKHEAD__LIMIT": "3",
        "SEAWALL__PIPELINES__PRICES__POLICIES": '[{ timeout = "1s" }, { retry = { attempts = 2 } }]',
        "SEAWALL__PIPELINES__PRICES__POLICIES__RETRY__ATTEMPTS": "5",
    }
    config = sw.load(None, env=env)
    assert config["stock"].policy(sw.Bulkhead).rule.limit == 3
    assert config["prices"].policy(sw.Retry).rule.attempts == 5
    with pytest.raises(sw.ConfigError, match=r"holds no \[pipelines.NAME\]"):
        sw.load(None, env={}).reload()


def test_the_strongest_source_wins_and_each_value_says_where_it_is_from(file: Path, tmp_path: Path) -> None:
    """Environment over later folder over earlier folder over file over preset over default; documented, so tested."""
    path = "pipelines.price-list.policies"
    first = write(tmp_path / "one", {f"{path}.retry.attempts": "5\n", f"{path}.bulkhead.limit": "5", f"{path}.total": "5s"})
    second = write(tmp_path / "two", {f"{path}.retry.attempts": "6", f"{path}.bulkhead.limit": "6"})
    file.write_text(TEXT + "[pipelines.price-list.policies]\nattempt = '4s'\nretry.attempts = 4\ntotal = '4s'\n")
    env = {"SEAWALL__PIPELINES__PRICE_LIST__POLICIES__RETRY__ATTEMPTS": "7"}
    config = sw.load(file, folders=[first, second], env=env)
    values = told(config)
    assert values[f"{path}.retry.attempts"] == (7, f"env {next(iter(env))}")
    assert values[f"{path}.bulkhead.limit"] == (6, f"folder {second}/{path}.bulkhead.limit")
    assert values[f"{path}.total.seconds"] == ("5s", f"folder {first}/{path}.total")
    assert values[f"{path}.attempt.seconds"] == ("4s", f"{file}:12")
    assert values[f"{path}.bulkhead.queue"] == (50, "preset http")
    assert values[f"{path}.bulkhead.order"] == ("fifo", "default")
    assert values["pipelines.stock.policies.retry.backoff.base"] == (0.2, f"{file}:4")
    assert config["price-list"].policy(sw.Retry).rule.attempts == 7


def test_every_policy_is_shown_under_the_name_it_runs_by(tmp_path: Path) -> None:
    """A path in the output is the path by which a variable changes it."""
    path = tmp_path / "seawall.toml"
    path.write_text("""
[policies.pool]
bulkhead = 5
[pipelines.a]
policies = [{ timeout = 1 }, { timeout = { seconds = 1, name = "timeout-2" } }, { timeout = 1 }, "pool", { bulkhead = 3 }]
""")
    config = sw.load(path, env={"SEAWALL__PIPELINES__A__POLICIES__TIMEOUT_3": "4s", "SEAWALL__POLICIES__POOL__LIMIT": "6"})
    names = [policy.name for policy in config["a"].policies]
    shown = [row.path.split(".")[3] for row in config.settings() if row.path.startswith("pipelines.a.policies")]
    assert list(dict.fromkeys(shown)) == names == ["timeout", "timeout-2", "timeout-3", "pool", "bulkhead"]
    assert config["a"].policy("timeout-3").seconds == 4
    assert config["a"].policy("pool").rule.limit == 6


def test_policies_with_a_name_are_shared_by_pipelines(tmp_path: Path) -> None:
    """One database has one pool, whoever calls it; hedges and retries can have one budget from a file too."""
    path = tmp_path / "seawall.toml"
    path.write_text("""
[policies.pool]
bulkhead = { limit = 5 }
[policies.extra]
retry_budget = { ratio = 0.2 }
[pipelines.a]
policies = [{ retry = { attempts = 2, budget = "extra" } }, { hedge = { after = "p95", budget = "extra" } }, "pool"]
[pipelines.b]
policies = [{ timeout = "1s" }, { use = "pool" }]
""")
    config = sw.load(path, env={})
    config.reload()
    a, b = config["a"], config["b"]
    assert a.policy(sw.Bulkhead) is b.policy(sw.Bulkhead)
    assert a.policy(sw.Retry).budget is a.policy(sw.Hedge).budget
    assert "SW005" not in {finding.code for finding in a.explain().findings}
    with b.policy(sw.Bulkhead).permit():
        config.reload()
        assert a.policy(sw.Bulkhead).snapshot().taken == b.policy(sw.Bulkhead).snapshot().taken == 1
    assert a.policy(sw.Bulkhead).snapshot().taken == 0


# --- folders


def test_a_mounted_folder_is_read_as_a_whole_through_its_link(file: Path, tmp_path: Path) -> None:
    """ConfigMaps are swapped by one rename of ..data: hidden entries are no settings, and no two moments are mixed."""
    folder = mounted(tmp_path / "mount", {"pipelines.stock.policies.retry.attempts": "5", ".hidden": "x", "seawall.toml": TEXT})
    config = sw.load(file, folders=folder, env={})
    assert config["stock"].policy(sw.Retry).rule.attempts == 5
    assert not config.findings
    swap(folder, {"pipelines.stock.policies.retry.attempts": "6"})
    config.reload()
    assert config["stock"].policy(sw.Retry).rule.attempts == 6
    origin = told(config)["pipelines.stock.policies.retry.attempts"][1]
    assert origin == f"folder {folder}/pipelines.stock.policies.retry.attempts"


def mounted(folder: Path, values: Mapping[str, str]) -> Path:
    """A folder as Kubernetes mounts it: ..data links to a hidden folder, visible names link through it."""
    folder.mkdir()
    swap(folder, values)
    for name in values:
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def swap(folder: Path, values: Mapping[str, str]) -> None:
    """Put other values in place, by one rename; the old ones go at once."""
    old = folder / os.readlink(folder / "..data") if (folder / "..data").is_symlink() else None
    fresh = write(folder / f"..{time.monotonic_ns()}", values)
    (folder / "..data_tmp").symlink_to(fresh.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if old is not None:
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def test_no_reading_mixes_two_moments_of_a_folder_that_is_swapped_all_the_time(tmp_path: Path) -> None:
    """Half of one ConfigMap with half of the next is a configuration that nobody wrote."""
    numbers = {f"pipelines.a.policies.p{n}.limit": "1" for n in range(30)}
    base = tmp_path / "seawall.toml"
    base.write_text(
        "[pipelines.a]\npolicies = [" + "".join(f"{{ bulkhead = {{ limit=1, name='p{n}' }} }}," for n in range(30)) + "]"
    )
    folder = mounted(tmp_path / "mount", numbers)
    stop = threading.Event()

    def keep_swapping() -> None:
        count = 1
        while not stop.is_set():
            count += 1
            swap(folder, dict.fromkeys(numbers, str(count)))
            time.sleep(0.002)

    writer = threading.Thread(target=keep_swapping)
    writer.start()
    seen = set()
    try:
        deadline = time.monotonic() + 60
        while len(seen) < 20 and time.monotonic() < deadline:
            limits = {policy.rule.limit for policy in sw.load(base, folders=folder, env={})["a"].policies}
            assert len(limits) == 1
            seen |= limits
    finally:
        stop.set()
        writer.join(10)
    assert len(seen) >= 20


def test_folders_within_folders_and_double_underscores_part_names_too(file: Path, tmp_path: Path) -> None:
    """Projected volumes have folders; secrets that were made for other tools have underscores."""
    inner = tmp_path / "values" / "pipelines" / "stock" / "policies"
    inner.mkdir(parents=True)
    (inner / "retry.attempts").write_text("5")
    (tmp_path / "values" / "SEAWALL__PIPELINES__STOCK__POLICIES__BULKHEAD").write_text("9")
    (tmp_path / "values" / "seawall.pipelines.stock.observe").write_text("true\n")
    stock = sw.load(file, folders=[tmp_path / "values"], env={})["stock"]
    assert (stock.policy(sw.Retry).rule.attempts, stock.policy(sw.Bulkhead).rule.limit, stock.observes) == (5, 9, True)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder: None, r"no such folder"),
        (lambda folder: folder.write_text("x"), r"cannot be read: Not a directory"),
        (lambda folder: write(folder, {"a": "x" * (1 << 20) + "y"}), r"more than 1000 files or 1048576 bytes"),
        (lambda folder: write(folder, {f"a{n}": "x" for n in range(1001)}), r"more than 1000 files"),
        (lambda folder: (write(folder, {}), (folder / "a").write_bytes(b"\xff"))[0], r"values/a: it is not UTF-8"),
        (lambda folder: (write(folder, {}), os.mkfifo(folder / "pipe"))[0], r"values/pipe: it is no plain file"),
        (lambda folder: (write(folder, {}), (folder / "loop").symlink_to("."))[0], r"at most 32 deep|cannot be read"),
        (lambda folder: write(folder, {"pipelines.stock.observe": "[" * 40}), r"observe: tables may stand .* 32 deep"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(file: Path, tmp_path: Path, make: Callable[[Path], Any], complaint: str) -> None:
    """Nothing in a folder may block, fill the memory or be half read."""
    make(tmp_path / "values")
    with pytest.raises(sw.ConfigError, match=complaint):
        sw.load(file, folders=tmp_path / "values", env={}).reload()


# --- what is wrong, and where


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("POLICIES__RETRY__ATTEMPTS", "0", r"^env SEAWALL__.*__ATTEMPTS: pipeline stock: retry: attempts must be >= 1; got 0"),
        ("POLICIES__RETRY__ATEMPTS", "3", r"no option 'atempts'; did you mean 'attempts'"),
        ("POLICIES__TOTAL", "10 parsecs", r"'parsecs' is no unit of ns, us, ms, s, min, h, d; got '10 parsecs'"),
        ("POLICIES__RETRY__BACKOFF__BAS", "3", r"backoff has no option 'bas'; did you mean 'base'"),
        ("POLICIES__RETRY__BACKOFF__BASE", "-1", r"__BASE: .*backoff: base must be a positive"),
        ("POLICIES__RETRY__BUDGET", "nobody", r"there is no retry_budget 'nobody'"),
        ("POLICIES", "3", r"policies must be an array"),
        ("PRESET", "htp", r"there is no such preset; got 'htp'; did you mean 'http'"),
        ("OBSERVE", "perhaps", r"observe must be true or false, or a list of names; got 'perhaps'"),
        ("POLICIES__RETRY__ON", "[" * 50, r"__ON: tables may stand in each other at most 32 deep"),
        ("POLICIES__BULKHEAD", "x" * ((1 << 20) + 1), r"larger than 1048576 bytes together"),
    ],
)
def test_a_bad_variable_is_named(file: Path, variable: str, value: str, complaint: str) -> None:
    """A file with a line number does not help who has to find a variable."""
    with pytest.raises(sw.ConfigError, match=complaint):
        sw.load(file, env={STOCK + variable: value}).reload()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("processes = 0", r":10: processes must be in \[1, 100000\]; got 0"),
        ("policies = 3", r":10: \[policies\] must hold tables"),
        ("[pipeline.x]", r":10: unknown table 'pipeline'; did you mean 'pipelines'"),
        ("[policies.x]\na = 1", r":10: policy x: unknown policy 'a'"),
        ("[policies.x]\nbulkhead = 1\ntimeout = 2", r":10: policy x: a policy is a table with one name"),
        ("[policies.x]\nbulkhead = { limt = 1 }", r":11: policy x: bulkhead has no option 'limt'; did you mean 'limit'"),
        ("[pipelines.x]\npolicies = ['nobody']", r":11: there is no \[policies.nobody\]"),
        ("[pipelines.x]\npolicies = [\n{ use = 'nobody' }]", r":12: there is no \[policies.nobody\]"),
        ("[policies.x]\nretry_budget = 0.1\n[pipelines.x]\npolicies = ['x']", r":12: pipeline x: .* is no layer"),
        ("[pipelines.x]\npreset = 'http'\npolicies = [{ timeout = 1 }]", r":12: beside preset, policies must be a table"),
        ("[pipelines.x]\npreset = 'http'\n[pipelines.x.policies]\n\nretri = 1", r":14: pipeline 'x' has no policy 'retri'; did"),
        ("[pipelines.x]\npreset = 'http'\n[pipelines.x.policies]\nretry.attempts = '3'", r":13: .*attempts must be a whole"),
        ("[pipelines.x]\nobserve = 1", r":11: pipeline x: observe must be true or false, or a list of names; got 1"),
        ("[pipelines.x]\npolicies = [\n{ timeout = 1 },\n{ retry = { backoff = { cap = 'x' } } }]", r":13: .*backoff: cap must"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_with_its_line(file: Path, text: str, complaint: str) -> None:
    """Nobody should have to look for the line."""
    file.write_text("#\n" * 9 + text + "\n[pipelines.ok]\npreset = 'http'\n")
    with pytest.raises(sw.ConfigError, match=complaint):
        sw.load(file, env={}).reload()


def test_a_message_stays_short_whatever_the_value(file: Path) -> None:
    """A megabyte that was set by mistake must not be in every log."""
    with pytest.raises(sw.ConfigError, match="limit must be a whole number") as raised:
        sw.load(file, env={STOCK + "POLICIES__BULKHEAD": "x" * (1 << 19)}).reload()
    assert len(str(raised.value)) < 1000


def test_names_that_a_variable_could_mean_twice_are_refused(tmp_path: Path) -> None:
    """Variables know neither case nor hyphens; to change one of two at random would be worse than to stop."""
    path = tmp_path / "seawall.toml"
    path.write_text("[pipelines.a-b]\npreset = 'http'\n[pipelines.a_B]\npreset = 'http'\n[pipelines.c]\npreset = 'http'")
    with pytest.raises(sw.ConfigError, match=r"'a_b' could mean 'a-b' or 'a_B'; rename one"):
        sw.load(path, env={"SEAWALL__PIPELINES__A_B__OBSERVE": "true"}).reload()
    assert sw.load(path, env={"SEAWALL__PIPELINES__C__OBSERVE": "true"})["c"].observes


# --- secrets


def test_a_value_from_a_secret_is_never_shown(file: Path, tmp_path: Path) -> None:
    """Errors go to logs, and logs go everywhere: neither the message nor what hangs on it may hold the value."""
    for folder, mode in ((tmp_path / "secrets", 0o644), (tmp_path / "plain", 0o600)):
        name = "pipelines.stock.policies.retry.on"
        write(folder, {name: "hunter2-swordfish"})
        (folder / name).chmod(mode)
        with pytest.raises(sw.ConfigError, match=r"on must name exceptions.*; got <redacted>") as raised:
            sw.load(file, folders=folder, env={}).reload()
        assert "hunter2" not in "".join(traceback.format_exception(raised.value))
        assert raised.value.__context__ is None
        (folder / name).write_text("OSError")
        values = told(sw.load(file, folders=folder, env={}))
        assert values["pipelines.stock.policies.retry.on"][0] == "<redacted>"
    with pytest.raises(sw.ConfigError) as raised:
        sw.load(file, env={f"{STOCK}POLICIES__RETRY__API_KEY": "hunter2", f"{STOCK}POLICIES__RETRY__NAME": "x"}).reload()
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pipelines.stock.preset", "hunter2"),
        ("pipelines.stock.observe", "hunter2"),
        ("pipelines.stock.policies", "hunter2"),
        ("pipelines.stock.policies", '["hunter2"]'),
        ("pipelines.stock.policies", "[{ hunter2 = 1 }]"),
        ("pipelines.stock.policies", '[{ timeout = "hunter2" }]'),
        ("pipelines.stock.policies", "[{ retry = { hunter2 = 1 } }]"),
        ("pipelines.stock.policies", '[{ hunter2 = 1, retry = "hunter2" }]'),
        ("pipelines.stock.policies.retry.budget", "hunter2"),
        ("pipelines.stock.policies.retry", '{ backoff = "hunter2" }'),
        ("processes", "hunter2"),
        ("nothing", "hunter2"),
    ],
)
def test_no_error_and_no_warning_tells_what_a_secret_folder_holds(file: Path, tmp_path: Path, name: str, value: str) -> None:
    """Somebody will mount the wrong secret one day, and the log must not tell it."""
    folder = write(tmp_path / "secrets", {name: value})
    with pytest.raises((sw.ConfigError, sw.SeawallWarning)) as raised:
        sw.load(file, folders=folder, env={}).reload()
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))
    error: BaseException | None = raised.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__context__


def test_addresses_are_shown_without_their_user(tmp_path: Path) -> None:
    """A password within an address is still a password."""
    path = tmp_path / "seawall.toml"
    path.write_text("[pipelines.a]\npolicies = [{ fallback = 'redis://me:hunter2@host/0' }, { bulkhead = 'x://u:hunter2@h' }]")
    with pytest.raises(sw.ConfigError, match=r"x://\*\*\*@h") as raised:
        sw.load(path, env={}).reload()
    assert "hunter2" not in str(raised.value)
    path.write_text("[pipelines.a]\npolicies = [{ fallback = 'redis://me:hunter2@host/0' }]")
    assert told(sw.load(path, env={}))["pipelines.a.policies.fallback.answer"][0] == "redis://***@host/0"


# --- settings that apply to nothing


@pytest.mark.parametrize(
    ("variable", "code", "reason"),
    [
        ("SEAWALL__PIPELINES__STOK__OBSERVE", "SW101", "there is no pipeline 'stok'; did you mean 'stock'"),
        ("SEAWALL__PIPELINES__STOCK__POLICIES__HEDGE__AFTER", "SW101", "pipeline 'stock' has no policy 'hedge'"),
        ("SEAWALL__PIPELINES__STOCK__POLICIES__9__TIMEOUT", "SW101", "policy 9 of pipeline 'stock' does not exist"),
        ("SEAWALL__PIPELINES__STOCK__POLICIES__1__TIMEOUT", "SW101", "policy 1 of pipeline 'stock' is retry, not timeout"),
        ("SEAWALL__POLICIES__POOL__LIMIT", "SW101", "there is no policy 'pool'"),
        ("SEAWALL__PIPELINES__STOCK", "SW102", "pipelines.stock is no setting"),
        ("SEAWALL__PIPELINES__STOCK__COLOUR", "SW102", "pipelines.stock.colour is no setting"),
        ("SEAWALL__COLOUR", "SW102", "colour is no setting"),
        ("SEAWALL_PIPELINES__STOCK__OBSERVE", "SW102", "does not begin with SEAWALL__"),
    ],
)
def test_a_variable_that_applies_to_nothing_is_warned_about(file: Path, variable: str, code: str, reason: str) -> None:
    """A number that somebody believes to be set, and is not, is found in the next outage."""
    config = sw.load(file, env={variable: "true"})
    with pytest.warns(getattr(sw.warnings, code), match="(?s)" + reason.replace("(", r"\(")) as caught:
        config.reload()
    assert len(caught) == 1
    (finding,) = config.findings
    assert (finding.code, finding.severity, finding.policy) == (code, "warning", f"env {variable}")


def test_a_named_policy_that_nobody_uses_is_warned_about(tmp_path: Path) -> None:
    """A pool that was taken out of the last pipeline guards nothing."""
    path = tmp_path / "seawall.toml"
    path.write_text("[policies.pool]\nbulkhead = 5\n[pipelines.a]\npolicies = [{ timeout = 1 }]")
    with pytest.warns(sw.warnings.SW103, match=rf"no pipeline uses \[policies.pool\] \({path}:2\)"):
        sw.load(path, env={}).reload()
    path.write_text("[policies.pool]\nbulkhead = 5\n[pipelines.a]\npolicies = [{ timeout = 1 }, 'pool']")
    config = sw.load(path, env={})
    config.reload()
    assert config.findings == ()


def test_a_warning_is_a_category_a_log_record_and_an_event(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever watches logs, events or warnings can filter by the code; a filter that says error keeps the old settings."""
    config = sw.load(file, env={})
    config.reload()
    before = config["stock"].policies
    config._env = {"SEAWALL__COLOUR": "red"}
    with pytest.raises(sw.warnings.SW102):  # as pytest is told here, warnings are errors
        config.reload()
    assert config["stock"].policies is before
    caplog.clear()
    with caplog.at_level(logging.INFO, "seawall"), sw.testing.capture_events() as events, warnings.catch_warnings():
        warnings.simplefilter("ignore", sw.warnings.SW102)
        config.reload()
    (record,) = caplog.records
    fields = vars(record)
    assert (fields["code"], fields["severity"], record.levelname, record.name) == (
        "SW102",
        "warning",
        "WARNING",
        "seawall.warnings",
    )
    (event,) = [event for event in events if event.kind == "warning.raised"]
    assert event.data["code"] == "SW102"
    assert event.data["page"] == fields["page"] == "docs/warnings/SW102.md"
    assert "red" not in record.getMessage()


# --- the command


def test_the_show_command_prints_every_value_with_its_origin(
    file: Path, tmp_path: Path, capsys: Any, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in force, and who said so, in one look."""
    folder = write(tmp_path / "values", {"pipelines.stock.policies.bulkhead.limit": "9"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{STOCK}POLICIES__RETRY__ATTEMPTS", "7")
    monkeypatch.setenv("SEAWALL__COLOUR", "red")
    assert command(["config", "show", "--folder", str(folder)]) == 0
    out, err = capsys.readouterr()
    lines = {line.split(" = ")[0]: line for line in out.splitlines()}
    at = "pipelines.stock.policies"
    assert lines[f"{at}.retry.attempts"].split() == [
        f"{at}.retry.attempts",
        "=",
        "7",
        "#",
        "env",
        f"{STOCK}POLICIES__RETRY__ATTEMPTS",
    ]
    assert lines[f"{at}.bulkhead.limit"].endswith(f"# folder {folder}/pipelines.stock.policies.bulkhead.limit")
    assert lines[f"{at}.timeout.seconds"].endswith("# seawall.toml:6")
    assert lines[f"{at}.timeout.connect"].split() == [f"{at}.timeout.connect", "=", "none", "#", "default"]
    assert "warning SW102 env SEAWALL__COLOUR" in err
    assert command(["config", "show", str(file), "--json"]) == 0
    rows = {row["path"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[f"{at}.total.seconds"]["value"] == "10s"
    assert rows[f"{at}.total.seconds"]["origin"] == {"kind": "file", "place": str(file), "line": 3, "secret": False}
    assert rows[f"{at}.retry.on"]["value"] == "seawall.transient"
    assert command(["config", "show", str(tmp_path / "absent.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_the_check_command_counts_settings_that_apply_to_nothing_when_strict(
    file: Path, capsys: Any, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline of continuous integration may want to stop there."""
    file.write_text("[pipelines.a]\npolicies = [{ timeout = 1 }]")
    assert command(["check", str(file), "--strict"]) == 0
    monkeypatch.setenv("SEAWALL__COLOUR", "red")
    assert command(["check", str(file)]) == 0
    assert "warning SW102 env SEAWALL__COLOUR" in capsys.readouterr().out
    assert command(["check", str(file), "--strict", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["settings"][0]["code"] == "SW102"
