"""What is said of a batch: lengths, shares, who was cut, and which groups only truncation decides."""

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from elastic_agent.training.grpo.logger import RunLogger, as_csv, line, picture, read_csv
from elastic_agent.training.grpo.metrics import SampleStats, decided_by_truncation, histogram, segment_metrics
from elastic_agent.training.plots.panels import Panel, figure
from elastic_agent.training.plots.svg import ticks


def sample(reward: float, *, cut: bool = False, finished: bool = True, limit: int | None = 8) -> SampleStats:
    return SampleStats(limit, 8 if cut else 4, 6, int(cut), cut, finished, reward)


def test_a_batch_in_numbers() -> None:
    batch = [
        sample(0, cut=True),
        sample(1),
        sample(1, limit=None),
        sample(math.nan, cut=True, finished=False),
    ]
    found = segment_metrics(batch, 2, 64)
    assert found["thinking/mean_length"] == 6
    assert found["solution/mean_length"] == 6
    assert found["thinking/cut"] == 0.5
    assert found["solution/unfinished"] == 0.25
    assert found["forced_tokens"] == 2
    assert found["reward/cut"] == 0
    assert found["reward/uncut"] == 1
    assert found["groups/mixed"] == 0.5
    assert found["groups/decided_by_truncation"] == 0.5
    assert found["budget/t<=8"] == 0.5
    assert found["budget/unlimited"] == 0.5
    assert math.isnan(segment_metrics([sample(1), sample(1)], 2, 64)["reward/cut"])


def test_groups_that_only_truncation_decides() -> None:
    """Rewards differ, and fate (cut, finished) says all of the difference; a mixed fate is not decided."""
    wrong_if_cut = [sample(0, cut=True), sample(0, cut=True), sample(1), sample(1)]
    wrong_if_unfinished = [sample(0, cut=True, finished=False), sample(1, cut=True)]
    assert decided_by_truncation(wrong_if_cut)
    assert decided_by_truncation(wrong_if_unfinished)
    assert not decided_by_truncation([*wrong_if_cut, sample(0)])
    assert not decided_by_truncation([sample(1), sample(1, cut=True)]), "no advantage to decide"
    assert not decided_by_truncation([sample(0), sample(1)]), "one fate, two rewards"
    assert not decided_by_truncation([])


def test_the_histogram_has_the_same_bins_all_through_a_run() -> None:
    found = histogram([0, 1, 8, 9, 64, None], 60)
    assert list(found) == [
        "budget/t<=0",
        "budget/t<=8",
        "budget/t<=16",
        "budget/t<=32",
        "budget/t<=64",
        "budget/unlimited",
    ]
    assert found.keys() == histogram([], 60).keys()
    assert sum(found.values()) == pytest.approx(1)
    assert found["budget/t<=8"] == pytest.approx(2 / 6)


def test_rows_survive_the_csv_and_the_line_says_how_long(tmp_path: Path) -> None:
    now, lines = [0.0], list[str]()
    logger = RunLogger(tmp_path, 10, lines.append, lambda: now[0])
    logger.begin(0)
    for step in (1, 2, 3):
        now[0] += 60.0
        logger.add(step, {"reward": step / 7, "reward/cut": None, "loss": 1e-9, "text": "left out"})
    assert "step 3 of 10: reward 0.429 (cut -," in lines[-1]
    assert "60.0 s a step, 7 minutes left" in lines[-1]
    rows = read_csv((tmp_path / "metrics.csv").read_text())
    assert rows[0] == {"step": 1, "reward": pytest.approx(1 / 7), "reward/cut": None, "loss": 1e-9}
    ElementTree.fromstring((tmp_path / "metrics.svg").read_text())
    again = RunLogger(tmp_path, 10, lines.append, lambda: now[0])
    again.begin(2)
    again.add(3, {"reward": 0.5, "new": 1.0})
    assert [row["step"] for row in read_csv((tmp_path / "metrics.csv").read_text())] == [1, 2, 3]
    assert read_csv((tmp_path / "metrics.csv").read_text())[0]["new"] is None
    assert as_csv([]) == "\n"


def test_a_full_disk_is_said_once_and_does_not_end_the_run(tmp_path: Path) -> None:
    lines: list[str] = []
    logger = RunLogger(tmp_path / "gone", 3, lines.append, lambda: 0.0)
    logger.add(1, {"reward": 0.0})
    logger.add(2, {"reward": 0.0})
    assert sum("can't be written" in text for text in lines) == 1
    assert line(1, 3, {}, 7200.0).endswith("4.0 hours left")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (-3, 7), (1e-6, 2e-6), (5, 5000), (0.13, 0.92)])
def test_ticks_are_few_and_hold_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    assert found[0] <= low
    assert found[-1] >= high
    assert found == sorted(set(found))


def test_plots_are_well_formed_whatever_comes() -> None:
    """No points, one point, gaps, nan, and names that need escaping."""
    panels = [
        Panel("a < b & c", {"x > y": [(1, 0.5), (2, None), (3, math.nan), (4, 0.7)], "one": [(2, 0.1)]}),
        Panel("empty", {"": []}),
        Panel("flat", {"": [(1, 3.0), (2, 3.0)]}),
        Panel("below", {"": [(16, -0.1), (64, 0.5), (256, 0.6)]}, x_label="t"),
    ]
    tree = ElementTree.fromstring(figure(panels))
    texts = {element.text for element in tree.iter() if element.tag.endswith("text")}
    assert {"a < b & c", "nothing yet", "below", "200"} <= texts
    assert "nan" not in figure(panels)
    two = ElementTree.fromstring(figure([Panel("", {"": [(1, 0.5), (2, 0.6)]})]))
    assert not {"1.2", "1.5"} & {element.text for element in two.iter()}, "there is no batch 1.2"
    ElementTree.fromstring(figure([]))
    ElementTree.fromstring(picture([{"step": 1.0, "reward": 0.5}]))
