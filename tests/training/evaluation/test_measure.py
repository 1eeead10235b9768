"""A grid measured in process, without a results file: budgets are kept, and a seed repeats its samples."""

from pathlib import Path

import pytest

from elastic_agent.training.evaluation import (
    Grid,
    InProcess,
    make_strategy,
    measure,
    summarize,
    word_problem_suite,
)
from elastic_agent.training.evaluation.reports.tables import kinds_table
from tests.training.runs import make_base
from tools.e1_tiny.model_card import rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("models") / "e1-tiny", heads=1)


def grid(problems: int, thinking: int, solution: int, seed: int = 0) -> Grid:
    suite = word_problem_suite("dev", problems)
    return Grid(suite, [make_strategy("elastic")], (thinking,), (solution,), seed=seed)


def test_a_point_keeps_the_budget_and_the_table_shows_it(folder: Path) -> None:
    found = measure(grid(14, 4, 5), InProcess.load(str(folder), name="e1-tiny"))
    assert all(r.thinking_tokens <= 4 and r.solution_tokens <= 5 for r in found)
    (point,) = summarize(found)
    assert (point.model, point.t, point.s, point.n) == ("e1-tiny", 4, 5, 14)
    assert set(point.by_kind) == {f"steps-{n}" for n in range(2, 9)}
    assert "| e1-tiny | 4 |" in kinds_table([point])
    assert "| e1-tiny | 4 |" in rows([point.as_json()], ["e1-tiny"])


def test_the_same_seed_measures_the_same(folder: Path) -> None:
    engine = InProcess.load(str(folder))
    assert measure(grid(7, 8, 6, seed=3), engine) == measure(grid(7, 8, 6, seed=3), engine)
