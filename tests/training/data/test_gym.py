"""Problems of reasoning-gym: splits that share no question, scorers of their own, faults that are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elastic_agent.errors import DataError, InvalidValueError
from elastic_agent.training.config.data import DataConfig
from elastic_agent.training.config.loading import load_config
from elastic_agent.training.data import prompt_of
from elastic_agent.training.data.gym import Origin, check_families, family_text, gym_problems, parse_family
from elastic_agent.training.data.training_set import source_of
from elastic_agent.training.rewards.functions import make_grader
from elastic_agent.training.rewards.grades import Sample
from tests.training.gym_only import needs_gym

pytestmark = needs_gym
SUMS: dict[str, Any] = {"chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}}


def test_families_in_turn_and_splits_without_a_common_question() -> None:
    """Also between seeds: a family of a few hundred questions repeats itself, and never across splits."""
    families = {**SUMS, "leg_counting": {}}
    drawn = {
        split: {p.question for seed in (0, 1) for p in gym_problems(families, 40, split=split, seed=seed)}  # type: ignore[arg-type]
        for split in ("train", "dev", "test")
    }
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["dev"]
    assert not drawn["dev"] & drawn["test"]
    problems = gym_problems(families, 3)
    assert [p.meta["kind"] for p in problems] == ["chain_sum", "leg_counting"] * 3
    assert problems == gym_problems(families, 3)
    assert len({p.question for p in gym_problems(families, 40)}) == 80


def test_a_problem_is_made_again_from_its_origin() -> None:
    [problem] = gym_problems({"word_sorting": {"max_words": 4}}, 1)
    origin = Origin(**json.loads(json.dumps(problem.meta["origin"])))
    assert origin.entry()["question"].strip() == problem.question == prompt_of(problem)
    assert origin.score(problem.answer) == 1.0
    assert origin.score("nothing") < 1.0
    assert origin.score(None) == 0.0


def test_right_is_what_the_familys_scorer_says() -> None:
    """Answers in a box, behind "Answer:", on the last line; other spellings that the family takes."""
    [problem] = gym_problems({"fraction_simplification": {}}, 1)
    origin, answer = json.dumps(problem.meta["origin"]), problem.answer
    said = [
        f"\\boxed{{{answer}}}",
        f"So.\nAnswer: {answer}",
        f"It is\n{answer}",
        "Answer: 1/3",
        "",
        "Answer:",
    ]
    grades = make_grader("gym").grade([Sample(text, origin) for text in said])
    assert [grade.score for grade in grades] == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_rows_of_a_training_run() -> None:
    """As many as are needed; the reference is the origin, and the question stands alone."""
    config = DataConfig(source="gym", gym=SUMS, instruction="")
    rows = source_of(config.source)(config, 5, 0, print)
    assert len(rows) == 5
    assert {row["kind"] for row in rows} == {"gym"}
    assert Origin(**json.loads(rows[0]["tests"])).score(rows[0]["answer"]) == 1.0
    assert rows[0]["prompt"][0]["content"].endswith("=")


@pytest.mark.parametrize(
    ("families", "said"),
    [
        ({"chain_sums": {}}, "did you mean chain_sum"),
        ({"chain_sum": {"most": 3}}, "it has .*max_terms"),
        ({"chain_sum": {"min_terms": 9, "max_terms": 2}}, "can't be made"),
        ({"chain_sum": {"min_terms": "two"}}, "can't be made"),
    ],
)
def test_unknown_families_and_parameters(families: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_families(families)


def test_fewer_questions_than_are_wanted() -> None:
    few = {"chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
    with pytest.raises(DataError, match="different questions of the test split"):
        gym_problems(few, 100, split="test")


def test_a_config_names_source_and_families_together() -> None:
    for data in ("data.source=gym", "data.gym={chain_sum: {}}"):
        with pytest.raises(ValueError, match="go together"):
            load_config("e1-tiny", [data])
    with pytest.raises(DataError, match="name at least one"):
        gym_problems({}, 1)
    with pytest.raises(DataError, match="no split 'best'"):
        gym_problems(SUMS, 1, split="best")  # type: ignore[arg-type]


def test_a_family_on_a_command_line() -> None:
    assert parse_family("chain_sum") == ("chain_sum", {})
    assert parse_family("a:b=2, c=[1,2]".replace("[1,2]", "x")) == ("a", {"b": 2, "c": "x"})
    assert parse_family(family_text("a", {"b": 2, "c": "x", "d": True})) == (
        "a",
        {"b": 2, "c": "x", "d": True},
    )
    for text in ("a:", "a:b", "a:b=", "a:b=1,b=2", "a:=1"):
        with pytest.raises(InvalidValueError, match="expected a family"):
            parse_family(text)
