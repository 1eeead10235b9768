"""The demo's problems: the shipped week is right, and a bad file is refused with its line named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elastic_agent.integrations.demo.agent import answer_of
from elastic_agent.integrations.demo.problems import SHOP_WEEK, ProblemsError, count_kinds, kind_of, load_days
from elastic_agent.training.data.word_problems import parse_problem, split_of

GOOD = {
    "name": "Monday",
    "chains": [
        {"name": "a", "steps": ["one", "two {previous}"], "answers": [1, 2]},
        {"name": "b", "steps": ["three"], "answers": [3]},
    ],
    "combine": "add {0} and {1}",
    "answer": 5,
}


def test_the_shipped_week_is_true() -> None:
    """Every answer in the shipped file is what its problem works out to, the totals included."""
    days = load_days(SHOP_WEEK)
    assert sum(len(day.chains) for day in days) >= 24
    for day in days:
        for chain in day.chains:
            previous = None
            for step, answer in zip(chain.steps, chain.answers, strict=True):
                assert parse_problem(step.replace("{previous}", str(previous))).answer == answer
                previous = answer
        ends = [chain.answers[-1] for chain in day.chains]
        assert sum(ends) == day.answer <= 99
        text = day.combine
        for i, end in enumerate(ends):
            text = text.replace(f"{{{i}}}", str(end))
        assert parse_problem(text).answer == day.answer


def test_the_shipped_week_was_never_trained_on() -> None:
    """Every problem of the shipped file, as e1-tiny reads it when all goes right, is in the test split."""
    for day in load_days(SHOP_WEEK):
        for chain in day.chains:
            previous = None
            for step, answer in zip(chain.steps, chain.answers, strict=True):
                assert split_of(step.replace("{previous}", str(previous))) == "test"
                previous = answer


def test_kinds_count_every_call() -> None:
    """The forecast that the demo declares has one entry for each call that the agent will make."""
    days = load_days(SHOP_WEEK)
    calls = sum(len(chain.steps) for day in days for chain in day.chains) + len(days)
    assert sum(count_kinds(days).values()) == calls
    assert kind_of("A shop has 3 . #1 It gets 2 . #2 It sells 1 .") == "steps-2"


def _write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chains": None}, "line 2"),
        ({"chains": []}, "'chains' is empty"),
        ({"answer": "many"}, "line 2"),
        ({"combine": "add {0}"}, "{1}"),
        ({"chains": [{"name": "a", "steps": ["one", "two"], "answers": [1, 2]}]}, "{previous}"),
        ({"chains": [{"name": "a", "steps": ["one"], "answers": [1, 2]}]}, "1 steps and 2 answers"),
        ({"chains": [{"name": "a", "steps": "one", "answers": [1, 2, 3]}]}, "must be a list"),
        ({"chains": [{"name": "a", "steps": ["one"]}]}, "'answers' is missing"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, change: dict[str, object], says: str) -> None:
    """Bad input is refused before anything is spent, with the line and what is wrong with it."""
    with pytest.raises(ProblemsError, match="line 2") as error:
        load_days(_write(tmp_path / "days.jsonl", GOOD, GOOD | change))
    assert says in str(error.value)


def test_not_json_missing_and_empty(tmp_path: Path) -> None:
    """A file that is no file, or has nothing in it, says so."""
    with pytest.raises(ProblemsError, match="line 1: not JSON"):
        load_days(_write(tmp_path / "bad.jsonl", "{"))
    with pytest.raises(ProblemsError, match="can't read"):
        load_days(tmp_path / "nowhere.jsonl")
    with pytest.raises(ProblemsError, match="is empty"):
        load_days(_write(tmp_path / "empty.jsonl", "\n\n"))
    with pytest.raises(ProblemsError, match="line 1"):
        load_days(_write(tmp_path / "list.jsonl", "[]"))


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("37 - 12 = 25. Answer: 25.", 25),
        ("Answer : 2 ... Answer : 31 .", 31),
        ("so it is 7", 7),
        ("", None),
        ("no", None),
    ],
)
def test_answer_of(solution: str, answer: int | None) -> None:
    """The last stated answer counts; failing that the last number; else there is none."""
    assert answer_of(solution) == answer


def test_a_cut_solution_has_an_answer_only_if_it_says_so() -> None:
    """The last number of a cut solution is a step on the way."""
    assert answer_of("37 - 12 = 25 , 25 + 2", cut=True) is None
    assert answer_of("37 - 12 = 25 . Answer : 25 . And so", cut=True) == 25
