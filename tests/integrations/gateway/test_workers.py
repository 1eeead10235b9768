"""`serve --workers 2`: one gateway to its clients, whichever process answers, and whichever of them dies."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.gateway.ops.listener import listening_sockets
from tests.integrations.gateway.conftest import HELLO, TALK, shared_codec
from tests.integrations.gateway.test_processes import Process, process
from tests.wire import serve_in_thread

ASKED = {"messages": HELLO, "thinking_budget": 8, "solution_budget": 24}


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        found += [int(folder.name)] if parent == pid else []
    return found


def wait(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def fresh(gateway: Process, path: str, method: str = "GET", **how: object) -> httpx.Response:
    """A request on a connection of its own, which lands on any worker."""
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        return client.request(method, path, **how)  # type: ignore[arg-type]


def counted(gateway: Process, route: str) -> float:
    """How many requests of a route `/metrics` shows."""
    text = httpx.get(f"{gateway.url[:-3]}/metrics").text
    name = f'elastic_gateway_requests_total{{route="{route}",status="200"}} '
    return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


def test_two_workers_are_one_gateway(tmp_path: Path) -> None:
    """A task opened at one goes on at the other; any `/metrics` shows all; a worker that is killed is
    replaced, and no connection is refused meanwhile; SIGHUP reloads both, or neither; SIGTERM ends all."""
    config = tmp_path / "gateway.yaml"
    serve = ("tests.integrations.gateway.serve_config", "--config", config)
    with serve_in_thread(ScriptedBackend(TALK, codec=shared_codec())) as wire, ExitStack() as stack:
        text = (
            f"ledger: {tmp_path / 'spend.db'}\nport: 0\nno_keys: true\nworkers: 2\n"
            f"upstreams: [{{name: scripted, url: {wire.base_url}}}]\n"
        )
        config.write_text(text)
        gateway = stack.enter_context(process(*serve))
        pid = gateway.process.pid
        wait(lambda: len(children(pid)) == 2)
        assert fresh(gateway, "/tasks", "POST", json={"id": "t", "tokens": 2000}).status_code == 201
        said = [
            fresh(gateway, "/chat/completions", "POST", json=ASKED, headers={"X-Elastic-Task": "t"}).json()
            for _ in range(8)
        ]
        used = sum(one["usage"]["completion_tokens"] for one in said)
        assert fresh(gateway, "/tasks/t").json()["spent"]["tokens"] == used
        assert counted(gateway, "/v1/chat/completions") == 8

        first, second = children(pid)
        os.kill(first, signal.SIGKILL)
        answers = [fresh(gateway, "/models").status_code for _ in range(12)]
        assert answers == [200] * 12
        wait(lambda: len(children(pid)) == 2 and first not in children(pid))
        assert second in children(pid)
        assert counted(gateway, "/v1/chat/completions") == 8  # what the dead one counted stays

        config.write_text(text.replace("no_keys", "no_kys"))
        gateway.process.send_signal(signal.SIGHUP)
        wait(lambda: any("did you mean no_keys?" in line for line in list(gateway.said)))
        config.write_text(text + "limits: {choices: 1}\n")
        gateway.process.send_signal(signal.SIGHUP)
        wait(lambda: sum("reloaded" in line for line in list(gateway.said)) == 2)
        many = [fresh(gateway, "/chat/completions", "POST", json={**ASKED, "n": 2}) for _ in range(6)]
        assert {one.status_code for one in many} == {400}

        running = children(pid)
        assert gateway.end() == 0
        assert not [one for one in running if Path(f"/proc/{one}").exists()]
    assert any("2 workers" in line for line in gateway.said)


def test_a_port_that_others_share_is_taken() -> None:
    """SO_REUSEPORT would let two gateways serve on one port, each a part of the requests."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            listening_sockets("127.0.0.1", other.getsockname()[1], 2)


def test_workers_stop_when_their_parent_dies(tmp_path: Path) -> None:
    """They settle what they hold, and give the port back."""
    serve = ("tests.integrations.gateway.serve_config", "--workers", 2, "--no-keys", "--port", 0)
    nowhere = ("--upstream", "scripted=http://127.0.0.1:9/v1")
    with process(*serve, *nowhere, "--ledger", tmp_path / "spend.db", "--grace", 1) as gateway:
        wait(lambda: len(children(gateway.process.pid)) == 2)
        running = children(gateway.process.pid)
        gateway.process.kill()
        wait(lambda: not [one for one in running if Path(f"/proc/{one}").exists()])
