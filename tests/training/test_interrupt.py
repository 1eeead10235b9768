"""Ctrl-C, as a terminal sends it, ends a run within seconds, with a checkpoint that it goes on from."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elastic_agent.training.config.loading import dump
from elastic_agent.training.grpo.checkpoints import complete_checkpoints
from tests.training.runs import EASY, make_base, small

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(240)
def test_ctrl_c_ends_within_seconds_with_a_checkpoint(tmp_path: Path) -> None:
    """Sent after the first batch: the command says how to go on, and ends with 130."""
    config = small(make_base(tmp_path / "base"), tmp_path / "out", steps=10_000, reward={"kind": EASY})
    (tmp_path / "run.yaml").write_text(dump(config))
    command = [sys.executable, "-m", "elastic_agent.integrations.commands.main", "train", "--config"]
    with subprocess.Popen(
        [*command, str(tmp_path / "run.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal signals the whole group, graders included
    ) as run:
        assert run.stdout is not None
        try:
            said = ""
            while "step 1 of" not in said:
                line = run.stdout.readline()
                assert line, said
                said += line
            sent = time.monotonic()
            os.killpg(run.pid, signal.SIGINT)
            said = run.communicate(timeout=60)[0]
            took = time.monotonic() - sent
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 130, said
    assert "stopped after step" in said
    assert "--resume goes on from" in said
    assert "Traceback" not in said
    assert len(complete_checkpoints(tmp_path / "out" / "checkpoints")) == 1
    assert took < 15, f"{took:.1f} s"
