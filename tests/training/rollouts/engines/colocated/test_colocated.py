"""The engine "vllm": its suite, run where vLLM is (`make vllm`), and what is said where it can't be."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.training.rollouts.engines.colocated import engine
from tests.training.runs import small
from tests.vllm_server import run_suite

SUITE = "tests/training/rollouts/engines/colocated/colocated_suite.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # vLLM starts in 20 s on an idle machine, and in minutes on one that is shared
def test_the_suite(root: Path, tmp_path: Path) -> None:
    """colocated_suite.py, in the environment of vLLM."""
    said = run_suite(SUITE, root, tmp_path / "pytest.ini", "", needs="'trl'")
    assert "8 passed" in said


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
