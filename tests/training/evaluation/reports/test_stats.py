"""Numbers: intervals over problems, cells, curves that the scheduler reads, tables and pictures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from elastic_agent.scheduler.estimates.curve_files import load_file
from elastic_agent.training.evaluation.reports.stats import bootstrap, curves_of, interval, spread, summarize
from elastic_agent.training.evaluation.reports.tables import detail_table, paper_table, report
from elastic_agent.training.plots.accuracy import plot
from tests.training.evaluation.grids import record


def test_an_interval_holds_the_mean_and_narrows_with_n() -> None:
    small, large = bootstrap([True, False] * 20), bootstrap([True, False] * 500)
    assert small[0] < 0.5 < small[1]
    assert large[1] - large[0] < small[1] - small[0]
    assert bootstrap([True] * 9) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no outcomes"):
        bootstrap([])


def test_all_right_and_all_wrong_are_not_certain() -> None:
    """A bootstrap would say so; the exact binomial bound of 20 of 20 is 83%."""
    assert interval([1.0] * 20) == (0.8316, 1.0)
    assert interval([0.0] * 20) == (0.0, 0.1684)
    assert interval([0.5]) == (0.0, 1.0)
    assert interval([1.0, 0.0] * 20) == bootstrap([1.0, 0.0] * 20)


def test_samples_of_one_problem_are_not_independent() -> None:
    """avg@k: the interval is over problems, so more samples of the same ones do not narrow it for ever."""
    found = [record(problem=f"p{i}", sample=k, right=i % 2 == 0) for i in range(10) for k in range(16)]
    (cell,) = summarize(found)
    assert (cell.accuracy, cell.n, cell.samples) == (0.5, 10, 160)
    assert cell.high - cell.low > 0.4


def test_each_problem_weighs_the_same() -> None:
    """Also in a run that was stopped in the middle."""
    found = [record(problem="a", sample=k) for k in range(9)] + [record(problem="b", right=False)]
    assert summarize(found)[0].accuracy == 0.5


def test_cells_come_in_order_with_means() -> None:
    found = [
        record(model="b", t=None, tokens=30),
        record(model="b", t=8, tokens=10, cut=True),
        record(model="b", t=8, tokens=20, problem="p1", right=False, finished=False),
        record(model="a", strategy="s1"),
        record(model="a"),
    ]
    cells = summarize(found, models=["a", "b"], strategies=["elastic"])
    assert [(c.model, c.strategy, c.t) for c in cells] == [
        ("a", "elastic", 8),
        ("a", "s1", 8),
        ("b", "elastic", 8),
        ("b", "elastic", None),
    ]
    assert (cells[2].tokens, cells[2].cut, cells[2].unfinished, cells[2].accuracy) == (15, 0.5, 0.5, 0.5)
    assert cells[2].by_kind == {"k": 0.5}
    assert [c.model for c in summarize(found)] == ["b", "b", "a", "a"]
    assert summarize([]) == []


def test_a_spread_is_mean_and_quantiles() -> None:
    assert spread([1, 2, 3, 4]) == {"mean": 2.5, "p50": 3.0, "p90": 4.0, "p99": 4.0}


def test_curves_are_what_the_scheduler_reads(tmp_path: Path) -> None:
    """Written here, read there."""
    found = [
        record(kind=kind, t=t, problem=f"{kind}{i}", right=i < n, thinking_tokens=min(t or 90, 30 + i))
        for kind in ("steps-2", "steps-3")
        for t, n in ((0, 1), (16, 2), (None, 4))
        for i in range(4)
    ]
    found += [record(strategy="s1"), record(model="other")]
    made = curves_of(found, model="m", name="m", split="dev", command="x")
    assert made["kinds"]["steps-2"] == [[0, 0.25, 4], [16, 0.5, 4], [None, 1.0, 4]]
    assert made["natural_thinking"]["steps-3"].keys() == {"mean", "p50", "p90", "p99"}
    assert (made["model"], made["s"], made["split"], made["command"]) == ("m", 4, "dev", "x")
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(made))
    curve = load_file(path).curve("steps-2")
    assert curve.p(16) == pytest.approx((0.5 * 4 + 0.5) / 5)
    assert curve.lengths is not None
    with pytest.raises(ValueError, match="one --solution"):
        curves_of([*found, record(s=9)], model="m", name="m")
    with pytest.raises(ValueError, match="none"):
        curves_of(found, model="nobody", name="m")


def test_the_table_has_the_papers_layout() -> None:
    """Rows model and strategy, columns budgets, accuracy @ tokens; a cell that was not measured is empty."""
    cells = summarize(
        [
            record(model="org/a|b<c", t=None, tokens=100),
            record(model="org/a|b<c", t=0, right=False),
            record(t=512),
        ]
    )
    lines = paper_table(cells).splitlines()
    assert lines[0] == "s=4"
    assert lines[2] == "| model | strategy | unconstrained | t=0 | t=512 |"
    assert lines[4] == "| org/a\\|b&lt;c | elastic | 100.0 @ 100 | 0.0 @ 12 |  |"
    assert lines[5] == "| m | elastic |  |  | 100.0 @ 12 |"
    assert "| m | elastic | 512 | 4 | 100.0 | 0.0 to 100.0 | 12.0 | 8.0 | 4.0 | 1.0 | 0.0 |" in detail_table(
        cells
    )
    two = summarize([record(), record(s=9)])
    assert [line for line in paper_table(two).splitlines() if line.startswith("s=")] == ["s=4", "s=9"]
    assert report(cells, title="Set").startswith("# Set\n")


def test_the_plot_is_a_drawing_of_every_cell() -> None:
    """Well-formed, a mark and an interval for each, and names are text (law 7)."""
    evil = "<script>alert(1)</script>&\"'"
    cells = summarize(
        [record(model=m, t=t, tokens=n) for m in (evil, "b") for t, n in ((0, 5), (8, 40), (None, 900))]
    )
    drawing = plot(cells, title=evil)
    root = ET.fromstring(drawing)
    assert "<script" not in drawing
    titles = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len([t for t in titles if "tokens" in t]) == 6
    assert any(evil in t for t in titles)
    assert len([e for e in root.iter() if e.get("class") == "bar"]) == 6
    assert len([e for e in root.iter() if e.get("class") == "line"]) == 2


@pytest.mark.parametrize("tokens", [0, 1, 7, 123456])
def test_one_point_can_be_drawn(tokens: int) -> None:
    drawing = plot(summarize([record(tokens=tokens, right=False)]))
    assert "nan" not in drawing
    ET.fromstring(drawing)


def test_nothing_to_plot_is_said() -> None:
    with pytest.raises(ValueError, match="nothing to plot"):
        plot([])
