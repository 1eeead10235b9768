"""Agents measured by caps."""

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.budget import Caps
from elastic_agent.errors import DataError, ElasticError, UsageError
from elastic_agent.scheduler.estimates.curve_files import parse
from elastic_agent.training.agents.episode import Episode
from elastic_agent.training.agents.result import EpisodeResult
from elastic_agent.training.data.lookups import make_lookup_rows
from elastic_agent.training.evaluation.agents.options import parse_cap_list
from elastic_agent.training.evaluation.agents.summary import curves_of, summarize, table
from elastic_agent.training.evaluation.cli import main
from tests.training.agents.scripted import ask, run, specs
from tests.training.runs import make_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("agents")
    make_base(made / "base")
    rows = make_lookup_rows(0, 3, split="test")
    (made / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def evaluate(folder: Path, *more: str) -> int:
    words = ("--model", str(folder / "base"), "--agent", "lookups", "--data", str(folder / "test.jsonl"))
    return main([*words, "--output", str(folder / "out"), "--set", "llm={solution_budget: 8}", *more])


def test_an_agent_by_caps_and_its_curves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = folder / "curves.json"
    assert (
        evaluate(folder, "--caps", "tokens=40,90", "--samples", "2", "--curves", str(curves), "--json") == 0
    )
    said = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in said[:3])
    rows = json.loads(said[-1])["rows"]
    assert [row["cap"] for row in rows] == ["tokens=40", "tokens=90"]
    for row in rows:
        assert (row["n"], row["episodes"], row["overspend"], row["failed"]) == (3, 6, 0, 0)
        assert row["answered"] + row["refused"] == 1
        assert row["low"] <= row["success"] <= row["high"]
    lines = [json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert all(line["spent"]["tokens"] <= int(line["cap"].split("=")[1]) for line in lines)
    assert parse(json.loads(curves.read_text())).model == "base"


def test_the_same_seed_gives_the_same_episodes(folder: Path) -> None:
    found = []
    for _ in range(2):
        evaluate(folder, "--caps", "tokens=60", "--seed", "3")
        lines = (folder / "out" / "results.jsonl").read_text().splitlines()
        found.append([[line["reward"], line["calls"]] for line in map(json.loads, lines)])
    assert found[0] == found[1]


def test_dollars_need_a_price(folder: Path) -> None:
    with pytest.raises(UsageError, match="caps in usd need a price"):
        evaluate(folder, "--caps", "usd=0.01")
    assert evaluate(folder, "--caps", "usd=0.00001", "--set", "price={input: 0.1, output: 0.4}") == 0
    (line, *_) = (folder / "out" / "results.jsonl").read_text().splitlines()
    assert 0 < json.loads(line)["spent"]["usd"] <= 0.00001


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("--caps", "tokens=40", "--set", "turns=3"), ElasticError, "there is no field agent.turns"),
        (("--caps", "tokens=40", "--agent", "nowhere:agent"), ElasticError, "can't be imported"),
        (("--caps", "tokens=40", "--data", "nowhere.jsonl"), DataError, "does not exist"),
        (("--caps", "tokens=40", "--base-url", "localhost:8000"), ElasticError, "must begin with http"),
    ],
)
def test_bad_input_is_said_before_anything_is_spent(
    folder: Path, words: tuple[str, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises((error, ValueError), match=said):
        evaluate(folder, *words)


@pytest.mark.parametrize(
    "text", ["tokens", "tokens=", "tokens=0", "tokens=1,1", "words=3", "tokens=1.5", "usd=nan"]
)
def test_caps_that_are_none(text: str) -> None:
    with pytest.raises((ElasticError, ValueError)):
        parse_cap_list(text)


def test_numbers_of_refused_and_failed_episodes() -> None:
    """A refused episode earns 0, a failed one is in no mean."""
    one, two, three = specs(3, tokens=100)
    cap = Caps(tokens=100)
    episodes = [Episode(one, result=EpisodeResult(1.0)), Episode(two), Episode(three, failure="it crashed")]
    found = summarize(cap, episodes)
    assert (found.success, found.answered, found.refused, found.failed) == (0.5, 1 / 3, 1 / 3, 1 / 3)
    assert "0.500" in table([found])


def test_a_curve_by_kind_has_the_rewards_of_calls_where_there_are_any() -> None:
    async def agent(row: Any, llm: Any) -> EpisodeResult:
        for kind in ("easy", "hard"):
            await ask(kind=kind, thinking=10 if row["number"] < 4 else 20)
        return EpisodeResult(0.5, calls=[1.0, float(row["number"] >= 4)])

    found = curves_of(run(agent, specs(8, tokens=300)), name="it")
    assert found["kinds"] == {"easy": [[10, 1.0, 4], [20, 1.0, 4]], "hard": [[10, 0.0, 4], [20, 1.0, 4]]}
