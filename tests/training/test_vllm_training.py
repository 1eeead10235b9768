"""Training on samples of a real vLLM server: weights get there, and its death costs nothing but time.

The tests share one server (tests/vllm_server.py), and skip where there is no vLLM (`make vllm`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.backends import batch
from elastic_agent.errors import BackendUnavailableError
from elastic_agent.training import served_rollouts
from elastic_agent.training.checkpoints import checkpoints, fault
from elastic_agent.training.config import TrainConfig
from elastic_agent.training.record import read_csv
from elastic_agent.training.registry import REWARDS, RewardKind
from elastic_agent.training.trainer import train
from tests.training.runs import dense_reward, small
from tests.vllm_server import BASE, MAX_LORA_RANK, VllmServer

# A server starts in half a minute on an idle machine, and in two on one that is shared
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GAP = 1e-4  # nats. Both sides compute in float32: 2e-6 at most was seen
MOVED = 1e-3  # nats, by which an update changes what the server says; 100 times as much was seen


@pytest.fixture(autouse=True)
def _dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward that every group earns in part, so that every update moves the weights."""
    monkeypatch.setitem(REWARDS, "dense", RewardKind((), lambda config, decode: dense_reward))


def served(vllm: VllmServer, output: Path, **server: Any) -> TrainConfig:
    """Three steps of e1-tiny-base, of which each moves the weights a lot."""
    return small(
        Path(BASE),
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
        reward={"name": "dense"},
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


def test_weights_reach_the_server_before_each_batch(
    vllm: VllmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each sync the served log-probs have changed, and agree with those of the trainer as it is now."""
    vllm.ensure()
    probe, changes = Probe(), []
    monkeypatch.setattr(served_rollouts, "logprob_gap", probe)
    train(served(vllm, tmp_path))
    assert len(probe.gaps) == 3
    assert max(probe.gaps) < GAP
    changes = probe.moved
    assert len(changes) == 2
    assert min(changes) > MOVED
    for row in rows(tmp_path):
        assert (row["rollout/logprob_gap_max"] or 1) < GAP
        assert row["rollout/lost"] == 0
