"""Suites: named sets and one's own files through one loader, graded by math-verify or by tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import DataError
from elastic_agent.integrations.commands.main import main
from elastic_agent.training.evaluation.reports.ratings import Rated, rate_cells, rating_report
from elastic_agent.training.evaluation.reports.stats import summarize
from elastic_agent.training.evaluation.suites import Suite, set_suite, word_problem_suite
from elastic_agent.training.rewards.grades import Sample
from elastic_agent.training.sandbox.sandbox import SandboxUnavailable
from tests import wire
from tests.training.evaluation.grids import record

MATH500 = [
    {"problem": "Halve $1$.", "answer": "\\frac{1}{2}", "level": 2, "unique_id": "test/a/1.json"},
    {"problem": "Double $1$.", "answer": "2", "level": 5, "unique_id": "test/a/2.json"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def grades(suite: Suite, *solutions: str) -> list[float]:
    samples = [
        Sample(solution, answer=item.reference, columns={"problem": item})
        for item, solution in zip(suite.items, solutions, strict=True)
    ]
    try:
        return [grade.score for grade in suite.grader.grade(samples)]
    finally:
        suite.grader.close()


def test_a_set_by_name_from_a_copy(tmp_path: Path) -> None:
    """Math-verify decides: a decimal is the fraction, and the last box is the answer."""
    suite = set_suite("math500", path=write(tmp_path / "copy.jsonl", MATH500))
    assert (suite.name, suite.grader.name) == ("math500", "math")
    assert [item.kind for item in suite.items] == ["2", "5"]
    assert suite.items[0].row["id"] == "math500/test/a/1.json"
    assert suite.items[0].prompt.endswith("within \\boxed{}.")
    assert grades(suite, "so $\\boxed{0.5}$", "first \\boxed{2}, no, $\\boxed{3}$") == [1.0, 0.0]
    assert len(set_suite("math500", path=tmp_path / "copy.jsonl", count=1).items) == 1


def test_problems_of_ones_own(tmp_path: Path) -> None:
    """By their kind; what repeats is left out, several right answers all count, and the words can change."""
    rows = [{"question": "1 + 1", "answer": [2, "two"]}, {"question": "1 + 1", "answer": [2, "two"]}]
    lines: list[str] = []
    suite = set_suite("own", path=write(tmp_path / "mine.jsonl", rows), instruction="", log=lines.append)
    assert (suite.name, [item.prompt for item in suite.items]) == ("mine", ["1 + 1"])
    assert "1 of 2 problems repeat" in lines[0]
    assert grades(suite, "Answer: two") == [1.0]
    with pytest.raises(DataError, match="--path FILE"):
        set_suite("own")


def code_suite(tmp_path: Path) -> Suite:
    rows = [
        {"question": f"Print {n}.", "tests": [{"input": "", "output": f"{n}\n"}], "rating": rating}
        for n, rating in enumerate((800, 1600))
    ]
    try:
        return set_suite("own", path=write(tmp_path / "code.jsonl", rows))
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def test_code_is_graded_by_its_tests_in_the_sandbox(tmp_path: Path) -> None:
    suite = code_suite(tmp_path)
    assert suite.grader.name == "code"
    assert [item.rating for item in suite.items] == [800, 1600]
    assert grades(suite, "```python\nprint(0)\n```", "```python\nprint(7)\n```") == [1.0, 0.0]


def test_ratings_come_from_pass_results() -> None:
    """Half of the problems of one rating solved is that rating; samples of one problem count as one."""
    records = [
        record(problem=f"p{i}", sample=k, right=i < 5, t=t)
        for i in range(10)
        for k in (0, 1)
        for t in (8, 16)
    ]
    cells = summarize(records)
    rated = rate_cells(records, cells, {f"p{i}": 1500.0 for i in range(10)}, people=[1000, 1400, 1600, 2000])
    assert [(r.t, round(r.found.rating), r.found.problems, r.percentile) for r in rated] == [
        (8, 1500, 10, 50.0),
        (16, 1500, 10, 50.0),
    ]
    assert "| 1500 | 110 | 50.0 | 10 |" in rating_report(rated)
    (all_right,) = rate_cells(records[:2], cells[:1], {"p0": 1500.0})
    assert math.isinf(all_right.found.error)
    assert all_right.as_json()["error"] is None
    assert "no bound" in rating_report([all_right])
    assert rate_cells(records, cells, {}) == list[Rated]()


def test_a_split_of_word_problems_that_is_none() -> None:
    with pytest.raises(ValueError, match="no split 'tset'; there are train, dev, test"):
        word_problem_suite("tset", 3)  # type: ignore[arg-type]


def test_eval_by_name_and_by_file_over_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself: a named set with a copy, then code with ratings, into their own folders."""
    monkeypatch.chdir(tmp_path)
    copy = write(tmp_path / "copy.jsonl", MATH500)
    code_suite(tmp_path)
    (tmp_path / "people.json").write_text("[1000, 2000]")
    with wire.serving(model="org/e1") as base_url:
        served = ["eval", "--model", "org/e1", "--base-url", base_url, "--tokenizer", "e1-tiny"]
        served += ["--thinking", "8", "--solution", "12"]
        assert main([*served, "--data", "math500", "--path", str(copy), "--output", "math"]) == 0
        assert main([*served, "--data", "code.jsonl", "--people", "people.json", "--output", "code"]) == 0
    assert "Codeforces rating" in capsys.readouterr().out
    header, *rows = [json.loads(line) for line in (tmp_path / "math/results.jsonl").read_text().splitlines()]
    assert (header["problems"], header["grader"], len(rows)) == ("math500", "math", 2)
    assert "## Codeforces rating" in (tmp_path / "code/table.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "code/results.jsonl").read_text().splitlines()][1:]
    assert all(row["why"] for row in rows)
