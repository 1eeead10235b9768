"""The data promises: right answers, totals in bounds, disjoint splits, the same data for the same seed."""

import random

import pytest

from elastic_agent.training.data.word_problems import (
    DIFFICULTIES,
    combine_problem,
    make_problem,
    make_problems,
    parse_answer,
    parse_problem,
    split_of,
)


def test_the_same_seed_gives_the_same_problems() -> None:
    assert make_problems(5, 20, split="dev") == make_problems(5, 20, split="dev")
    assert make_problems(5, 20, split="dev") != make_problems(6, 20, split="dev")


def test_splits_are_disjoint_and_the_hash_decides() -> None:
    drawn = {
        split: {p.text for p in make_problems(1, 150, split=split)} for split in ("train", "dev", "test")
    }
    assert not drawn["train"] & drawn["dev"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["dev"] & drawn["test"]
    for split, texts in drawn.items():
        assert {split_of(text) for text in texts} == {split}


def test_the_split_ignores_spacing() -> None:
    text = make_problems(1, 1, split="test")[0].text
    assert split_of("  " + text.replace(" ", "  ")) == "test"


@pytest.mark.parametrize("steps", [1, *DIFFICULTIES, 10])
def test_totals_stay_within_bounds_and_text_says_the_same_as_the_steps(steps: int) -> None:
    rng = random.Random(steps)
    for _ in range(50):
        problem = make_problem(rng, steps)
        assert all(1 <= total <= 99 for total in problem.totals)
        assert problem.kind == f"steps-{steps}"
        read = parse_problem(problem.text)
        assert (read.start, read.totals, read.answer) == (problem.start, problem.totals, problem.answer)


def test_a_chain_starts_from_the_last_answer() -> None:
    rng = random.Random(3)
    first = make_problem(rng, 3)
    assert make_problem(rng, 3, start=first.answer).start == first.answer


def test_combining_adds_up_in_the_same_format() -> None:
    problem = combine_problem([12, 30, 7], ["apples", "pears"])
    assert problem.text.startswith("A shop has 12 apples . #1 It gets 30 pears .")
    assert problem.answer == 49
    assert parse_problem(problem.text).answer == 49


@pytest.mark.parametrize("parts", [[5], [60, 60], [0, 4], [1] * 12])
def test_combining_refuses_what_the_format_cannot_hold(parts: list[int]) -> None:
    with pytest.raises(ValueError):
        combine_problem(parts)


@pytest.mark.parametrize("steps", [0, 11, -1])
def test_impossible_difficulties_are_refused(steps: int) -> None:
    with pytest.raises(ValueError):
        make_problem(random.Random(0), steps)


def test_other_text_is_not_a_problem() -> None:
    with pytest.raises(ValueError):
        parse_problem("What is the capital of France ?")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer : 4 2 .", 42),
        ("#1: it sells 3, so we have 9 - 3 = 6. Answer: 6.", 6),
        ("Answer : 4 . Answer : 5 .", 5),
        ("Answer : 42", None),
        ("the answer is 42 .", None),
        ("", None),
    ],
)
def test_answers_are_read_from_the_end_of_a_solution(text: str, answer: int | None) -> None:
    assert parse_answer(text) == answer
