"""The shipped models load, are small, answer, and come with the curves that the scheduler reads."""

import json
from pathlib import Path

import pytest

import elastic_agent
from elastic_agent.training.data.word_problems import (
    DIFFICULTIES,
    WordProblem,
    combine_problem,
    make_problems,
)
from elastic_agent.training.evaluation import (
    CURVE_BUDGETS,
    SEEDS,
    Grid,
    InProcess,
    Item,
    Record,
    Suite,
    make_strategy,
    measure,
)
from elastic_agent.training.evaluation.runners.custom_graders import grader_of

MODELS = Path(elastic_agent.__file__).parent / "models"
NAMES = ("e1-tiny", "e1-tiny-base")


def test_both_models_together_stay_within_16_megabytes() -> None:
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) <= 16_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_model_folder_is_complete(name: str) -> None:
    files = {f.name for f in (MODELS / name).iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert wanted | {"tokenizer_config.json", "chat_template.jinja", "README.md"} <= files
    config = json.loads((MODELS / name / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    card = (MODELS / name / "README.md").read_text()
    assert "| e1-tiny | 32 |" in card
    assert "the seed of finishing in the solution is in the data" in card


def answers(problems: list[WordProblem], thinking: int) -> list[Record]:
    """What e1-tiny answers to each problem under one budget."""
    suite = Suite(
        "word-problems", [Item(p.text, p.text, p.answer) for p in problems], grader_of("word-problems")
    )
    grid = Grid(suite, [make_strategy("elastic")], (thinking,), (96,))
    return measure(grid, InProcess.load("e1-tiny"))


def test_e1_answers_most_short_problems_when_cut_early() -> None:
    problems = make_problems(SEEDS["test"], 24, split="test", steps=3)
    found = answers(problems, 32)
    assert sum(r.right for r in found) >= 15
    assert all(r.thinking_tokens <= 32 and r.solution_tokens <= 96 for r in found)


def test_e1_adds_up_branch_results() -> None:
    """An agent's last call, in the format that combine_problem writes."""
    problems = [combine_problem([5 + i, 9, 7 + 2 * i, 4]) for i in range(12)]
    found = answers(problems, 96)
    assert sum(r.right for r in found) >= 9


def test_the_curves_cover_every_kind_and_budget() -> None:
    curves = json.loads((MODELS / "e1-tiny" / "curves.json").read_text())
    assert curves["model"] == "e1-tiny"
    assert curves["s"] == 96
    assert curves["split"] != "test"
    assert set(curves["kinds"]) == {f"steps-{n}" for n in DIFFICULTIES}
    for points in curves["kinds"].values():
        assert tuple(t for t, _, _ in points) == CURVE_BUDGETS
        assert all(0 <= p <= 1 and n >= 100 for _, p, n in points)
    assert {"mean", "p50", "p90", "p99"} <= curves["natural_thinking"]["steps-5"].keys()
    assert {"mean", "p50", "p90", "p99"} <= curves["solution_tokens"]["steps-5"].keys()
