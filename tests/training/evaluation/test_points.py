"""Measuring one model at one budget: points, tables, cards."""

import pytest

from elastic_agent.training.data.stock_problems import make_problems
from elastic_agent.training.evaluation import Evaluator, table
from elastic_agent.training.grpo.export import card, rows
from elastic_agent.training.model import new_model, save_model


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "e1-tiny"
    save_model(new_model(hidden=64, layers=1, heads=1, mlp=64), folder)
    return Evaluator(folder)


def test_a_point_keeps_the_budget_and_the_table_shows_it(evaluator: Evaluator) -> None:
    problems = make_problems(1, 14, split="dev")
    point = evaluator.point(problems, 4, 5)
    assert (point.model, point.t, point.s, point.n) == ("e1-tiny", 4, 5, 14)
    assert point.thinking_tokens <= 4
    assert point.solution_tokens <= 5
    assert set(point.by_kind) == {f"steps-{n}" for n in range(2, 9)}
    assert "| e1-tiny | 4 |" in table([point])
    assert "| e1-tiny | 4 |" in rows([point.as_json()], ["e1-tiny"])


def test_the_same_seed_measures_the_same(evaluator: Evaluator) -> None:
    problems = make_problems(1, 7, split="dev")
    assert evaluator.outcomes(problems, 8, 6, seed=3) == evaluator.outcomes(problems, 8, 6, seed=3)


def test_a_card_states_data_numbers_and_commands() -> None:
    point = {
        "model": "e1-tiny",
        "t": None,
        "s": 96,
        "accuracy": 0.8,
        "low": 0.7,
        "high": 0.9,
        "thinking_tokens": 100.0,
        "solution_tokens": 30.0,
        "n": 504,
        "by_kind": {"steps-2": 0.9},
    }
    text = card("e1-tiny", "What it is.", [("Seed 0", [point])], ["python -m one", "python -m two"])
    assert "### Seed 0" in text
    assert "| e1-tiny | unconstrained | 0.800 | 0.700 to 0.900 | 100 | 30 | 0.90 |" in text
    assert "python -m one\npython -m two" in text
    assert "the seed of finishing in the solution is in the data" in text
