"""Gateways as processes: the command, its end, several on one ledger, and one that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks._servers import NoServerError, PostgresServer
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.commands.main import main
from elastic_agent.scheduler.ledger.amounts import NOTHING
from elastic_agent.scheduler.ledger.stores import open_store
from elastic_agent.scheduler.ledger.stores.protocol import StoredAccount
from tests.conftest import ROOT
from tests.integrations.gateway.conftest import HELLO, shared_codec
from tests.wire import serve_in_thread

LONG = Reply(thinking="hm " * 500, solution="so it is 42")


class Process:
    """A gateway process; `log` is its access log, `said` what it says to people."""

    def __init__(self, *arguments: object, script: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *([] if script else ["-m"]), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self.log: list[str] = []
        self.said: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.log)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.said)),
        ]
        for thread in self._threads:
            thread.start()
        self.url = self._url()

    @staticmethod
    def _read(pipe: Any, lines: list[str]) -> None:
        with pipe:
            lines.extend(pipe)

    def _url(self) -> str:
        while True:
            found = re.search(r" at (http://\S+/v1)", "".join(list(self.said)))
            if found:
                return found[1]
            assert self.process.poll() is None, "".join(self.said)
            time.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, and wait; its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(timeout=60)
        for thread in self._threads:
            thread.join()
        return status


@contextmanager
def process(*arguments: object, script: bool = False) -> Iterator[Process]:
    """A gateway process that does not outlive its test: a module, or a script."""
    started = Process(*arguments, script=script)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.end(signal.SIGKILL)


def scripted(base_url: str, ledger: object, lease: float = 60.0, grace: float = 30.0) -> tuple[object, ...]:
    return "tests.integrations.gateway.serve", base_url, ledger, lease, grace


def events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line[6:] if line.endswith("[DONE]") else json.loads(line[6:])


def books(where: object, account: str, expire: bool = False) -> StoredAccount:
    async def look() -> StoredAccount:
        store = open_store(str(where))
        try:
            if expire:
                await store.expire()
            await store.check()
            return (await store.read_accounts(account))[0]
        finally:
            await store.aclose()

    return asyncio.run(look())


def test_the_command_serves_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key made by the command opens it, SIGTERM ends it with 0, and no log line has the key or a prompt."""
    ledger = tmp_path / "gateway.db"
    assert main(["keys", "create", "alice", "--tokens", "5000", "--per", "day", "--ledger", str(ledger)]) == 0
    key = capsys.readouterr().out.strip()
    question = "A shop has 37 pens . #1 It sells 12 . How many pens are left ?"
    serve = ("elastic_agent.integrations.commands.main", "serve", "--port", 0, "--ledger", ledger)
    with process(*serve) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as client:
        body = {"messages": [{"role": "user", "content": question}], "thinking_budget": 8, "seed": 1}
        assert client.post("/chat/completions", json=body).status_code == 401
        client.headers["Authorization"] = f"Bearer {key}"
        said = client.post("/chat/completions", json=body | {"solution_budget": 64}).json()
        assert said["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 8
        assert said["choices"][0]["message"]["content"]
        assert said["budget"]["left"]["tokens"] == 5000 - said["usage"]["completion_tokens"]
        wanted = body | {"response_format": {"type": "json_object"}}
        assert client.post("/chat/completions", json=wanted).json()["error"]["param"] == "response_format"
        assert "elastic_gateway_requests_total" in client.get(f"{gateway.url[:-3]}/metrics").text
        assert gateway.end() == 0
        lines = [json.loads(line) for line in gateway.log]
        assert [line["status"] for line in lines if line["route"] == "/v1/chat/completions"] == [
            401,
            200,
            400,
        ]
        assert lines[1]["key"] == "alice"
        everything = "".join([*gateway.log, *gateway.said])
        assert key not in everything
        assert "pens" not in everything
    assert main(["keys", "list", "--ledger", str(ledger)]) == 0
    listed = capsys.readouterr().out
    assert "5,000 tokens a day" in listed
    assert key not in listed
    assert main(["keys", "revoke", "alice", "--ledger", str(ledger)]) == 0
    assert main(["keys", "revoke", "alice", "--ledger", str(ledger)]) == 2
    assert main(["serve", "--host", "0.0.0.0", "--ledger", str(tmp_path / "empty.db"), "--port", "0"]) == 2
    assert "keys create" in capsys.readouterr().err


@pytest.mark.parametrize(("grace", "whole"), [(30.0, True), (0.2, False)])
def test_a_drain_ends_what_runs(tmp_path: Path, grace: float, whole: bool) -> None:
    """SIGTERM: running streams end within the grace, or with an error; settled either way; status 0."""
    ledger = tmp_path / "gateway.db"
    backend = ScriptedBackend(LONG, tpot=0.002, codec=shared_codec())
    with (
        serve_in_thread(backend) as wire,
        process(*scripted(wire.base_url, ledger, grace=grace)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=60) as client,
    ):
        asked = {"messages": HELLO, "stream": True, "thinking_budget": 400, "solution_budget": 20}
        with client.stream("POST", "/chat/completions", json=asked) as response:
            came = events(response)
            next(came)
            gateway.process.send_signal(signal.SIGTERM)
            rest = list(came)
        assert gateway.process.wait(timeout=60) == 0
        if whole:
            assert rest[-1] == "[DONE]"
        else:
            assert rest[-1]["error"]["code"] == "shutting_down"
        with pytest.raises(httpx.ConnectError):
            client.get("/models")
        level = books(ledger, "open")
        assert level.held == NOTHING
        assert backend.meter.output <= level.spent.tokens <= 400 + 1 + 20


def test_two_on_one_postgres_and_one_is_killed() -> None:
    """The killed one's client gets an error, the other goes on; after the lease the ledger covers the meter,
    and is above it by no more than what the killed one held."""
    try:
        server = PostgresServer()
    except NoServerError as error:
        pytest.skip(str(error))
    backend = ScriptedBackend(LONG, tpot=0.002, codec=shared_codec())
    with (
        server,
        serve_in_thread(backend) as wire,
        process(*scripted(wire.base_url, server.url, lease=2.0)) as one,
        process(*scripted(wire.base_url, server.url, lease=2.0)) as two,
        httpx.Client(timeout=60) as client,
    ):
        asked = {"messages": HELLO, "stream": True, "thinking_budget": 400, "solution_budget": 20}
        caps = {"X-Elastic-Task": "both", "X-Elastic-Caps": "tokens=2000"}
        with client.stream("POST", f"{one.url}/chat/completions", json=asked, headers=caps) as response:
            came = events(response)
            next(came)
            one.end(signal.SIGKILL)
            with pytest.raises(httpx.HTTPError):
                list(came)
        said = client.post(
            f"{two.url}/chat/completions", json=asked | {"stream": False}, headers={"X-Elastic-Task": "both"}
        )
        assert said.status_code == 200, said.text
        while backend.running:
            time.sleep(0.02)
        served = backend.meter.output
        mine = said.json()["usage"]["completion_tokens"]
        assert served > mine - 1
        until = time.monotonic() + 30
        while True:
            level = books(server.url, "open/both", expire=True)
            reserve = 600  # what the living gateway keeps for the task's final answer, and no more
            if level.held.tokens <= reserve and level.spent.tokens > mine:
                break
            assert time.monotonic() < until, level
            time.sleep(0.2)
        assert served <= level.spent.tokens <= 2000
        assert level.spent.tokens <= mine + 400 + 1 + 20
        ended = client.delete(f"{two.url}/tasks/both").json()
        assert ended["held"]["tokens"] == 0 or ended["closed"]
        assert books(server.url, "open/both").held == NOTHING
        assert two.end() == 0
        assert books(server.url, "open").held == NOTHING
