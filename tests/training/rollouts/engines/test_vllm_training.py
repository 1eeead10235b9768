"""Training on samples of a real vLLM server: weights get there, and its death costs nothing but time.

The tests share one server (tests/vllm_server.py), and skip where there is no vLLM (`make vllm`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.errors import BackendUnavailableError
from elastic_agent.generation import machine_runner as batch
from elastic_agent.generation.generate import generate
from elastic_agent.generation.result import Generation
from elastic_agent.model_location import model_path
from elastic_agent.prompts.model_files import load_tokenizer
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.rollouts.engines import vllm_server
from elastic_agent.training.rollouts.engines import vllm_servers as served_rollouts
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.logprobs import logprob_gap
from elastic_agent.training.rollouts.engines.probe import FLOOR
from elastic_agent.training.rollouts.engines.vllm_servers import make_served_rollouts
from elastic_agent.training.rollouts.prompts import codec_of
from elastic_agent.training.run import train
from tests.training.rollouts.engines.test_serving import calls_of, in_a_loop, same, trainer_of
from tests.training.runs import EASY, small
from tests.vllm_server import MAX_LORA_RANK, MODEL

# A server starts in a minute on an idle machine, and in several on one that is shared
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GAP = 1e-4  # nats. Both sides compute in float32: 2e-6 at most was seen
MOVED = 1e-3  # nats, by which every update changes what the server says


def served(vllm: VllmProcess, output: Path, **server: Any) -> TrainConfig:
    """Three steps from e1-tiny, of which each moves the weights a lot."""
    return small(
        Path(MODEL),
        output,
        steps=3,
        rollout={
            "context": 192,
            "engine": "vllm-server",
            "server": {"urls": vllm.base_url, "backoff": 1, "concurrency": 2, **server},
        },
        lora={"rank": MAX_LORA_RANK},
        learning={"rate": 0.01},
        budgets={"thinking": [24, 48], "solution": 16},
        reward={"kind": EASY},
    )


def rows(output: Path) -> list[dict[str, float | None]]:
    return read_csv((output / "metrics.csv").read_text())


def at_sample(monkeypatch: pytest.MonkeyPatch, n: int, act: Callable[[], None]) -> None:
    """Do something when the run has begun its n-th sample of all."""
    begun = 0

    async def run_machine(*arguments: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == n:
            act()
        await batch.run_machine(*arguments)

    monkeypatch.setattr(served_rollouts, "run_machine", run_machine)


def say(vllm: VllmProcess, path: str, **body: Any) -> Any:
    """What the server answers: to a POST with a body, to a GET without."""
    url = vllm.base_url.removesuffix("/v1") + path
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def go_back(vllm: VllmProcess) -> None:
    """It has the base again, and says so, as after a restart."""
    say(vllm, "/collective_rpc", method="elastic_reload", kwargs={"path": model_path(MODEL)})
    say(vllm, "/update_weight_version", new_version="default")


class Probe:
    """In place of `logprob_gap`: after each batch, what the server says about fixed tokens."""

    PROMPT = tuple(range(5, 75))  # more than two blocks of the server's prefix cache

    def __init__(self, vllm: VllmProcess) -> None:
        self._vllm = vllm
        self.versions: list[str] = []
        self.gaps: list[float] = []
        """Largest difference to the trainer's weights at that time, in nats."""
        self.said: list[list[float]] = []

    def __call__(self, model: Any, rollouts: Any) -> tuple[float, float]:
        import torch

        said = self._ask()
        self.versions.append(say(self._vllm, "/weight_info")["weight_version"])
        with torch.no_grad():
            logits = model(torch.tensor([self.PROMPT])).logits[0, :-1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(self.PROMPT[1:])[:, None])[:, 0].tolist()
        self.gaps.append(largest_difference(own, said))
        self.said.append(said)
        return logprob_gap(model, rollouts)

    def _ask(self) -> list[float]:
        body = {"model": self._model(), "prompt": self.PROMPT, "max_tokens": 1, "prompt_logprobs": 0}
        entries = say(self._vllm, "/v1/completions", **body)["choices"][0]["prompt_logprobs"][1:]
        return [entry[str(i)]["logprob"] for entry, i in zip(entries, self.PROMPT[1:], strict=True)]

    def _model(self) -> str:
        adapters = [entry["id"] for entry in say(self._vllm, "/v1/models")["data"] if entry["parent"]]
        assert len(adapters) == 1, "the adapter of the batch before is still there"
        return str(adapters[0])


class WholeProbe(Probe):
    """The same, of the model itself."""

    def _model(self) -> str:
        return MODEL


def largest_difference(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def test_weights_reach_the_server_before_each_batch(
    vllm: VllmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each sync the served log-probs have changed, and agree with the trainer's as it is now."""
    vllm.ensure()
    probe = Probe(vllm)
    monkeypatch.setattr(served_rollouts, "logprob_gap", probe)
    train(served(vllm, tmp_path))
    assert len(probe.gaps) == 3
    assert max(probe.gaps) < GAP
    assert all(largest_difference(a, b) > MOVED for a, b in itertools.pairwise(probe.said))
    for row in rows(tmp_path):
        assert (row["rollout/logprob_gap_max"] or 1) < GAP
        assert row["rollout/lost"] == 0


def test_all_weights_reach_the_server_and_one_that_falls_behind_is_mended(
    vllm: VllmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a folder, without adapters. In the second batch the server goes back to the base: what it
    sampled since is drawn again, after a reload; its log-probs are the trainer's at the end of each batch."""
    vllm.ensure()
    probe = WholeProbe(vllm)
    monkeypatch.setattr(served_rollouts, "logprob_gap", probe)
    at_sample(monkeypatch, 8 + 3, lambda: go_back(vllm))
    lines: list[str] = []
    config = served(vllm, tmp_path, weights="folder")
    learning = config.learning.model_copy(update={"rate": 0.003})
    try:
        train(config.model_copy(update={"lora": None, "learning": learning}), log=lines.append)
    finally:
        go_back(vllm)
        say(vllm, "/reset_prefix_cache", x=0)
    assert max(probe.gaps) < GAP
    assert all(largest_difference(a, b) > MOVED for a, b in itertools.pairwise(probe.said))
    assert len({version.partition(".")[0] for version in probe.versions}) == 3
    said = "\n".join(lines)
    assert "has the weights 'default' and not " in said
    assert "it was restarted; it is given them again" in said
    assert [bool(row["rollout/lost"]) for row in rows(tmp_path)] == [False, True, False]
    for row in rows(tmp_path):
        assert (row["rollout/logprob_gap_max"] or 1) < GAP
        assert (row["rollout/sync_gap"] or 1) < FLOOR["float32"]
    assert not list((tmp_path / "weights").iterdir())


def test_a_server_killed_in_mid_step_and_started_again_costs_only_time(
    vllm: VllmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the second batch: what is lost is drawn again, from a server that gets the weights anew."""
    vllm.ensure()

    def restart() -> None:
        vllm.kill()
        vllm.launch()

    at_sample(monkeypatch, 8 + 3, restart)
    monkeypatch.setattr(vllm_server, "LONGEST_PAUSE", 4.0)  # else it sleeps on beside a server
    lines: list[str] = []
    train(served(vllm, tmp_path, retries=100), log=lines.append)
    assert any("samples are missing: " in line and "trying again" in line for line in lines)
    lost = [row["rollout/lost"] for row in rows(tmp_path)]
    assert [bool(n) for n in lost] == [False, True, False]
    assert all((row["rollout/logprob_gap_max"] or 1) < GAP for row in rows(tmp_path))


def test_agents_calls_on_a_server_that_falls_behind(vllm: VllmProcess, tmp_path: Path) -> None:
    """The Backend of the engine: calls are those of `decode`. When the server goes back to the base, what it
    samples then is lost, and later calls are drawn with the weights in training again."""
    vllm.ensure()
    config = served(vllm, tmp_path, weights="folder").model_copy(update={"lora": None})
    tokenizer: Any = load_tokenizer(model_path(MODEL), name=MODEL)
    engine = make_served_rollouts(config, model_path(MODEL), tokenizer, lambda _: None)
    model = load_model(Path(model_path(MODEL)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    numbers: dict[str, float] = {}
    trainer = trainer_of(model, numbers)
    calls = calls_of((0, 3, 12, 100) * 2)
    greedy, seeds = Sampling(0.0, 1.0, logprobs=True), range(len(calls))

    async def call(backend: Backend, i: int) -> Generation:
        prompt, budget = calls[i]
        return await generate(backend, prompt, budget, sampling=greedy)

    async def all_calls(backend: Backend) -> list[Any]:
        running = (call(backend, i) for i in range(len(calls)))
        return await asyncio.gather(*running, return_exceptions=True)

    async def use(backend: Backend) -> tuple[list[Any], list[Any], list[Any]]:
        first = await all_calls(backend)
        go_back(vllm)
        return first, await all_calls(backend), await all_calls(backend)

    try:
        engine.start(trainer)
        decoded = engine.decode(trainer, Batch(calls, codec_of(tokenizer).markers, 192, greedy, seeds))
        first, behind, again = in_a_loop(engine, trainer, use)
        engine.check_served(trainer, decoded)
    finally:
        engine.close()
        go_back(vllm)
        say(vllm, "/reset_prefix_cache", x=0)
    same(first, decoded, GAP)
    assert any(isinstance(one, BackendUnavailableError) for one in behind)
    right = [one for one in behind if not isinstance(one, Exception)]
    same([*right, *again], [*(decoded[behind.index(one)] for one in right), *decoded], GAP)
    assert numbers["rollout/lost"] > 0
    assert numbers["rollout/logprob_gap_max"] < GAP
