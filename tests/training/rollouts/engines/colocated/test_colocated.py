"""The engine "vllm": its suite, run where vLLM is (`make vllm`), and what is said where it can't be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from elastic_agent.backends.vllm.process import vllm_python
from elastic_agent.training.config.fields import ConfigError
from elastic_agent.training.rollouts.engines.colocated import engine
from tests.training.runs import small
from tests.vllm_server import ENVIRONMENT

SUITE = "tests/training/rollouts/engines/colocated/colocated_suite.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # vLLM starts in 20 s on an idle machine, and in minutes on one that is shared
def test_the_suite(root: Path, tmp_path: Path) -> None:
    """colocated_suite.py, in the environment of vLLM."""
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    config = tmp_path / "pytest.ini"
    config.write_text("[pytest]\n")
    command = [str(python), "-m", "pytest", "-c", str(config), "--rootdir", str(root), "--noconftest", "-rA"]
    command += ["-p", "no:cacheprovider", "--import-mode=importlib", SUITE]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named 'trl'" in done.stdout + done.stderr:
        pytest.skip(f"no TRL in {python}: `make vllm` puts it there")
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert "7 passed" in done.stdout


def test_where_there_is_no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    config = small(tmp_path, tmp_path, rollout={"engine": "vllm"})
    with pytest.raises(ConfigError, match=r"no vLLM\. `make vllm` makes one"):
        engine.make_colocated(config, "base", None, print)


def test_a_nucleus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probs are of another distribution than the trainer's."""
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    config = small(tmp_path, tmp_path, rollout={"engine": "vllm", "top_p": 0.9})
    with pytest.raises(ConfigError, match=r"rollout\.top_p: 0\.9; .*leave it at 1"):
        engine.make_colocated(config, "base", None, print)


def test_training_has_the_same_versions_there(root: Path) -> None:
    """What `make vllm` installs of training is what the tests of training run on."""
    both = ["constraints.txt", "constraints-vllm.txt"]
    ours, theirs = ((root / name).read_text().splitlines() for name in both)
    for name in ("trl", "accelerate", "peft", "datasets", "transformers", "tokenizers", "torch", "numpy"):
        (line,) = (line for line in ours if line.startswith(f"{name}=="))
        assert line in theirs
