"""Sets into training: by name or one's own, joined, cleaned, counted, in the columns that graders read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import ConfigError, DataError
from elastic_agent.training.config.data import DataConfig
from elastic_agent.training.config.loading import load_config
from elastic_agent.training.data import SOURCES as SETS
from elastic_agent.training.data import dataset_of
from elastic_agent.training.data.training_set import SOURCES, named_sets
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.rewards.code import CodeGrader
from elastic_agent.training.rewards.grades import Sample
from elastic_agent.training.rewards.math import MathGrader
from elastic_agent.training.run import train
from tests.training.runs import make_base, small

ONES = [{"question": f"What is {n} + 1?", "answer": n + 1, "id": n} for n in range(6)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(lines: list[str] | None = None, **data: Any) -> list[dict[str, Any]]:
    return named_sets(DataConfig(**data), 0, 0, (lines if lines is not None else []).append)


def test_every_set_of_the_data_package_is_a_source() -> None:
    assert set(SOURCES) == {"word-problems", "lookups", "gym", "own", "rows", *SETS}


def test_sets_are_joined_in_order_and_counted(tmp_path: Path) -> None:
    """A published set from a copy, and one's own, which comes twice as often."""
    aime = write(
        tmp_path / "a.jsonl", [{"problem": "Find $x$.", "answer": "7", "ID": "1984-1", "year": 1984}]
    )
    own = write(tmp_path / "own.jsonl", ONES)
    lines: list[str] = []
    rows = rows_of(
        lines, source=["aime-train", "own"], path={"aime-train": aime, "own": own}, times={"own": 2}, limit=3
    )
    assert [row["id"] for row in rows] == ["aime-train/1984-1"] + [f"own/{n}" for n in (0, 0, 1, 1, 2, 2)]
    assert lines == ["problems: 1 of aime-train, 3 of own"]
    assert rows[0]["prompt"][0]["content"].endswith("within \\boxed{}.")
    plain = rows_of(source="own", path=own, instruction="")
    assert plain[0]["prompt"][0]["content"] == "What is 0 + 1?"
    assert dataset_of(rows).features == dataset_of(plain).features


def test_repeats_and_leaks_are_taken_out_and_told(tmp_path: Path) -> None:
    """Across all sets of the run, against evaluation sets by name."""
    own = write(
        tmp_path / "own.jsonl", [*ONES, {"question": "what is 3 + 1 ?", "answer": 4}, ONES[0], ONES[0]]
    )
    test = write(tmp_path / "t.jsonl", [{"problem": "What is 5 + 1?", "answer": "6"}])
    lines: list[str] = []
    paths = {"own": own, "aime24": test}
    rows = rows_of(lines, source="own", path=paths, deduplicate=True, decontaminate="aime24")
    assert [row["id"] for row in rows] == [f"own/{n}" for n in range(5)]
    said = "\n".join(lines)
    for count in ("kept 5 of 9 problems", "removed 3: duplicate", "removed 1: in the test set", "5 of own"):
        assert count in said
    with pytest.raises(DataError, match="nothing is left"):
        rows_of(source="own", path={"own": test, "aime24": test}, decontaminate="aime24")


def test_rows_are_what_the_graders_read(tmp_path: Path) -> None:
    """The joint between two packages: answers to math-verify, tests to the sandbox, of all three kinds."""
    math = rows_of(source="own", path=write(tmp_path / "m.jsonl", ONES))
    with MathGrader(workers=1) as grader:
        sample = Sample(solution="so $\\boxed{1}$", answer=math[0]["answer"])
        assert [g.score for g in grader.grade([sample])] == [1.0]
    problems = [
        {"question": "Echo.", "tests": [{"input": "3\n", "output": "3\n"}]},
        {"question": "Add one.", "tests": [{"input": [1], "output": 2}], "entry_point": "f"},
        {"question": "Add two.", "tests": ["assert f(1) == 3", "assert f(2) == 4"]},
        {
            "question": "Add 3.",
            "test": "def check(candidate):\n    assert candidate(1) == 4",
            "entry_point": "f",
        },
    ]
    code = rows_of(source="own", path=write(tmp_path / "c.jsonl", problems))
    try:
        grader_of_code = CodeGrader(workers=1)
    except Exception as error:
        pytest.skip(f"no sandbox here: {error}")
    solutions = ["print(input())", *(f"def f(x):\n    return x + {n}" for n in (1, 2, 3))]
    samples = [
        Sample(solution=f"```python\n{text}\n```", answer=row["tests"])
        for text, row in zip(solutions, code, strict=True)
    ]
    assert [(g.score, g.failure) for g in grader_of_code.grade(samples)] == [(1.0, "")] * 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("rows", "data", "error", "said"),
    [
        ([{"text": "1 + 1"}], {}, DataError, "own.jsonl, line 1: no column for the question"),
        ([], {}, DataError, "own.jsonl gives no problem, it has no rows"),
        (ONES[:1] * 3, {}, DataError, "2 of 3 problems repeat an earlier one.*data.deduplicate"),
        (ONES, {"path": {}}, DataError, "data.path says which file"),
        (ONES, {"source": "omni-mth", "path": {}}, ConfigError, "did you mean omni-math?"),
        (ONES, {"decontaminate": ["aime42"]}, ConfigError, "data.decontaminate.*did you mean aime24"),
        (ONES, {"source": ["own", "word-problems"]}, ConfigError, "own, word-problems can't be joined"),
        (ONES, {"source": "gsm8k", "path": {}}, DataError, "can't be had from the hub.*data.path"),
        (
            [{"question": "?", "tests": ["assert f()"]}],
            {},
            ConfigError,
            "own/0 is a code problem, and reward.kind is math",
        ),
    ],
)
def test_bad_data_is_one_clear_error_before_a_weight_is_loaded(
    rows: list[dict[str, Any]],
    data: dict[str, Any],
    error: type[Exception],
    said: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    path = {"own": str(write(tmp_path / "own.jsonl", rows))}
    config = {"source": "own", "path": path, "instruction": "", **data}
    with pytest.raises(error, match=said):
        validate(small(base, tmp_path / "out", data=config, reward={"kind": "math"}), lambda _: None)


def test_presets_name_the_papers_data() -> None:
    for name in ("e1-math-1.5b", "e1-math-7b"):
        assert load_config(name).data.source == ("aime-train", "amc-train", "omni-math", "still")
    assert load_config("e1-code-14b").data.source == ("taco", "synthetic-1", "livecodebench-train")
    one = load_config("e1-math-1.5b", ["data.source=deepscaler", "data.path=copy"]).data
    assert one.path == {"deepscaler": Path("copy")}


def test_a_run_on_ones_own_problems_from_the_file_to_the_metrics(base: Path, tmp_path: Path) -> None:
    """File, prompts, rollouts, math-verify, an update: the whole path, on a random model."""
    own = write(tmp_path / "own.jsonl", [{**row, "answer": [row["answer"], "one more"]} for row in ONES])
    lines: list[str] = []
    data = {"source": "own", "path": str(own), "instruction": ""}
    config = small(base, tmp_path / "out", data=data, reward={"kind": "math", "workers": 1}, steps=1)
    trainer = train(config, log=lines.append)
    assert "problems: 6 of own" in lines
    assert trainer.state.log_history[0]["math/failures"] == 0
    assert (tmp_path / "out" / "metrics.svg").read_text().startswith("<svg")


def test_own_rows_keep_their_columns_and_a_conversation_is_a_question(tmp_path: Path) -> None:
    """`row["prices"]` reaches an agent's environment and a reward; one row may lack it."""
    talk = [
        {"role": "system", "content": "You keep a shop."},
        {"role": "user", "content": "What is in it?"},
        {"role": "assistant", "content": "Apples."},
        {"role": "user", "content": "What do 3 cost?"},
    ]
    own = write(
        tmp_path / "own.jsonl",
        [
            {"question": talk, "answer": 6, "prices": {"apple": 2}},
            {"messages": talk[:2], "answer": "apples"},
        ],
    )
    first, second = rows_of(source="own", path=own, instruction="Be short.")
    assert (first["prices"], second["prices"]) == ({"apple": 2}, None)
    assert first["prompt"] == [*talk[:3], {"role": "user", "content": "What do 3 cost? Be short."}]
    assert [message["role"] for message in second["prompt"]] == ["system", "user"]
    assert dataset_of([first, second])["prices"][0] == {"apple": 2}
    for wrong, said in (
        (talk[:3], "must end with a message of the user"),
        ([{"role": "robot", "content": "x"}], "one of system, user, assistant"),
        ([{"role": "user", "content": 3}], "the user's message must be text"),
    ):
        write(own, [{"question": wrong, "answer": 1}])
        with pytest.raises(DataError, match=said):
            rows_of(source="own", path=own)


def test_an_agent_gets_rows_as_they_stand(tmp_path: Path) -> None:
    """No column is needed, renamed or dropped, and no row gets the keys of another one."""
    rows = [
        {"question": "What do 3 cost?", "prices": {"apple": 2}},
        {"talk": [{"role": "user", "content": "hi"}]},
    ]
    own = write(tmp_path / "own.jsonl", rows)
    base = make_base(tmp_path / "base")
    given = {"run": "tests.training.data.test_training_set:shop", "caps": {"tokens": 100}}
    data = {"source": "rows", "path": str(own)}
    config = small(base, tmp_path, data=data, agent=given, budgets=None, steps=4)
    ready = validate(config, [].append)
    assert sorted(map(str, ready.rows)) == sorted(map(str, rows * 8))
    assert all(ready.rows[i] == rows[number - 1] for i, number in enumerate(ready.numbers))
    write(own, [])
    with pytest.raises(DataError, match="holds no rows"):
        validate(config, [].append)
    with pytest.raises(DataError, match=r"data\.path says which file"):
        validate(small(base, tmp_path, data={"source": "rows"}, agent=given, budgets=None), [].append)


async def shop(row: dict[str, Any], llm: Any) -> float:
    """An agent of one's own."""
    return 1.0
