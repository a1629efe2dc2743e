"""Figures and words are pure: what the demo claims can be checked with a pencil."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("httpx2", reason='the demo needs pip install "seawall[demo]"')

from seawall.demo import report, run
from seawall.demo.figures import Figures, Mark, Order, better, figures, part, percentile, recovery
from seawall.demo.story import BACK, Phase, Story
from seawall.demo.telling import Heard

STORY = Story.of(40)


def told(*, good: int = 100, calls: int = 50, recovers: float | None = 1.0) -> Figures:
    """A telling with these figures."""
    back = STORY.phase(BACK)
    begins = back.ends if recovers is None else back.begins + recovers
    orders = [Order(index / 1000, 0.1, "paid") for index in range(good)]
    late = [at / 10 for at in range(int(10 * back.begins), int(10 * back.ends))]
    orders += [Order(at, 0.1, "paid" if at >= begins else "failed") for at in late]
    return figures(STORY, orders, [Mark(0, 0), Mark(back.begins, calls)])


def test_only_paid_within_the_deadline_is_good() -> None:
    """Counting "pending" as good, or a late payment, would flatter one side."""
    answers = [("paid", 0.9), ("paid", 1.0), ("paid", 1.01), ("pending", 0.1), ("failed", 0.1), ("left", 5), ("cut", 1)]
    assert [Order(0, took, answer).good for answer, took in answers] == [True, True, *[False] * 5]


def test_a_part_counts_only_what_arrived_in_it() -> None:
    """An order belongs to the phase in which its customer came, whenever it is answered."""
    orders = [Order(0.5, 9, "paid"), Order(1.0, 0.2, "paid"), Order(1.5, 0.4, "pending"), Order(2.0, 0.1, "paid")]
    marks = [Mark(0, 0), Mark(1.0, 3, "closed", 1, 0), Mark(1.9, 8, "open", 5, 2), Mark(2.0, 9, "open", 5, 2)]
    row = part("slow", 1.0, 2.0, orders, marks)
    assert (row.offered, row.good, row.pending, row.lost) == (2, 1, 1, 0)
    assert (row.p50, row.p99, row.goodput) == (0.2, 0.4, 1.0)
    assert (row.calls, row.breaker, row.refused, row.retries) == (6, "open", 4, 2)


@pytest.mark.parametrize(("values", "share", "wanted"), [([], 0.5, 0), ([3], 0.99, 3), ([1, 2, 3, 4], 0.5, 2), ([1, 2], 1, 2)])
def test_percentiles_are_nearest_rank(values: list[float], share: float, wanted: float) -> None:
    """An interpolated p99 is a number that nobody has waited."""
    assert percentile(values, share) == wanted


def test_recovery_is_the_first_good_order_of_a_good_rest() -> None:
    """One lucky order amid failures is no recovery; one hiccup later does not undo it."""
    phase = Phase(BACK, 10, 20)
    lucky = [Order(10.0, 0.1, "paid")]
    bad = [Order(10.1 + index / 10, 0.1, "failed") for index in range(10)]
    good = [Order(12 + index / 10, 0.1, "failed" if index == 40 else "paid") for index in range(80)]
    assert recovery(phase, lucky + bad + good) == pytest.approx(2.0)
    assert recovery(phase, bad + lucky) is None
    assert recovery(phase, good[:9]) is None


def test_recovery_does_not_hold_when_the_rest_is_bad() -> None:
    """A shop that rises for a second and falls again has not recovered."""
    phase = Phase(BACK, 0, 10)
    orders = [Order(index / 10, 0.1, "paid" if index < 20 else "failed") for index in range(100)]
    assert recovery(phase, orders) is None


def test_better_needs_all_three() -> None:
    """The exit status stands on this; a tie is not better."""
    bare = told(good=50, calls=500, recovers=3.0)
    assert better(bare, told())
    assert better(told(good=50, calls=500, recovers=None), told())
    assert not better(bare, told(good=10))
    assert not better(bare, told(calls=500))
    assert not better(bare, told(recovers=3.0))
    assert not better(told(good=50, calls=500, recovers=None), told(recovers=None))


def test_the_document_is_consistent_and_survives_json() -> None:
    """Scripts read this file."""
    whole = told().as_dict()
    assert json.loads(json.dumps(whole)) == whole
    assert sum(phase["offered"] for phase in whole["phases"]) == whole["offered"]
    assert whole["goodput"] == pytest.approx(whole["good"] / 40, abs=0.001)


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Half a file is worse than an old one."""
    path = tmp_path / "shop.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        run.write(path, {"bad": object()})
    assert path.read_text() == "old"
    run.write(path, {"seed": 1})
    assert json.loads(path.read_text()) == {"seed": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_comparison_fits_a_terminal_and_says_who_was_better() -> None:
    """It is what a new user remembers; wrapped lines are not read."""
    bare, guarded = told(good=50, calls=500, recovers=None), told()
    lines = [*report.opening(STORY, 0), *report.comparison(STORY, bare, guarded), report.title(STORY, "bare")]
    assert max(map(len, lines)) <= 79
    text = "\n".join(lines)
    assert "Guarded was better" in text
    assert "not in 10.0 s" in text
    assert "NOT better" in "\n".join(report.comparison(STORY, guarded, bare))


def test_the_deeds_are_counted_from_events() -> None:
    """Words without numbers prove nothing, and numbers must come from what happened."""
    events = {"breaker.opened": 1, "breaker.rejected": 17, "limiter.rejected": 23, "retry.budget_spent": 5}
    text = " ".join(report.deeds(figures(STORY, [], [], events=events)))
    for words in ("opened once", "answered 17", "turned 23 away", "refused 5", "closed 0 times"):
        assert words in text


def test_rows_wait_until_the_deadline_of_their_orders_has_passed() -> None:
    """A row that is shown before its orders had their second would show them lost."""
    heard = Heard(STORY, "guarded", seed=3)
    heard.moment = 1.9
    assert heard.rows() == []
    heard.hear({"orders": [[0, 0.2, "paid"]], "events": {"bulkhead.rejected": 2, "breaker.opened": 1}, "breaker": "open"})
    heard.mark(0.9, calls=4)
    heard.moment = 2.5
    (row,) = heard.rows()
    assert (row.good, row.calls, row.refused, row.breaker) == (1, 4, 2, "open")
    assert row.offered == sum(at < 1 for at in heard.arrivals) == row.good + row.lost
    heard.moment, heard.finished = 41.0, True
    assert len(heard.rows()) == 40
    assert sum(row.offered for row in heard.rows()) == len(heard.arrivals)


def test_long_tellings_keep_their_table_short() -> None:
    """Everything is bounded, the output too."""
    heard = Heard(Story.of(600), "bare", seed=1)
    heard.moment, heard.finished = 601.0, True
    assert len(heard.rows()) == 60
