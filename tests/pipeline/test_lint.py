"""What `explain()` warns of: each code with a pipeline that deserves it and the nearest one that does not; and its page."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seawall as sw
from seawall.core.findings import CATEGORIES, Finding
from seawall.pipeline.lint import processes_of

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
T, R, B = sw.Timeout, sw.Retry, sw.CircuitBreaker
REFUSED = ConnectionRefusedError
Make = Callable[[], tuple[sw.Policy, ...]]


def shared(make: Callable[[sw.RetryBudget], tuple[sw.Policy, ...]]) -> Make:
    """Policies that have one budget in common."""
    return lambda: make(sw.RetryBudget())


# code, severity, what deserves it, the nearest that does not
CASES: list[tuple[str, str, Make, Make]] = [
    ("SW001", "note", lambda: (T(1),), lambda: (T(1, sync="thread"),)),
    ("SW001", "note", lambda: (sw.AdaptiveTimeout(),), lambda: (T(1, sync="thread"), R())),
    ("SW002", "warning", lambda: (B(), R()), lambda: (R(), B())),
    ("SW002", "warning", lambda: (sw.Keyed("x", lambda x: B()), R()), lambda: (R(), sw.Keyed("x", lambda x: B()))),
    ("SW003", "warning", lambda: (R(budget=None),), lambda: (R(),)),
    ("SW004", "warning", lambda: (T(0.3), R(3)), lambda: (T(0.31), R(3))),
    ("SW005", "warning", lambda: (R(), sw.Hedge()), shared(lambda b: (R(budget=b), sw.Hedge(budget=b)))),
    ("SW005", "warning", lambda: (R(), sw.Hedge(budget=None)), lambda: (R(1), sw.Hedge(budget=None))),
    ("SW005", "warning", lambda: (R(budget=None), sw.Hedge()), lambda: (sw.Hedge(),)),
    ("SW006", "note", lambda: (sw.Fallback(0), B()), lambda: (sw.Fallback(0, on=OSError), B())),
    ("SW006", "note", lambda: (sw.Fallback(0), R(), B()), lambda: (B(), sw.Fallback(0))),
    ("SW007", "warning", lambda: (sw.Bulkhead(1), limiter(1)), lambda: (limiter(1), sw.Bulkhead(1))),
    ("SW007", "warning", lambda: (sw.AdaptiveLimit(), limiter(1)), lambda: (sw.AdaptiveLimit(), limiter(0))),
    ("SW007", "warning", lambda: (sw.Bulkhead.threads(1), limiter(1)), lambda: (sw.Bulkhead.threads(1), limiter(0))),
    ("SW008", "error", lambda: (T(1), T(0.9, name="a"), T(5, connect=1)), lambda: (T(1), T(5, connect=0.9))),
    ("SW008", "warning", lambda: (T(1, connect=1),), lambda: (T(1, connect=0.5),)),
    ("SW009", "note", lambda: (R(on=OSError),), lambda: (R(),)),
    ("SW009", "note", lambda: (R(on=lambda error: True),), lambda: (R(1, on=OSError),)),
    ("SW009", "note", lambda: (R(on=(REFUSED, OSError)),), lambda: (R(on=(REFUSED, sw.CircuitOpen)),)),
    ("SW011", "error", lambda: (T(1), T(2)), lambda: (T(2), T(1))),
    ("SW011", "warning", lambda: (T(2), R(3), T(1)), lambda: (T(4), R(3), T(1))),
    ("SW011", "note", lambda: (T(3), R(3), T(1)), lambda: (T(3.3), R(3), T(1))),
    ("SW011", "error", lambda: (T(1), sw.AdaptiveTimeout(least=2)), lambda: (T(5), sw.AdaptiveTimeout(most=10))),
    ("SW012", "warning", lambda: (limiter(0),), lambda: (sw.Throttle(),)),
    ("SW012", "note", lambda: (sw.Bulkhead(1),), lambda: (sw.AdaptiveLimit(),)),
]  # fmt: skip


def limiter(wait: float) -> sw.RateLimiter:
    """A limit that waits for so long."""
    return sw.RateLimiter("1/s", wait=wait)


@pytest.mark.parametrize(("code", "severity", "deserves", "does_not"), CASES)
def test_each_code_is_found_where_it_belongs_and_nowhere_else(code: str, severity: str, deserves: Make, does_not: Make) -> None:
    """A lint that never speaks is useless, and one that always speaks is not read."""
    processes = 4 if code == "SW012" else 1
    found = [f for f in sw.Pipeline(*deserves()).explain(processes).findings if f.code == code]
    assert found, f"{code} is not found"
    assert {finding.severity for finding in found} == {severity}
    assert all(finding.reason.endswith(".") and finding.fix.endswith(".") for finding in found)
    clean = sw.Pipeline(*does_not()).explain(processes).findings
    assert code not in {finding.code for finding in clean}


def test_every_code_of_a_pipeline_has_a_case() -> None:
    """A code that is never tried is a code that may never be found. SW010 is told at run time, SW101 and on by settings."""
    tried = {case[0] for case in CASES}
    assert tried == {code for code in CATEGORIES if code < "SW100"} - {"SW010"}


def test_an_unmarked_function_makes_a_warning_of_what_was_a_note() -> None:
    """Whether a call may be repeated is known where it is decorated."""
    pipeline = sw.Pipeline(sw.Retry(on=OSError))

    @pipeline(idempotent=True)
    def read() -> None: ...

    assert "SW009" not in {finding.code for finding in pipeline.explain().findings}

    @pipeline
    def charge() -> None: ...

    (finding,) = [finding for finding in pipeline.explain().findings if finding.code == "SW009"]
    assert finding.severity == "warning"
    assert "charge" in finding.reason
    assert "read" not in finding.reason.replace("repeats", "")


def test_functions_that_a_file_s_pipeline_decorates_are_known_after_reloading(tmp_path: Path) -> None:
    """They were decorated at import, before there was a file."""
    path = tmp_path / "seawall.toml"
    config = sw.load(path, env={})

    @config["a"]
    def charge() -> None: ...

    path.write_text("[pipelines.a]\npolicies = [{ retry = { on = 'OSError' } }]\n")
    for _ in range(2):
        (finding,) = config["a"].explain().findings
        assert (finding.code, finding.severity) == ("SW009", "warning")
        config.reload()


@pytest.mark.parametrize(
    ("env", "count"),
    [
        ({}, 1),
        ({"WEB_CONCURRENCY": "4"}, 4),
        ({"WEB_CONCURRENCY": "many"}, 1),
        ({"WEB_CONCURRENCY": "0"}, 1),
        ({"WEB_CONCURRENCY": "9" * 30}, 1),
        ({"GUNICORN_CMD_ARGS": "--bind=127.0.0.1 --workers=3"}, 3),
        ({"GUNICORN_CMD_ARGS": "-w 2 --workers 5"}, 5),
        ({"GUNICORN_CMD_ARGS": "-w6", "WEB_CONCURRENCY": "2"}, 6),
        ({"GUNICORN_CMD_ARGS": "--workers"}, 1),
        ({"GUNICORN_CMD_ARGS": "'open"}, 1),
    ],
)
def test_the_number_of_processes_is_read_as_servers_read_it(env: dict[str, str], count: int) -> None:
    """Nobody tells a library how many workers the deployment starts; the server was told."""
    assert processes_of(None, env) == count
    assert processes_of(7, env) == 7


def test_processes_may_be_told_by_call_or_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call wins over the file, and the file over what a server was told."""
    path = tmp_path / "seawall.toml"
    path.write_text("processes = 3\n[pipelines.a]\npolicies = [{ rate_limiter = '5/s' }]\n")
    monkeypatch.setenv("WEB_CONCURRENCY", "8")
    (finding,) = sw.load(path, env={})["a"].explain().findings
    assert "3 processes" in finding.reason
    assert "8 processes" in sw.Pipeline(sw.RateLimiter("5/s")).explain().findings[0].reason
    assert sw.load(path, env={})["a"].explain(1).findings == ()
    assert sw.load(path, env={"SEAWALL__PROCESSES": "1"})["a"].explain().findings == ()
    with pytest.raises(ValueError, match=r"processes must be in \[1, 100000\]; got 0"):
        sw.Pipeline().explain(0)


def test_a_limit_that_processes_share_is_not_warned_about() -> None:
    """A store in common is the cure that the finding names."""
    limiter = sw.RateLimiter("5/s")
    limiter.is_shared = True
    assert sw.Pipeline(limiter).explain(8).findings == ()


def test_a_finding_is_a_warning_of_its_own_category_and_a_log_record_with_its_code(caplog: pytest.LogCaptureFixture) -> None:
    """One code can be silenced, or made an error, without touching the others."""
    told = sw.Pipeline(sw.Timeout(1), sw.Retry(budget=None), name="stock").explain()
    assert not told.has_errors
    with pytest.raises(sw.warnings.SW003, match="SW003 retry: without a budget"):
        told.warn()
    caplog.clear()
    with (
        caplog.at_level(logging.INFO, "seawall"),
        sw.testing.capture_events() as events,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", sw.warnings.SW003)
        told.warn()
        assert caught == []
        warnings.simplefilter("always", sw.warnings.SW003)
        told.warn()
    assert [warning.category for warning in caught] == [sw.warnings.SW003]
    assert all(issubclass(category, sw.SeawallWarning) for category in CATEGORIES.values())
    fields = [(vars(record)["code"], record.levelname, vars(record)["pipeline"]) for record in caplog.records[:2]]
    assert fields == [("SW001", "INFO", "stock"), ("SW003", "WARNING", "stock")]
    data = [dict(event.data) for event in events if event.kind == "warning.raised"][1]
    assert data["fix"] == "keep the default RetryBudget()."
    assert (data["code"], data["severity"], data["page"]) == ("SW003", "warning", "docs/warnings/SW003.md")


def test_an_error_is_something_that_can_never_work_as_written() -> None:
    """`seawall check` stops a deployment for it."""
    assert sw.Pipeline(sw.Timeout(1), sw.Timeout(2)).explain().has_errors
    assert vars(logging)["ERROR"] == 40


# --- the pages


def test_every_code_has_its_page_and_every_page_its_code() -> None:
    """The link in a finding must lead somewhere, and a page must be reachable from what it explains."""
    pages = {path.stem for path in (DOCS / "warnings").glob("SW*.md")}
    assert pages == set(CATEGORIES)
    for code, category in CATEGORIES.items():
        page = Finding(code, "note", "x", "r.", "f.").page
        text = (DOCS.parent / page).read_text()
        assert text.startswith(f"# {code}: ")
        assert (category.code, bool(category.title)) == (code, True)
        assert re.findall(r"^## (.*)\n", text, re.M) == ["Why", "What to do"]
        assert f"sw.warnings.{code}" in text
        assert page in str(Finding(code, "note", "x", "r.", "f."))


def test_the_table_of_codes_lists_all_with_their_pages() -> None:
    """Who looks for a code begins at the table."""
    table = (DOCS / "warnings" / "README.md").read_text()
    assert re.findall(r"^\| \[(SW\d+)\]\(\1\.md\)", table, re.M) == sorted(CATEGORIES)
    for code, category in CATEGORIES.items():
        assert category.title in table, f"the table should say of {code}: {category.title}"


def test_all_categories_are_public() -> None:
    """A filter must be able to name each."""
    assert {name for name in sw.warnings.__all__ if name.startswith("SW")} == set(CATEGORIES)
    kinds: Any = {code: getattr(sw.warnings, code) for code in CATEGORIES}
    assert kinds == CATEGORIES
    assert sw.NestedRetryWarning is sw.warnings.SW010
