"""The real vLLM server of the tests: the fixture `vllm` (tests/conftest.py) is that of `elastic-agent up`.

It serves e1-tiny with adapters loaded at run time, takes new weights, and holds limits for who asks, in the
environment of `make vllm` or under the Python that ELASTIC_VLLM_PYTHON names. Starting takes a minute or
more, so one server serves a whole session; a test that kills it starts it again, and every test begins with
`vllm.ensure()`. ELASTIC_VLLM_URL names one that runs already (with the options below, and those of
`native` and `reloads`), for who tries things out; the tests that would kill it skip.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from elastic_agent.backends.vllm.process import VllmProcess, vllm_python
from tests.integrations.byte_model import save_byte_model
from tests.integrations.processes import alive, children, start_up

MODEL, BYTES = "e1-tiny", "bytes"
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


@dataclass(frozen=True, slots=True)
class Death:
    """How `elastic-agent up` ended when its vLLM was killed."""

    status: int
    errors: str
    processes: int
    """Of vLLM and the gateway, before."""
    left: list[str]
    """Of these, after it."""


class UpServer(VllmProcess):
    """The vLLM of `elastic-agent up`, on the same port from start to start.

    Attributes:
        deaths: what `kill` has left behind, each time.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        super().__init__(MODEL, OPTIONS, python=python, log=folder / "vllm.log", environment=ENVIRONMENT)
        self._python, self._folder = python, folder
        self._up: subprocess.Popen[str] | None = None
        self._lines: tuple[str, str] | None = None
        self.deaths: list[Death] = []

    @property
    def running(self) -> bool:
        return self._up is not None and self._up.poll() is None

    @property
    def up(self) -> subprocess.Popen[str]:
        """The command."""
        assert self._up is not None
        return self._up

    def launch(self) -> None:
        more = ["--native", "--", *OPTIONS, "--worker-extension-cls=elastic_weights.Weights"]
        environment = ENVIRONMENT | {"VLLM_SERVER_DEV_MODE": "1"}
        self._lines = None
        self._up = start_up(self._python, self._folder, self.port, *more, environment=environment)

    def ensure(self) -> None:
        if not self.running:
            self.launch()
        self.lines()

    def lines(self) -> tuple[str, str]:
        """What it has printed when both were ready."""
        if self._lines is None:
            assert self.up.stdout is not None
            self._lines = self.up.stdout.readline(), self.up.stdout.readline()
            if not self._lines[1]:
                pytest.fail(f"it did not start: {self.up.communicate()[1]}")
        return self._lines

    def kill(self) -> None:
        """SIGKILL to vLLM, after which the command ends by itself."""
        both = children(self.up.pid)
        processes = len(alive(both))
        (vllm,) = [pid for pid, command in both.items() if "vllm.entrypoints" in command]
        os.kill(vllm, signal.SIGKILL)
        _, errors = self.up.communicate()
        self.deaths.append(Death(self.up.returncode, errors, processes, alive(both)))

    def stop(self) -> None:
        if self.running:
            self.up.send_signal(signal.SIGTERM)
            self.up.communicate()


def bytes_server(python: Path, folder: Path) -> VllmProcess:
    """A server of a model that can write anything (`byte_model`), and that takes new weights; not started
    yet."""
    save_byte_model(folder)
    options = ["--max-model-len", "2048", "--max-num-seqs", "8", IN_THE_ENGINE]
    log = folder.parent / f"{BYTES}.log"
    return VllmProcess(
        str(folder), options, name=BYTES, reloads=True, python=python, log=log, environment=ENVIRONMENT
    )


class Running(VllmProcess):
    """A server that somebody else started."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.deaths: list[Death] = []

    @property
    def up(self) -> subprocess.Popen[str]:
        """There is no command of ours."""
        pytest.skip("is not the server of a command of ours")

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
