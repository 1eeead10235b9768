"""Agents in the trainer: rows, groups, failures, resuming, the wire: on a random model, with real updates."""

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.training.agents import rollouts
from elastic_agent.training.agents.rollouts import EpisodesFailedError
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.run import train
from tests.training.agents.talks import TALKS
from tests.training.runs import make_base, small

ROWS = [{"question": f"what is #{n} ?", "prices": {"tea": n}} for n in range(1, 9)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def quiet(_: str) -> None: ...


def run_of(base: Path, folder: Path, name: str, /, **changes: Any) -> TrainConfig:
    """A run of one of the agents below on rows of one's own."""
    rows = folder / "rows.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    section = {
        "run": f"{__name__}:{name}",
        "caps": {"tokens": [40, 90]},
        "llm": {"solution_budget": 8},
        "resample": 0,
        **changes.pop("agent", {}),
    }
    given: dict[str, Any] = {
        "agent": section,
        "data": {"source": "rows", "path": str(rows)},
        "budgets": None,
        "rollout": {"prompts": 4, "group": 4, "context": 256},
        "learning": {"rate": 0.01},
    }
    return small(base, folder / "out", **(given | changes))


def worth(text: str) -> float:
    """A reward that random models can earn."""
    return (len(text) % 7) / 7


async def asks_twice(row: Mapping[str, Any], llm: Any) -> dict[str, float]:
    assert row == ROWS[row["prices"]["tea"] - 1]
    first, second = await asyncio.gather(llm.ainvoke(row["question"]), llm.ainvoke("what is #2 ?"))
    return {"first": worth(first.text), "second": worth(second.text)}


async def crashes_in_every_third(row: Mapping[str, Any], llm: Any) -> float:
    said = (await llm.ainvoke(row["question"])).text
    if row["prices"]["tea"] % 3 == 0:
        raise ValueError(f"no tea for {row['prices']['tea']}")
    return worth(said)


async def hangs(row: Mapping[str, Any], llm: Any) -> float:
    said = (await llm.ainvoke(row["question"])).text
    await asyncio.sleep(60 if row["prices"]["tea"] % 4 == 0 else 0)
    return worth(said)


async def in_process(row: Mapping[str, Any], llm: Any) -> float:
    return worth((await llm.ainvoke(row["question"])).text)


async def by_openai(row: Mapping[str, Any], llm: Any) -> float:
    from openai import AsyncOpenAI

    from elastic_agent.integrations.langchain import use_client

    asked: list[Any] = [{"role": "user", "content": row["question"]}]
    async with AsyncOpenAI(**use_client(llm)) as client:
        said = await client.chat.completions.create(model="gpt-5-mini", messages=asked)
    return worth(said.choices[0].message.content or "")


PROCESS = """
import json, os, sys, urllib.request
row = json.loads(sys.stdin.readline())
assert os.environ["ELASTIC_CAPS"].startswith("tokens="), "the caps of its task"
body = {"model": "any", "messages": [{"role": "user", "content": row["question"]}]}
request = urllib.request.Request(
    os.environ["OPENAI_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
    {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
said = json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"] or ""
print("so much for talk")
print(json.dumps({"worth": (len(said) % 7) / 7}))
"""


def test_an_agent_is_trained_and_its_numbers_are_logged(base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    trainer = train(run_of(base, tmp_path, "asks_twice", agent={"resample": 1}), log=lines.append)
    assert trainer.state.log_history[0]["grad_norm"] > 0
    (row, _) = read_csv((tmp_path / "out" / "metrics.csv").read_text())
    assert row["agent/calls"] == row["agent/sequences"] == 2
    assert (row["agent/failed"], row["agent/refused"]) == (0, 0)
    assert 40 <= (row["agent/task_cap"] or 0) <= 90
    assert (row["agent/tokens"] or 99) <= 90
    assert row["agent/first"] + row["agent/second"] == pytest.approx(row["reward"])  # type: ignore[operator]
    assert 0 <= (row["agent/resampled"] or 0) <= 1
    assert any("no call extends the one before" in line for line in lines)
    assert "elastic-agent eval --model" in lines[-1]
    assert "--agent tests.training.agents.test_training:asks_twice" in lines[-1]


def test_a_run_that_was_cut_ends_with_the_weights_of_one_in_one_go(base: Path, tmp_path: Path) -> None:
    """Episodes run side by side, so batches of the decoder may differ, and with them the last bits."""
    import torch

    options: dict[str, Any] = {"steps": 3, "checkpoint": {"every": 1, "keep": 9}, "learning": {"rate": 0.01}}
    whole = train(small(base, tmp_path / "whole", **(TALKS | options)), log=quiet)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (2, 3):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"checkpoint-{step}")
    lines: list[str] = []
    resumed = train(small(base, tmp_path / "cut", **(TALKS | options)), resume=True, log=lines.append)
    assert any("checkpoint-1" in line for line in lines)
    weights = whole.model.state_dict()
    for name, weight in resumed.model.state_dict().items():
        assert torch.allclose(weights[name], weight, atol=1e-4), name


def test_crashes_cost_their_own_rows_and_the_run_ends(base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = run_of(base, tmp_path, "crashes_in_every_third", agent={"failures": 0.6})
    trainer = train(config, log=lines.append)
    assert trainer.state.global_step == 2
    assert trainer.state.log_history[0]["grad_norm"] > 0
    said = [line for line in lines if "no tea for" in line]
    assert said
    assert all(line.startswith(("row 3: the agent raised", "row 6: the agent raised")) for line in said)
    rows = read_csv((tmp_path / "out" / "metrics.csv").read_text())
    assert sum(row["agent/failed"] or 0 for row in rows) == pytest.approx(0.5)  # 2 of 8 rows, over both steps


def test_too_many_failures_end_the_run_with_the_last_one(base: Path, tmp_path: Path) -> None:
    config = run_of(base, tmp_path, "crashes_in_every_third", agent={"failures": 0.0})
    with pytest.raises(
        EpisodesFailedError, match=r"the last failure, of row (3|6): the agent raised ValueError"
    ):
        train(config, log=quiet)


def test_a_hang_costs_its_own_row(base: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    config = run_of(base, tmp_path, "hangs", agent={"failures": 0.6, "seconds": 5.0}, steps=1)
    assert train(config, log=lines.append).state.global_step == 1
    said = [line for line in lines if "did not end" in line]
    assert all(line.startswith(("row 4:", "row 8:")) for line in said)


def test_an_agent_by_wire_is_trained_on_what_it_is_in_process(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent in LangChain's words, by openai's client, and in a process: three steps with the same ids,
    masks, log-probs, rewards and losses."""
    pytest.importorskip("openai")
    (tmp_path / "agent.py").write_text(PROCESS)
    made: list[dict[str, Any]] = []

    def kept(*given: Any, **options: Any) -> dict[str, Any]:
        made.append(columns(*given, **options))
        return made[-1]

    columns = rollouts.columns
    monkeypatch.setattr(rollouts, "columns", kept)
    process = {"run": None, "command": [sys.executable, str(tmp_path / "agent.py")]}
    found = {}
    for way in ("in_process", "by_openai", "process"):
        section = {"scheduler": {"solution": 8}, **(process if way == "process" else {})}
        made.clear()
        # A small rate: the order of a batch differs, and a large update would blow its rounding up
        config = run_of(base, tmp_path / way, way, agent=section, steps=3, learning={"rate": 1e-5})
        config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"dtype": "float32"})})
        log = train(config, log=quiet).state.log_history
        names = ("prompt_ids", "completion_ids", "env_mask", "logprobs", "episode_score")
        ids = [[batch[name] for name in names] for batch in made]
        found[way] = ids, [(entry["reward"], entry["loss"], entry["grad_norm"]) for entry in log[:3]]
        assert len(made) == 3
        assert made[0]["logprobs"][0][0] is not None
    for way in ("by_openai", "process"):
        for (*mine, mine_log, _), (*theirs, their_log, _) in zip(
            found[way][0], found["in_process"][0], strict=True
        ):
            assert mine == theirs
            for one, other in zip(mine_log, their_log, strict=True):
                assert one == pytest.approx(other, abs=2e-5)
        for one, other in zip(found[way][1], found["in_process"][1], strict=True):
            assert one == pytest.approx(other, abs=2e-4)


@pytest.mark.parametrize(
    ("agent", "changes", "wrong"),
    [
        ({"run": "lookup"}, {}, "did you mean lookups"),
        ({"run": "nowhere:agent"}, {}, "'nowhere:agent' can't be imported"),
        ({"run": f"{__name__}:nothing"}, {}, "can't be imported"),
        ({"run": f"{__name__}:ROWS"}, {}, "is no function but a list"),
        ({"run": f"{__name__}:worth"}, {}, r"can't be called as agent\(row, llm\)"),
        ({"options": {"colour": "red"}}, {}, r"agent\(row, llm, colour=\)"),
        ({"run": None, "command": ["no-such-program"]}, {}, "agent.command: there is no program"),
        ({"scheduler": {"policy": "greedy"}}, {}, "agent.scheduler.policy: there is no 'greedy'"),
        ({"scheduler": {"curves": "nowhere.json"}}, {}, "agent.scheduler.curves"),
        ({"tell": "{thinking} left"}, {}, "agent.tell"),
        ({"resample": 1}, {"rollout": {"prompts": 1, "group": 4, "context": 256}}, ""),
    ],
)
def test_what_is_wrong_with_an_agent_is_said_before_anything_is_loaded(
    base: Path, tmp_path: Path, agent: dict[str, Any], changes: dict[str, Any], wrong: str
) -> None:
    config = run_of(base, tmp_path, "asks_twice", agent=agent, **changes)
    if not wrong:
        validate(config, quiet)
        return
    with pytest.raises(ConfigError, match=wrong):
        validate(config, quiet)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"agent": {"run": None}}, "set run, for an agent in Python, or command"),
        ({"agent": {"command": ["true"]}}, "set run, for an agent in Python, or command"),
        ({"agent": {"caps": {}}}, "set tokens, usd or seconds"),
        ({"agent": {"caps": {"tokens": [90, 40]}}}, "expected one number, or the lowest and the highest"),
        ({"agent": {"caps": {"usd": 0.1}}}, "caps.usd needs price"),
        ({"agent": {"scheduler": {"policy": "fixed"}}}, 'policy "fixed" and thinking go together'),
        ({"budgets": {"thinking": [4], "solution": 6}}, "leave budgets out"),
        ({"reward": {"kind": "math"}}, "leave reward out"),
        ({"anytime": {"cuts": 2}}, "leave anytime out"),
        ({"validation": {"every": 1}}, "leave validation out"),
    ],
)
def test_what_does_not_go_together_is_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        run_of(base, tmp_path, "asks_twice", **changes)
