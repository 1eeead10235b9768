"""Duplicates go, training problems that give a test problem away go, and everything else stays."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.errors import DataError
from elastic_agent.training.data import Problem, decontaminate, deduplicate, load
from elastic_agent.training.data.dedup import normalise

SHARED = Path(os.environ.get("ELASTIC_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def problem(name: str, question: str, answer: str = "1", starter: str = "") -> Problem:
    return Problem(name, question, "math", "own", "train", answer=answer, starter_code=starter)


SAME = [
    "Find $x + 1$ when $\\frac{1}{2}$ is $y$.",
    "find  $x+1$ when\n$\\dfrac{1}{2}$ is $y$.",
    "Find \\(x\\, + \\;1\\) when \\(\\tfrac{1}{2}\\) is \\(y\\).",
    "Ｆｉｎｄ $$x+1$$ when $\\displaystyle\\frac{1}{2}$ is $ y $ .",
]


@pytest.mark.parametrize("text", SAME)
def test_typography_makes_no_new_problem(text: str) -> None:
    assert normalise(text) == normalise(SAME[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("print 1 2", "print 12"),
        ("x - 1", "x + 1"),
        ("\\leftarrow", "\\rightarrow"),
        ("a_1", "a_2"),
        ("a.b", "ab"),
    ],
)
def test_what_means_something_stays(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@given(st.lists(st.sampled_from(["a", "1", "+", "$x$", "\\frac", "."])), st.lists(st.sampled_from("  \t\n")))
def test_any_amount_of_white_space_is_the_same(words: list[str], spaces: list[str]) -> None:
    assert normalise((" " + "".join(spaces)).join(words)) == normalise(" ".join(words))


def test_the_first_of_duplicates_is_kept_and_the_others_are_named() -> None:
    result = deduplicate(
        [
            problem("a", SAME[0]),
            problem("b", "Another?"),
            problem("c", SAME[1]),
            problem("d", SAME[2], answer="2"),
            problem("e", SAME[0], starter="def f():"),
        ]
    )
    assert [p.id for p in result.kept] == ["a", "b", "e"]
    assert result.counts == {"duplicate": 1, "duplicate with another answer": 1}
    assert [(r.problem.id, r.match.id) for r in result.removed] == [("c", "a"), ("d", "a")]
    assert str(result).startswith(
        "kept 3 of 5 problems\nremoved 1: duplicate\n  c repeats a: find $x+1$ when"
    )


@given(st.lists(st.sampled_from("abcdeABCDE")))
def test_nothing_is_lost_or_invented(letters: list[str]) -> None:
    problems = [problem(str(n), letter) for n, letter in enumerate(letters)]
    result = deduplicate(problems)
    assert sorted(int(p.id) for p in (*result.kept, *(r.problem for r in result.removed))) == list(
        range(len(letters))
    )
    assert len(result.kept) == len({letter.lower() for letter in letters})
    assert deduplicate(result.kept).removed == []


BOILERPLATE = "can be written as m/n, where m and n are relatively prime positive integers. Find m + n."
TEST = [
    problem(
        "t0", "A bag holds 7 red and 5 blue marbles, and two are drawn at random without being put back."
    ),
    problem("t1", f"The probability that a walk of 12 steps on a cube ends where it began {BOILERPLATE}"),
    problem("t2", "What is the sum of the first ten odd primes?"),
]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (TEST[0].question.upper(), "in the test set"),
        (f"Prove that. {TEST[0].question} How likely are two of one colour?", "overlaps the test set"),
        (TEST[0].question.replace("without being put back", "and kept"), "overlaps the test set"),
        (TEST[0].question + " [asy] " + "draw((0,0)--(1,1)); " * 50 + "[/asy]", "overlaps the test set"),
    ],
)
def test_a_training_problem_that_gives_a_test_problem_away_goes(question: str, reason: str) -> None:
    (removal,) = decontaminate([problem("x", question)], TEST).removed
    assert (removal.reason, removal.match.id) == (reason, "t0")


@pytest.mark.parametrize(
    "question",
    [
        f"The share of the area of a regular hexagon that a circle through its centre covers {BOILERPLATE}",
        "A bag holds 3 red and 4 blue marbles; three are drawn at random, each being put back.",
        "What is the sum of the first ten odd numbers?",
        "",
    ],
)
def test_closing_words_and_other_numbers_are_no_leak(question: str) -> None:
    """GPT-3's rule, one shared run of 13 words, would remove the first."""
    assert decontaminate([problem("x", question)], TEST).removed == []


def test_the_rule_of_gpt3_can_be_had() -> None:
    hexagon = problem("x", f"The share of a hexagon {BOILERPLATE}")
    assert decontaminate([hexagon], TEST, run=13, share=0.01).counts == {"overlaps the test set": 1}
    with pytest.raises(DataError, match="share"):
        decontaminate([hexagon], TEST, share=0)


def test_both_steps_report_together() -> None:
    twice = deduplicate([problem("a", "Unlike anything."), problem("b", "unlike anything."), TEST[0]])
    result = decontaminate(twice, TEST)
    assert [p.id for p in result.kept] == ["a"]
    assert result.counts == {"duplicate": 1, "in the test set": 1}


def test_the_real_leaks_are_found_and_nothing_else() -> None:
    """The measurement in the module's docstring: ten leaks into MATH500, none into AIME24."""
    names = {"aime24": "aime", "math500": "math", "amc": "amc", "olympiadbench": "olympiad_bench"}
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here; ELASTIC_SHARED_DATA names the folder")
    test = [p for name, file in names.items() for p in load(name, path=SHARED / f"{file}.json")]
    result = decontaminate(load("aime-train", path=SHARED / "aime_train.json"), test)
    assert {r.match.source for r in result.removed} == {"math500"}
    assert {int(r.problem.id.split("/")[1]) for r in result.removed} == {
        *(1, 177, 188, 302, 326, 454, 560, 725, 744, 786)
    }
