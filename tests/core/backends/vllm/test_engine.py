"""The backend `vllm_engine`: its suite, run where vLLM is (`make vllm`), and what is said where it isn't."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from elastic_agent.backends.load import load_backend
from elastic_agent.backends.vllm.process import vllm_python
from elastic_agent.errors import UnknownModelError
from tests.vllm_server import ENVIRONMENT


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two engines start, each in a minute on an idle machine
def test_the_suite(root: Path, tmp_path: Path) -> None:
    """tests/core/backends/vllm/engine_suite.py, in the environment of vLLM."""
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    config = tmp_path / "pytest.ini"
    config.write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [str(python), "-m", "pytest", "-c", str(config), "--rootdir", str(root), "--noconftest", "-rA"]
    command += [
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "tests/core/backends/vllm/engine_suite.py",
    ]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named pytest" in done.stderr:
        pytest.skip(f"no pytest in {python}: `make vllm` puts it there")
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]


def test_where_there_is_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that isn't installed, or that there is none of, is an error that says what to do."""
    monkeypatch.setattr("elastic_agent.backends.load.find_spec", lambda name: None)
    with pytest.raises(UnknownModelError, match=r"elastic-agent\[vllm\]"):
        load_backend("e1-tiny", engine="vllm")
    with pytest.raises(UnknownModelError, match="transformers, vllm"):
        load_backend("e1-tiny", engine="llamacpp")
