"""Every set comes out in one schema, with the answers that its owner meant, and what is wrong is said."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.errors import DataError
from elastic_agent.training.data import (
    SOURCES,
    DataWarning,
    Problem,
    as_dataset,
    generate,
    load,
    prompt_of,
    source_named,
    to_rows,
)
from elastic_agent.training.data.answers import Unusable, all_of, any_of, as_list, clean_answer
from elastic_agent.training.rewards.code import CodeTests

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("ELASTIC_SHARED_DATA", ROOT.parent / "shared" / "data"))
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows as JSON lines (or, named .json, as a list) and return the path."""

    def written(*rows: Any, name: str = "mine.jsonl") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row) for row in rows]
        file.write_text(json.dumps(rows) if name.endswith(".json") else "\n".join(lines))
        return file

    return written


# The authors' files and the hub's copies, one row each: name, row, question begins, answer, accepted as well.
FORMATS: list[tuple[str, dict[str, Any], str, str, tuple[str, ...]]] = [
    ("aime24", {"problem": "Every", "solution": "", "answer": "025", "year": 2024}, "Every", "025", ()),
    ("aime-train", {"ID": "1983-1", "Year": 1983, "Question": "Let", "Answer": 60}, "Let", "60", ()),
    ("amc", {"problem": "How", "answer": 142.0, "url": "x/2022_AMC_12A"}, "How", "142", ()),
    (
        "math500",
        {"problem": "Convert", "answer": "\\frac{14}{3}", "level": 2},
        "Convert",
        "\\frac{14}{3}",
        (),
    ),
    ("minerva", {"problem": "If", "idx": 9, "answer": ["6630.65\n", "6630\n"]}, "If", "6630.65", ("6630",)),
    ("minerva", {"question": "If", "answer": "1e11"}, "If", "1 \\times 10^{11}", ()),
    ("gsm8k", {"problem": "Janet", "solution": "16 - 3\n#### 18", "answer": None}, "Janet", "18", ()),
    ("gsm8k", {"question": "Janet", "answer": "so\n#### 2,125"}, "Janet", "2125", ()),
    ("olympiadbench", {"id": 1, "problem": "X", "answer": ["$69$,$84$"]}, "X", "69,84", ()),
    (
        "olympiadbench",
        {"question": "X", "final_answer": ["2", "3"], "context": "Given", "unit": "km"},
        "Given\n\nX",
        "2, 3",
        (),
    ),
    ("omni-math", {"problem": "P", "answer": "$\\boxed{4}$", "domain": ["A"]}, "P", "4", ()),
    ("still", {"question": "Q", "answer": "0.75"}, "Q", "0.75", ()),
    ("deepscaler", {"problem": "P", "answer": "-\\frac{2}{3}", "solution": ""}, "P", "-\\frac{2}{3}", ()),
    ("amc-train", {"source": "amc_aime", "problem": "P", "answer": "7"}, "P", "7", ()),
]


@pytest.mark.parametrize(("name", "row", "question", "answer", "others"), FORMATS)
def test_math_sets_load_in_the_formats_they_come_in(
    name: str, row: dict[str, Any], question: str, answer: str, others: tuple[str, ...], write: Write
) -> None:
    (problem,) = load(name, path=write(row, name="set.json"))
    assert (problem.question, problem.answer, problem.alternatives) == (question, answer, others)
    assert (problem.kind, problem.source, problem.tests) == ("math", name, ())


def test_what_a_grader_may_want_is_kept(write: Write) -> None:
    row = {
        "problem": "P",
        "answer": ["4.2"],
        "unit": "%",
        "error": "1e-1",
        "solution": "long",
        "difficulty": -1.0,
    }
    (problem,) = load("olympiadbench", path=write(row))
    assert problem.meta == {"unit": "%", "error": "1e-1"}
    assert problem.difficulty is None
    (amc,) = load(
        "amc", path=write({"problem": "P", "answer": 1.0, "url": "w/2023_AMC_12B", "difficulty": 2.5})
    )
    assert (amc.year, amc.difficulty) == (2023, 2.5)


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        (142.0, "142"),
        (0.5, "0.5"),
        (7, "7"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} or \\boxed{2}", "\\boxed{1} or \\boxed{2}"),
        ("$(-\\infty, 0) \\cup\\{1\\}$.", "(-\\infty, 0) \\cup\\{1\\}"),
        ("$90^{\\circ}$,$60^{\\circ}$", "90^{\\circ},60^{\\circ}"),
        ("$f(x)=a x$, where $a$ is any integer", "$f(x)=a x$, where $a$ is any integer"),
        ("$221,$8$", "221,8"),
        ("\\$18.90", "\\$18.90"),
        ("$\\$5$", "\\$5"),
        ("-3.5E-07", "-3.5 \\times 10^{-7}"),
        ("[0,1)", "[0,1)"),
        ("proof", None),
        ("  ", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_answers_stay_what_they_were_in_notation_that_parses(value: Any, clean: str | None) -> None:
    assert clean_answer(value) == clean


@pytest.mark.parametrize("value", [True, {"a": 1}, b"7", "\ud800"])
def test_what_is_no_answer_is_not_made_one(value: Any) -> None:
    with pytest.raises(Unusable):
        clean_answer(value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_an_answer_or_none(text: str) -> None:
    """Nothing crashes, nothing is evaluated, and no white space is left at the ends."""
    clean = clean_answer(text)
    assert clean is None or (clean and clean == clean.strip())
    assert clean_answer(f"{len(text)}") == f"{len(text)}"


def test_a_list_means_what_its_set_says() -> None:
    assert as_list("['2', '3']") == ["2", "3"]
    assert as_list("[0, 1]") == ["[0, 1]"]
    assert any_of({}, ["0.01\n", "0.01", "0.02"]) == ("0.01", ("0.02",))
    assert all_of({}, ["1", None, "2"]) == ("1, 2", ())
    assert any_of({}, []) == (None, ())


def test_years_and_filters_decide_what_is_taken(write: Write) -> None:
    rows = [{"Question": f"Q{year}", "Answer": "1", "Year": year} for year in (1982, 1983, 2023, 2024)]
    assert [p.year for p in load("aime-train", path=write(*rows))] == [1983, 2023]
    rows = [{"problem": f"P{s}", "answer": "1", "source": s} for s in ("amc_aime", "cn_k12")]
    assert [p.question for p in load("amc-train", path=write(*rows))] == ["Pamc_aime"]


def test_rows_of_a_published_set_without_an_answer_are_left_out_and_counted(write: Write) -> None:
    rows = [{"problem": f"P{n}", "answer": answer} for n, answer in enumerate(["1", "", "proof", None, "2"])]
    with pytest.warns(DataWarning, match="left out 3 rows because it has no answer"):
        assert [p.answer for p in load("deepscaler", path=write(*rows))] == ["1", "2"]
    with pytest.raises(DataError, match="gives no problem: 1 rows because it has no answer"):
        load("deepscaler", path=write({"problem": "P", "answer": ""}))


# ------------------------------------------------------------------------------------------ your own file
def test_your_own_file_needs_a_question_and_an_answer(write: Write) -> None:
    file = write(
        {"question": "1 + 1?", "answer": 2, "id": "a", "topic": "sums"},
        {"problem": "2 + 2?", "answer": ["4", "four"]},
        {"prompt": "3 + 3?", "answer": "6", "difficulty": 3, "year": "2020"},
    )
    first, second, third = load(path=file)
    assert (first.id, first.answer, first.meta) == ("own/a", "2", {"topic": "sums"})
    assert (second.id, second.answer, second.alternatives) == ("own/1", "4", ("four",))
    assert (third.difficulty, third.year) == (3.0, 2020)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"qestion": "?", "answer": "1"}, 'no column for the question .*; the nearest is "qestion"'),
        ({"question": "?", "anwser": "1"}, 'no column for the answer .*; the nearest is "anwser"'),
        ({"question": "?", "teste": []}, 'no column for the answer .*; the nearest is "teste"'),
        ({}, "no column for the question .* Columns: none"),
        ({"question": None, "answer": "1"}, "its question is empty"),
        ({"question": " ", "answer": "1"}, "its question is empty"),
        ({"question": 3, "answer": "1"}, "the question must be text, not int"),
        ({"question": ["?"], "answer": "1"}, 'its conversation must hold {"role": one of system, user'),
        ({"question": "?", "answer": {"x": 1}}, "the answer must be text or a number, not dict"),
        ({"question": "?", "answer": True}, "the answer must be text or a number, not bool"),
        ({"question": "?", "answer": None}, "it has no answer"),
        ({"question": "?", "answer": "\ud800"}, "lone surrogate"),
        ({"question": "?", "answer": 1, "id": "\ud800"}, "the id holds half a character"),
        ({"question": "?", "tests": [1]}, "must be a list of objects"),
        (["question"], "must be an object with columns, not a list"),
    ],
)
def test_an_error_in_your_own_file_names_file_line_and_column(row: Any, said: str, write: Write) -> None:
    file = write({"question": "fine", "answer": "1"}, row)
    with pytest.raises(DataError, match=f"mine.jsonl, line 2.*{said}"):
        load(path=file)


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.csv"])
def test_an_empty_set_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=f"{name} gives no problem, it has no rows"):
        load(path=tmp_path / name)


def test_a_set_that_mostly_repeats_itself_is_an_error(write: Write) -> None:
    rows = [{"question": "What is $x$?", "answer": 1}, {"question": "what  is $x$?", "answer": 1}]
    file = write(*rows, rows[0], {"question": "Other", "answer": 2}, {"question": "More", "answer": 2})
    with pytest.warns(DataWarning, match="2 of 5 problems repeat"):
        assert len(load(path=file)) == 5
    file = write(*rows, rows[0])
    with pytest.raises(DataError, match=r"2 of 3 problems repeat an earlier one\. .*allow_duplicates"):
        load(path=file)
    with pytest.warns(DataWarning):
        assert len(load(path=file, allow_duplicates=True)) == 3


def test_ids_are_unique_and_a_limit_is_kept(write: Write) -> None:
    file = write(*({"question": f"{n}?", "answer": n, "id": "same"} for n in range(3)))
    assert [p.id for p in load(path=file)] == ["own/same", "own/same#2", "own/same#3"]
    assert len(load(path=file, limit=2)) == 2
    with pytest.raises(DataError, match="limit"):
        load(path=file, limit=0)


def test_names_are_forgiving_and_unknown_ones_get_the_nearest() -> None:
    assert source_named("AIME_24").name == "aime24"
    assert source_named("HumanEval+").hub == "evalplus/humanevalplus"
    with pytest.raises(DataError, match="did you mean 'deepscaler'"):
        source_named("deepscalar")
    with pytest.raises(DataError, match="needs the name of a set"):
        load()


# ------------------------------------------------------------------------------------------------ the hub
def test_the_hub_is_asked_for_the_right_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to datasets.load_dataset; a limit streams, so that nothing else is fetched."""
    import datasets

    asked: list[Any] = []

    def fake(hub: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((hub, config, split, streaming))
        return datasets.Dataset.from_list([{"question": f"{n}?", "answer": f"#### {n}"} for n in range(4)])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert [p.answer for p in load("gsm8k")] == ["0", "1", "2", "3"]
    assert len(load("gsm8k", split="train", limit=2)) == 2
    assert asked == [("openai/gsm8k", "main", "test", False), ("openai/gsm8k", "main", "train", True)]


def test_without_the_hub_the_error_says_what_to_do() -> None:
    """Tests are offline, which is the very case."""
    with pytest.raises(
        DataError, match=r"gsm8k \(openai/gsm8k, split test\) can't be had .*path=FILE_OR_FOLDER"
    ):
        load("gsm8k")


def test_every_set_of_the_issue_is_there() -> None:
    train = {"aime-train", "amc-train", "omni-math", "still", "deepscaler", "taco", "synthetic-1"}
    evaluation = {"aime24", "math500", "amc", "olympiadbench", "minerva", "gsm8k"}
    evaluation |= {"livecodebench", "codeforces", "humaneval+"}
    assert train | {"livecodebench-train"} <= {s.name for s in SOURCES.values() if s.use == "train"}
    assert evaluation <= {s.name for s in SOURCES.values() if s.use == "eval"}


# --------------------------------------------------------------------------------------------- rows for TRL
def test_rows_hold_the_prompt_and_what_a_reward_needs(write: Write) -> None:
    (math,) = load(path=write({"question": "1 + 1?", "answer": 2}))
    tests = [{"input": [1], "output": 2}]
    code_row = {"question": "Add one.", "tests": tests, "entry_point": "f", "starter_code": "def f(x):\n"}
    (code,) = load(path=write(code_row))
    (word,) = generate(1)
    rows = to_rows([math, code, word])
    assert len({tuple(row) for row in rows}) == 1
    assert rows[0]["prompt"] == [{"role": "user", "content": prompt_of(math)}]
    assert prompt_of(math) == (
        "1 + 1? Let's think step by step and output the final answer within \\boxed{}."
    )
    assert "def f(x):" in prompt_of(code)
    assert "`f`" in prompt_of(code)
    assert prompt_of(math, instruction="") == "1 + 1?"
    assert prompt_of(word) == word.question
    assert CodeTests.read(rows[1]["tests"]) == CodeTests((([1], 2),), "f")
    assert rows[0]["tests"] == ""
    dataset = as_dataset([math, code, word])
    assert dataset["answer"] == ["2", None, word.answer]
    assert as_dataset([math]).features == as_dataset([code]).features == dataset.features


def test_word_problems_come_in_the_same_schema() -> None:
    assert [p.id for p in generate(2, split="dev", seed=4)] == [
        "word-problems/dev/4/0",
        "word-problems/dev/4/1",
    ]
    (problem,) = generate(1, steps=3)
    assert (problem.kind, problem.difficulty) == ("word-problems", 3.0)
    assert problem.answer is not None
    assert problem.answer.isdigit()
    assert isinstance(hash(problem), int)


def test_a_problem_is_a_value() -> None:
    assert Problem("a", "q", "math", "s", "train") == Problem("a", "q", "math", "s", "train")


# -------------------------------------------------------------------------------------------- the real files
REAL = {
    "aime24": "aime.json",
    "math500": "math.json",
    "amc": "amc.json",
    "minerva": "minerva.json",
    "olympiadbench": "olympiad_bench.json",
    "gsm8k": "gsm8k.json",
    "aime-train": "aime_train.json",
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_files_load_whole(name: str) -> None:
    """Issue 3, item 6: counts as the authors' files have them, nothing left out, no warning."""
    if not (SHARED / REAL[name]).exists():
        pytest.skip(f"{SHARED / REAL[name]} is not here; ELASTIC_SHARED_DATA names the folder")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problems = load(name, path=SHARED / REAL[name])
    assert len(problems) == SOURCES[name].rows
    assert len({p.id for p in problems}) == len(problems)
    assert all(p.answer and p.answer == p.answer.strip() for p in problems)
