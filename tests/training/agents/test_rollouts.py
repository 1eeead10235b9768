"""Episodes in GRPO: who gets which cap, what TRL is given, what is logged, resuming to the same weights."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elastic_agent.backends.base import Sampling
from elastic_agent.training.agents.agent import ENVIRONMENTS
from elastic_agent.training.agents.rollouts import ROW_NUMBER, make_agent_rollout_func
from elastic_agent.training.budgets.distributions import mixture
from elastic_agent.training.config.fields import ConfigError
from elastic_agent.training.data.lookups import make_lookup_rows
from elastic_agent.training.data.training_set import SOURCES
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.rollouts.engines.in_process import decode_in_process
from elastic_agent.training.run import train
from tests.training.agents.episodes import VOCAB, always_calls, ids
from tests.training.runs import easy_reward, make_base, small
from tools.e1_tiny.tokenizer import CLOSE, END, START, THINK

AGENT: dict[str, Any] = {
    "data": {"source": "lookups"},
    "agent": {"environment": "talks", "turns": 3, "tokens": [30, 90]},
    "budgets": {"thinking": [None], "solution": 10},
    "rollout": {"prompts": 4, "group": 4, "context": 256},
    "learning": {"rate": 0.01, "minibatches": 2},
    "checkpoint": {"every": 1, "keep": 9},
    "reward": {"kind": f"{__name__}:easy_episodes"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _talks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment for a random model: two turns call the tool."""
    monkeypatch.setitem(ENVIRONMENTS, "talks", lambda row: always_calls(2))


def easy_episodes(**columns: Any) -> list[float]:
    """A reward that random models can earn, over whole episodes."""
    return easy_reward(solution_ids=columns["completion_ids"])


def quiet(_: str) -> None: ...


def roll(base: Path, tmp_path: Path, *, step: int = 0, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """One batch of rollouts: two groups of three on a random model."""
    from elastic_agent.training.grpo.export import load_model

    ready = validate(small(base, tmp_path, **(AGENT | changes)), quiet)
    assert ready.agent is not None
    rows = make_lookup_rows(0, 2, split="train")
    rollout = make_agent_rollout_func(
        ready.agent,
        rows,
        budgets=mixture((0, 5, 9, 14), 10),
        sampling=Sampling(1.0, 1.0),
        seed=seed,
        engine=decode_in_process,
    )
    trainer = SimpleNamespace(
        model=load_model(base),
        num_generations=3,
        rollout_rows=[{ROW_NUMBER: i // 3} for i in range(6)],
        accelerator=SimpleNamespace(unwrap_model=lambda m: m, process_index=0, num_processes=1),
        args=SimpleNamespace(steps_per_generation=1, num_iterations=1, gradient_accumulation_steps=1),
        state=SimpleNamespace(global_step=step),
    )
    return rollout([rows[i // 3]["prompt"] for i in range(6)], trainer)


def test_a_group_shares_its_cap_and_asks_for_the_same(base: Path, tmp_path: Path) -> None:
    out = roll(base, tmp_path)
    caps, limits = out["task_cap"], out["thinking_limit"]
    assert caps[0] == caps[1] == caps[2] != caps[3] == caps[4] == caps[5]
    assert all(30 <= cap <= 90 for cap in caps)
    assert limits[0] == limits[1] == limits[2]
    assert all(tokens <= cap for tokens, cap in zip(out["tokens"], caps, strict=True))
    assert all(sum(m) <= n for m, n in zip(out["env_mask"], out["tokens"], strict=True))
    assert {len(v) for v in out.values() if v is not None} == {6}


def test_without_a_cap_each_turn_gets_what_is_drawn(base: Path, tmp_path: Path) -> None:
    out = roll(base, tmp_path, agent={"environment": "talks", "turns": 3})
    assert out["task_cap"] == [None] * 6
    assert set(out["thinking_limit"]) <= {0, 5, 9, 14}


def test_draws_follow_from_seed_and_batch_alone(base: Path, tmp_path: Path) -> None:
    first = roll(base, tmp_path, step=4)
    assert first == roll(base, tmp_path, step=4)
    assert first["completion_ids"] != roll(base, tmp_path, step=5)["completion_ids"]
    assert first["completion_ids"] != roll(base, tmp_path, step=4, seed=1)["completion_ids"]


def test_a_run_logs_its_episodes_and_resumes_to_the_same_weights(base: Path, tmp_path: Path) -> None:
    """Cut back to its second checkpoint of four, a run ends with the weights of the one in one go."""
    import torch

    whole = train(small(base, tmp_path / "whole", steps=4, **AGENT), log=quiet)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"checkpoint-{step}")
    lines: list[str] = []
    resumed = train(small(base, tmp_path / "cut", steps=4, **AGENT), resume=True, log=lines.append)
    assert any("checkpoint-4" in line for line in lines)
    weights = whole.model.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in resumed.model.state_dict().items())

    row = read_csv((tmp_path / "whole" / "metrics.csv").read_text())[-1]
    assert 1 <= (row["agent/turns"] or 0) <= 3
    assert 30 <= (row["agent/task_cap"] or 0) <= 90
    assert (row["agent/tokens"] or 99) <= 90
    assert 0 <= (row["agent/answered"] or 0) <= 1
    assert row["agent/answered"] == pytest.approx(1 - (row["solution/unfinished"] or 0))
    assert (row["agent/tool_calls"] or 0) >= 0


def test_trls_loss_leaves_out_what_a_tool_says(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the tensors that the loss is computed from: tool results and forced closes 0, all else 1."""
    from trl import GRPOTrainer

    glue = ids(f"{START} user #1 It sells 1 . {END} {START} assistant {THINK}")
    seen: list[tuple[list[int], list[int]]] = []
    loss = GRPOTrainer._compute_loss

    def watched(self: Any, model: Any, inputs: Any) -> Any:
        rows = zip(inputs["completion_ids"], inputs["completion_mask"], inputs["tool_mask"], strict=True)
        for tokens, real, mask in rows:
            length = int(real.sum())
            seen.append((tokens[:length].tolist(), mask[:length].tolist()))
        return loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", watched)
    train(small(base, tmp_path, steps=6, **AGENT), log=quiet)  # a random model seldom ends a turn in time
    found = 0
    for tokens, mask in seen:
        expected, at = [1] * len(tokens), 0
        while at < len(tokens):
            if tokens[at : at + len(glue)] == glue:
                expected[at : at + len(glue)] = [0] * len(glue)
                at, found = at + len(glue), found + 1
            else:
                at += 1
        masked = [t for t, m, e in zip(tokens, mask, expected, strict=True) if m != e]
        assert set(masked) <= {VOCAB[CLOSE]}, "forced closes are the only others"
    assert len(seen) == 6 * 16
    assert found


def test_an_environment_gets_the_rows_of_the_source(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set would give every dict the keys of all others: a shop would sell what it does not have."""
    goods = [{"tea": 3}, {"milk": 2, "eggs": 1}]
    prompts = [row["prompt"] for row in make_lookup_rows(0, 2, split="train")]
    rows = [{"prompt": p, "goods": g} for p, g in zip(prompts, goods, strict=True)]
    seen: list[dict[str, int]] = []

    def shop(row: Any) -> Any:
        seen.append(row["goods"])
        return always_calls(1)

    monkeypatch.setitem(SOURCES, "shop", lambda config, needed, seed, log: rows)
    monkeypatch.setitem(ENVIRONMENTS, "shop", shop)
    changes = {"data": {"source": "shop"}, "agent": {"environment": "shop", "turns": 2}}
    train(small(base, tmp_path, steps=1, **(AGENT | changes)), log=quiet)
    assert all(found in goods for found in seen)
    assert all(seen.count(each) >= 8 for each in goods)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"environment": "talk"}, "did you mean talks"),
        ({"environment": "nowhere:talk"}, "'nowhere:talk' can't be imported"),
        ({"environment": "tests.training.agents.episodes:nothing"}, "can't be imported"),
        ({"options": {"colour": "red"}}, "first episode can't start: TypeError"),
        ({"scheduler": "elastic_agent.scheduler.runtime.offline_task:Walk"}, "agent.scheduler"),
        ({"scheduler_options": {"policy": "greedy"}}, "there are marginal, uniform"),
        ({"tokens": 9}, "can't hold one answer"),
        ({"tokens": [90, 30]}, "agent.tokens"),
        ({"turns": 0}, "agent.turns"),
        ({"environment": "lookups"}, "whose environment gives its episodes a score"),
    ],
)
def test_what_is_wrong_with_an_agent_is_said_before_anything_is_loaded(
    base: Path, tmp_path: Path, changes: dict[str, Any], wrong: str
) -> None:
    agent = {"agent": AGENT["agent"] | changes, "reward": {"kind": "episode"}}
    with pytest.raises(ConfigError, match=wrong):
        validate(small(base, tmp_path, **(AGENT | agent)), quiet)


def test_an_environment_of_ones_own_is_imported(base: Path, tmp_path: Path) -> None:
    agent = {"environment": "elastic_agent.training.agents.lookup_environment:lookup_environment"}
    ready = validate(small(base, tmp_path, **(AGENT | {"agent": agent})), quiet)
    assert ready.agent is not None
    episode = ready.agent.environment(make_lookup_rows(0, 1, split="train")[0])
    assert set(episode.tools) == {"line"}
