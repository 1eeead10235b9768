"""A run that is killed goes on to the same result; a checkpoint that is not whole is never used."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.training.grpo.checkpoints import checkpoints, commit, fault, last_good, prune, uncommit
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.run import train
from tests.training.runs import EASY, make_base, small

ROOT = Path(__file__).resolve().parents[3]
RUN: dict[str, Any] = {
    "steps": 6,
    "budgets": {"kind": "uniform", "low": 0, "high": 12, "unlimited": 0.25, "solution": 6},
    "learning": {"minibatches": 2, "rate": 0.01},
    "checkpoint": {"every": 2},
    "reward": {"kind": EASY},
}
KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import Trainer
from tests.training.grpo.test_checkpoints import run

saved = Trainer._save_rng_state

def die(self, folder):
    if self.state.global_step == 8:  # batch 4, of two updates: weights and optimizer are written already
        os.kill(os.getpid(), signal.SIGKILL)
    saved(self, folder)

Trainer._save_rng_state = die
run(Path(sys.argv[1]), Path(sys.argv[2]), resume=False)
"""


def run(base: Path, output: Path, *, resume: bool = False) -> Any:
    """RUN, under a reward that a random model can earn."""
    return train(small(base, output, **RUN), resume=resume)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.timeout(300)  # two interpreters that import TRL, on a machine that may be busy
def test_kill_9_in_the_middle_of_a_checkpoint_then_resume_ends_the_same(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed while checkpoint 4 of 6 is written: resumed from 2, to the same losses and the same weights."""
    import torch

    whole = run(base, tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(base), str(tmp_path / "killed")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = tmp_path / "killed" / "checkpoints"
    assert [(path.name, fault(path)) for _, path in checkpoints(left)] == [
        ("checkpoint-4", None),
        ("checkpoint-8", "it was not finished"),
    ]
    capsys.readouterr()
    resumed = run(base, tmp_path / "killed", resume=True)
    said = capsys.readouterr().out
    assert "passing over checkpoint-8: it was not finished" in said
    assert "checkpoint-4" in said.split("going on from", 1)[1].splitlines()[0]

    weights = resumed.model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in whole.model.state_dict().items())
    first = make_weights(base)
    assert any(not torch.equal(first[name], weight) for name, weight in weights.items()), "nothing was learnt"
    timed = ("step_time", "seconds/", "tokens_s/")
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(timed)} for row in read_csv(path.read_text())]
        for path in (tmp_path / "whole" / "metrics.csv", tmp_path / "killed" / "metrics.csv")
    ]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]
    assert rows[0] == rows[1]
    losses = [row["loss"] for row in rows[0]]
    assert len(set(losses)) > 1


def make_weights(base: Path) -> Any:
    from elastic_agent.training.grpo.export import load_model

    return load_model(base).state_dict()


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoint 4 of 6 can't be written: it is removed, 2 stays, training goes on, and 6 is written."""
    from transformers import Trainer

    saved = Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 8:
            (Path(folder) / "optimizer.pt").write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        saved(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    run(base, tmp_path)
    assert [path.name for _, path in checkpoints(tmp_path / "checkpoints")] == [
        "checkpoint-4",
        "checkpoint-12",
    ]
    said = capsys.readouterr().err
    assert "checkpoint-8 could not be written ([Errno 28] No space left on device)" in said
    assert "the last good one is checkpoint-4" in said
    with pytest.raises(ConfigError, match="--resume goes on"):
        run(base, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    run(base, tmp_path, resume=True)  # finished already: writes the same model again
    assert (tmp_path / "model.safetensors").read_bytes() == before


def write(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_text("w" * step)
    return checkpoint


def test_only_whole_checkpoints_are_used_and_the_last_one_is_never_pruned(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        commit(write(tmp_path, step))
    (write(tmp_path, 11) / "weights").write_text("not committed")
    (tmp_path / "checkpoint-x").mkdir()
    lines: list[str] = []
    found = last_good(tmp_path, lines.append)
    assert found is not None
    assert found.name == "checkpoint-10"
    assert lines == ["passing over checkpoint-11: it was not finished"]
    (tmp_path / "checkpoint-10" / "weights").write_text("cut")
    assert fault(tmp_path / "checkpoint-10") == "weights has 3 bytes instead of 10"
    (tmp_path / "checkpoint-2" / "weights").unlink()
    assert fault(tmp_path / "checkpoint-2") == "weights is missing"
    prune(tmp_path, 1)
    assert [step for step, _ in checkpoints(tmp_path)] == [1, 2, 10, 11]  # 1 is the newest whole one
    uncommit(tmp_path / "checkpoint-1")
    assert last_good(tmp_path, lines.append) is None
    assert last_good(tmp_path / "none", lines.append) is None
