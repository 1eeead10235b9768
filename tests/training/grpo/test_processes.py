"""Two processes through accelerate's own launcher (gloo, CPU): the same commands as on eight GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from elastic_agent.training.grpo.logger import read_csv
from tests.training.runs import EASY, make_base

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = (
    "rollout={prompts: 4, group: 4, context: 128}",
    "budgets={kind: mixture, thinking: [4, null], solution: 6}",
    "learning={rate: 0.01, warmup_steps: 0, minibatches: 2}",
    f"reward.kind={EASY}",
)


@pytest.mark.timeout(300)  # a launcher and two interpreters that import TRL, on a machine that may be busy
def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    words = ["--base", str(base), "--output", str(tmp_path / "out"), "--steps", "2"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "elastic_agent.training.run"]
    overrides = [word for setting in SETTINGS for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, *launch, *words, *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("step 2 of 2") == 1, "one process speaks"
    rows = read_csv((tmp_path / "out" / "metrics.csv").read_text())
    assert len(rows) == 2
    for row in rows:  # budgets are dealt over both processes: two groups of each
        assert row["budget/t<=8"] == row["budget/unlimited"] == 0.5
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert json.loads((tmp_path / "out" / "train_log.json").read_text())
