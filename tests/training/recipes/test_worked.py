"""Worked solutions: each length is the same computation, and ends in the family's own answer."""

from __future__ import annotations

from collections import Counter

import pytest

from elastic_agent.errors import DataError
from elastic_agent.training.data.gym import Origin, gym_problems
from elastic_agent.training.recipes.recipe import read_recipe, recipes
from elastic_agent.training.recipes.worked import LENGTHS, WORKED, check_worked, trace_of
from tests.training.gym_only import needs_gym

pytestmark = needs_gym


@pytest.mark.parametrize("family", list(WORKED))
def test_the_last_step_is_the_answer(family: str) -> None:
    for problem in gym_problems({family: {}}, 40):
        steps = WORKED[family](Origin(**problem.meta["origin"]).entry())
        assert problem.answer is not None
        if family == "word_sequence_reversal":
            assert ", ".join(step.results for step in steps) == problem.answer
        else:
            for length in LENGTHS:
                assert getattr(steps[-1], length).rstrip(".").split()[-1] == problem.answer


def test_traces_of_all_lengths_in_their_shares() -> None:
    """A problem has the same length each time."""
    problems = gym_problems({"leg_counting": {}}, 400)
    traces = [trace_of(problem) for problem in problems]
    found = Counter(trace["length"] for trace in traces)
    for length, share in LENGTHS.items():
        assert abs(found[length] / 400 - share) < 0.1
    assert traces[:5] == [trace_of(problem) for problem in problems[:5]]
    assert traces[0]["solution"] == f"Answer: {problems[0].answer}"


def test_a_family_that_nobody_has_worked() -> None:
    with pytest.raises(DataError, match="no worked solutions of sudoku"):
        check_worked(["sudoku"])


@pytest.mark.parametrize("name", recipes())
def test_recipes_name_worked_families(name: str) -> None:
    check_worked(list(read_recipe(name).families))
