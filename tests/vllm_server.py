"""The real vLLM server of the tests: the fixture `vllm` (tests/conftest.py) is one `VllmProcess`.

It serves e1-tiny with adapters loaded at run time, takes new weights, and holds limits for who asks, in the
environment of `make vllm` or under the Python that ELASTIC_VLLM_PYTHON names. Starting takes a minute or
more, so one server serves a whole session; a test that kills it starts it again, and every test begins with
`vllm.ensure()`. ELASTIC_VLLM_URL names one that runs already (with the options below, and those of
`native` and `reloads`), for who tries things out; the tests that would kill it skip.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from elastic_agent.backends.vllm.process import VllmProcess, vllm_python

MODEL = "e1-tiny"
MAX_LORA_RANK = 8
MAX_RUNNING = 64
# On a CPU vLLM would start one process more for its worker, and each imports vLLM anew: a third of a start
EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
IN_THE_ENGINE = f"--distributed-executor-backend={EXECUTOR}"
OPTIONS = (
    f"--max-model-len 1024 --max-num-seqs {MAX_RUNNING} "
    f"--enable-lora --max-loras 1 --max-lora-rank {MAX_LORA_RANK} {IN_THE_ENGINE}"
).split()
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def vllm_server(python: Path, log: Path) -> VllmProcess:
    """Not started yet."""
    return VllmProcess(
        MODEL, OPTIONS, native=True, reloads=True, python=python, log=log, environment=ENVIRONMENT
    )


class Running(VllmProcess):
    """A server that somebody else started."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def ensure(self) -> None:
        """It runs."""

    def launch(self) -> None:
        pytest.skip("would start a server that is not ours")

    def kill(self) -> None:
        pytest.skip("would kill a server that is not ours")


def run_suite(suite: str, root: Path, config: Path, options: str, *, needs: str) -> str:
    """What a suite printed that ran in the environment of vLLM, and passed.

    Args:
        suite: a file of tests that imports vLLM, from `root`.
        config: where pytest's own file goes, with these `options`.
        needs: a package without which that environment can't run the suite; then the test skips.
    """
    python = vllm_python()
    if python is None:
        pytest.skip("no vLLM here: `make vllm`, or name a Python that has it in ELASTIC_VLLM_PYTHON")
    config.write_text(f"[pytest]\n{options}")
    command = [str(python), "-m", "pytest", "-c", str(config), "--rootdir", str(root), "--noconftest", "-rA"]
    command += ["-p", "no:cacheprovider", "--import-mode=importlib", suite]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if f"No module named {needs}" in done.stdout + done.stderr:
        pytest.skip(f"no {needs} in {python}: `make vllm` puts it there")
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout
