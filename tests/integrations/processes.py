"""`elastic-agent up` as a process, and the processes that it has started, as `ps` sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from elastic_agent.backends.vllm.server_process import free_port

ROOT = Path(__file__).parents[2]


def start_up(
    python: Path, folder: Path, port: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command, in a folder, with this Python for vLLM, which listens on `port`."""
    command = [sys.executable, "-m", "elastic_agent.integrations.commands.main", "up"]
    command += ["--port", "0", "--vllm-port", str(port), "--no-keys", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | (environment or {}) | {"ELASTIC_VLLM_PYTHON": str(python), "PYTHONPATH": str(ROOT)},
    )


@contextmanager
def running_up(python: Path, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command on free ports, in a folder, with this Python for vLLM; stopped at the end."""
    with start_up(python, folder, free_port(), *arguments) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)  # nothing happens to one that has ended


def children(parent: int) -> dict[int, str]:
    """Process ids and command lines of the processes that it has started itself."""
    return {pid: command for pid, of, _, command in _all() if of == parent}


def alive(groups: Collection[int]) -> list[str]:
    """Command lines of all that lives in these process groups."""
    return [command for _, _, group, command in _all() if group in groups]


def _all() -> Iterator[tuple[int, int, int, str]]:
    asked = ["ps", "-A", "-ww", "-o", "pid=,ppid=,pgid=,stat=,args="]
    for line in subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines():
        pid, parent, group, state, *command = line.split(maxsplit=4)
        if not state.startswith("Z"):
            yield int(pid), int(parent), int(group), " ".join(command)
