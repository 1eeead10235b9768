"""Training on samples of a real vLLM server that is killed and does not come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.errors import BackendUnavailableError
from elastic_agent.training.grpo.checkpoints import checkpoints, fault
from elastic_agent.training.run import train
from tests.training.rollouts.engines.test_vllm_training import at_sample
from tests.training.runs import EASY, small

# A server starts in a minute on an idle machine, and in several on one that is shared
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_server_killed_for_good_stops_the_run_with_a_checkpoint(
    bytes_vllm: VllmProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the third batch: an error that says so, and a checkpoint of step 2; `test_vllm_servers` has
    what resumes from one. The server takes full weights, and no other test needs it any more."""
    bytes_vllm.ensure()
    at_sample(monkeypatch, 2 * 8 + 3, bytes_vllm.kill)
    server = {"urls": bytes_vllm.base_url, "base": bytes_vllm.name, "retries": 2, "backoff": 0.1}
    config = small(
        Path(bytes_vllm.model),
        tmp_path,
        steps=3,
        rollout={"context": 1024, "engine": "vllm-server", "server": server | {"concurrency": 2}},
        learning={"rate": 0.001},
        budgets={"thinking": [24, 48], "solution": 16},
        reward={"kind": EASY},
    )
    lines: list[str] = []
    with pytest.raises(BackendUnavailableError, match=r"tries in a row brought none.*running\?"):
        train(config, log=lines.append)
    left = checkpoints(tmp_path / "checkpoints")
    assert [(step, fault(path)) for step, path in left] == [(2, None)]
    assert lines[-1] == f"stopped after step 2: --resume goes on from {left[0][1]}"
