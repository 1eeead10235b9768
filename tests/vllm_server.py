"""A real vLLM server for tests, on a free port of 127.0.0.1: the fixture `vllm` (tests/conftest.py) is one.

It runs in the environment of `make vllm`, or under the Python that ELASTIC_VLLM_PYTHON names, and serves
e1-tiny-base in float32 with adapters loaded at run time. Starting takes a minute or more, so one server
serves a whole session; a test that kills it starts it again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE = "e1-tiny-base"
MAX_LORA_RANK = 8
_OPTIONS = (
    "--enforce-eager --dtype float32 --max-model-len 1024 --max-num-seqs 32 --block-size 32 "
    f"--enable-lora --max-loras 1 --max-lora-rank {MAX_LORA_RANK}"
)
_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # to no core of its own: the tests' other worker needs one too
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def vllm_python() -> Path | None:
    """A Python that has vLLM; None where there is none."""
    path = Path(os.environ.get("ELASTIC_VLLM_PYTHON") or ROOT / ".venv-vllm" / "bin" / "python")
    return path if path.exists() else None


class VllmServer:
    """The server; `base_url` ends in `/v1` and stays the same from start to start.

    Args:
        python: runs it.
        log: gets what it says.
    """

    def __init__(self, python: Path, log: Path) -> None:
        self._python, self._log = python, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Begin to start; `wait` waits until it is ready."""
        from elastic_agent.backends.load import model_path

        command = [str(self._python), "-m", "vllm.entrypoints.openai.api_server", "--model", model_path(BASE)]
        command += ["--served-model-name", BASE, "--port", str(self._port), *_OPTIONS.split()]
        with self._log.open("ab") as log:
            # A session of its own: the engine is a process of its own too, and must not outlive the server
            self._process = subprocess.Popen(
                command, env={**os.environ, **_ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, seconds: float = 500) -> None:
        """Until it answers; an error with the end of its log if it does not."""
        until = time.monotonic() + seconds
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"the vLLM server did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.5)

    def ensure(self) -> None:
        """Start it if it does not run."""
        if self._process is None:
            self.launch()
        self.wait()

    def kill(self) -> None:
        """SIGKILL, to the server and its engine."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=10) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False
