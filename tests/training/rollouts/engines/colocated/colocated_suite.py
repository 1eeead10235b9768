"""Training with vLLM in the process that trains: run in the environment of vLLM by test_colocated.py.

All runs share one `vllm.LLM`, which takes a minute to start on a machine that is busy.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.errors import ConfigError
from elastic_agent.generation.generate import generate
from elastic_agent.generation.result import Generation
from elastic_agent.model_location import model_path
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.grpo.checkpoints import checkpoints, fault
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.rollouts.engines import weights
from elastic_agent.training.rollouts.engines.colocated import engine as colocated
from elastic_agent.training.rollouts.engines.colocated.engine import ColocatedVllm
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.probe import (
    FLOOR,
    StaleWeightsError,
    mean_gap,
    trainer_logprobs,
    vllm_logprobs,
)
from elastic_agent.training.rollouts.rollout import Call, Rollout
from elastic_agent.training.run import train
from tests.training.agents.talks import TALKS
from tests.training.ranks import TOLERANCE, launch
from tests.training.rollouts.engines.test_serving import calls_of, in_a_loop, same
from tests.training.runs import EASY, small

MODEL = Path(model_path("e1-tiny"))
ROUNDING = 1e-4
"""Nats, of a token: both sides compute in float32; 4e-6 at most was seen."""
LORA = {"lora": {"rank": 4}, "learning": {"rate": 0.03}}

started: list[Any] = []
"""The one `vllm.LLM`, once a test has started it."""
start_llm = colocated.start_llm


@pytest.fixture(autouse=True)
def llm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one vLLM, with the weights of the base at the start of each run."""

    def again(config: TrainConfig, base: str) -> Any:
        if not started:
            started.append(start_llm(config, base))
        started[0].collective_rpc("reload_weights")
        started[0].reset_prefix_cache()
        return started[0]

    monkeypatch.setattr(colocated, "start_llm", again)
    monkeypatch.setattr(ColocatedVllm, "close", lambda self: None)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Call, Rollout]]:
    """Every call that the engine decodes, with its rollout."""
    found: list[tuple[Call, Rollout]] = []
    decode = ColocatedVllm.decode

    def recorded(self: ColocatedVllm, trainer: Any, batch: Batch) -> list[Rollout]:
        done = decode(self, trainer, batch)
        found.extend(zip(batch.calls, done, strict=True))
        return done

    monkeypatch.setattr(ColocatedVllm, "decode", recorded)
    return found


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[ColocatedVllm]:
    """Every engine that a run starts."""
    found: list[ColocatedVllm] = []
    start = ColocatedVllm.start

    def recorded(self: ColocatedVllm, trainer: Any) -> None:
        found.append(self)
        start(self, trainer)

    monkeypatch.setattr(ColocatedVllm, "start", recorded)
    return found


def run_of(**changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "rollout": {"prompts": 2, "group": 2, "context": 160, "engine": "vllm"},
        "reward": {"kind": EASY},
        "learning": {"rate": 0.003},
        "budgets": {"thinking": [0, 24], "solution": 8},
    }
    return options | changes


def quiet(_: str) -> None: ...


@pytest.mark.parametrize("changes", [{}, LORA], ids=["full", "lora"])
def test_budgets_are_exact_and_the_copy_follows_the_weights(
    tmp_path: Path,
    sampled: list[tuple[Call, Rollout]],
    engines: list[ColocatedVllm],
    changes: dict[str, Any],
) -> None:
    """Laws 3 and 6. After each update vLLM samples with the weights in training, adapters merged."""
    trainer = train(small(MODEL, tmp_path, **run_of(**changes), steps=3), log=quiet)
    (engine,) = engines
    assert len(sampled) == 12
    for (_, budget), rollout in sampled:
        assert rollout.usage.solution <= budget.solution
        assert rollout.thinking_tokens <= (budget.thinking or 0)
        assert not rollout.cut or rollout.thinking_tokens == budget.thinking
        assert [p is None for p in rollout.logprobs] == [not m for m in rollout.env_mask]
    assert any(rollout.cut for _, rollout in sampled)
    rows = read_csv((tmp_path / "metrics.csv").read_text())
    for row in rows:
        assert row["rollout/sync_gap"] < FLOOR["float32"]
        assert row["sampling/sampling_logp_difference/max"] < ROUNDING
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=ROUNDING)
    stale = mean_gap(trainer_logprobs(trainer, engine._probe), vllm_logprobs(engine._llm, engine._probe))
    assert stale > engine._most, "the last update moved the weights by more than rounding"
    engine.sync_weights()
    served_as_decoded(engine, trainer)


def served_as_decoded(engine: ColocatedVllm, trainer: Any) -> None:
    """Calls of tasks, in a loop of another thread, are those of `decode`: ids, masks, log-probs. Those that
    are cancelled are aborted in vLLM."""
    calls = calls_of((0, 3, 12, None) * 2)
    markers, drawn = engine._served.codec.markers, Sampling(0.0, 1.0)
    decoded = engine.decode(trainer, Batch(calls, markers, 160, drawn, range(len(calls))))

    async def use(backend: Backend) -> list[Generation]:
        assert backend.context_length == 160

        async def call(i: int) -> Generation:
            prompt, budget = calls[i]
            return await generate(backend, prompt, budget, sampling=replace(drawn, logprobs=True))

        tasks = [asyncio.create_task(call(3)) for _ in range(16)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return await asyncio.gather(*(call(i) for i in range(len(calls))))

    same(in_a_loop(engine, trainer, use), decoded, ROUNDING)
    assert not engine._llm.llm_engine.has_unfinished_requests()


def lost(self: ColocatedVllm) -> None:
    """A sync that does nothing."""


def half(self: ColocatedVllm) -> None:
    """A sync that leaves out the weights of attention, as vLLM's packed layers on a CPU do."""
    named = [(n, w) for n, w in weights.named_weights(self._trainer) if "self_attn" not in n]
    model = self._llm.llm_engine.model_executor.driver_worker.model_runner.model
    model.load_weights(named)


@pytest.mark.parametrize("broken", [lost, half])
def test_a_sync_that_does_not_take_stops_the_run(
    tmp_path: Path,
    sampled: list[tuple[Call, Rollout]],
    monkeypatch: pytest.MonkeyPatch,
    broken: Any,
) -> None:
    """No batch is sampled with stale weights; a checkpoint of the last update is there."""
    monkeypatch.setattr(ColocatedVllm, "_reload", broken)
    said: list[str] = []
    with pytest.raises(StaleWeightsError, match=r"after the sync at update 1 .* has not taken the weights"):
        train(small(MODEL, tmp_path, **run_of(), steps=3), log=said.append)
    assert len(sampled) == 4, "the first batch alone"
    assert [(step, fault(path)) for step, path in checkpoints(tmp_path / "checkpoints")] == [(1, None)]
    assert any("stopped after step 1: --resume goes on" in line for line in said)


def test_another_model_in_vllm_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = colocated.start_llm

    def other(config: TrainConfig, folder: str) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        llm, model = base(config, folder), AutoModelForCausalLM.from_pretrained(folder).float()
        noise = ((n, w + 0.05 * torch.randn_like(w)) for n, w in model.named_parameters())
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": noise})
        return llm

    monkeypatch.setattr(colocated, "start_llm", other)
    with pytest.raises(ConfigError, match="another model"):
        train(small(MODEL, tmp_path, **run_of(), steps=1), log=quiet)


def test_anytime_rewards_sample_in_it(tmp_path: Path, sampled: list[tuple[Call, Rollout]]) -> None:
    """Several batches of calls between two syncs; the rows of a sample share its thinking."""
    options = run_of(anytime={"cuts": 2}, budgets={"thinking": [4, 24], "solution": 8})
    train(small(MODEL, tmp_path, **options, steps=1), log=quiet)
    assert len(sampled) == 8
    (row,) = read_csv((tmp_path / "metrics.csv").read_text())
    assert row["sampling/sampling_logp_difference/max"] < ROUNDING


def test_agents_sample_in_it(tmp_path: Path) -> None:
    """Several calls between two syncs, granted by a real scheduler; forced tokens carry no log-prob."""
    options = run_of(**TALKS) | {"rollout": {"prompts": 2, "group": 2, "context": 256, "engine": "vllm"}}
    train(small(MODEL, tmp_path, **options, steps=1), log=quiet)
    (row,) = read_csv((tmp_path / "metrics.csv").read_text())
    assert (row["agent/calls"] or 0) > 1
    assert row["agent/failed"] == 0
    assert row["sampling/sampling_logp_difference/max"] < ROUNDING


@pytest.mark.timeout(500)
def test_two_processes_with_a_vllm_each(tmp_path: Path) -> None:
    """By torch's launcher, a half of the weights in each: both copies follow the weights in training, and
    samples and updates are those of one process. The weights are gathered for the model that is written, when
    vLLM has stopped."""
    options = run_of(
        rollout={"prompts": 2, "group": 4, "context": 160, "engine": "vllm", "temperature": 2.0},
        device={"bucket_tokens": 60},
    )
    alone = train(small(MODEL, tmp_path / "alone", **options), log=quiet).state.log_history
    sharded = options | {"device": {"bucket_tokens": 60, "shard": "fsdp2"}}
    done, results = launch(MODEL, tmp_path / "two", {"sharded": sharded})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("vLLM runs in float32") == 1, "one rank speaks"
    assert (results["sharded"]["processes"], results["sharded"]["kind"]) == (2, "FSDP")
    for log in results["sharded"]["logs"]:  # of each rank
        for mine, theirs in zip(log, alone[:-1], strict=True):
            assert theirs["grad_norm"] > 0
            assert mine["rollout/sync_gap"] < FLOOR["float32"]
            assert mine["sampling/sampling_logp_difference/max"] < ROUNDING
            assert mine["reward"] == pytest.approx(theirs["reward"], abs=1e-6)
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=TOLERANCE)
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], abs=TOLERANCE)
    assert (tmp_path / "two" / "sharded" / "model.safetensors").exists()
