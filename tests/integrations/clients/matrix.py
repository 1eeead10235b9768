"""Runs a client's script against a gateway's process, and says what came of it.

    python -m tests.integrations.clients.matrix          # all clients that are installed here, as a table
    python -m tests.integrations.clients.matrix NAME...

Each client has three keys: one with room, one that is all but spent, and one whose room another call holds
while the script runs. What is checked is what the gateway's own ledger and access log say, see `Outcome`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from elastic_agent import Caps
from elastic_agent.integrations.gateway.accounts.keys import Keys
from elastic_agent.scheduler.ledger.stores import open_store
from tools.setup_clients import CLIENTS, ENVS, python_of, versions

ROOT = Path(__file__).parents[3]
SCRIPTS = Path(__file__).parent / "scripts"
CAPS = {"": 100_000, "-spent": 5, "-busy": 200}
"""Tokens of a client's keys, by the end of their names."""
HELD = 150
"""Tokens that the other call holds of the busy key."""
MOST_TRIES = 12
"""Requests that a client may make of one that gets a 429, before it gives up."""
SECONDS = 180.0


@dataclass
class Outcome:
    """What came of a client.

    Attributes:
        said: what its script printed; empty where it failed, with the end of its output in `error`.
        requests: the access log's lines, by the end of the key's name.
        spent: tokens on the ledger, by the same.
    """

    client: str
    said: dict[str, Any]
    error: str
    requests: dict[str, list[dict[str, Any]]]
    spent: dict[str, int]
    faults: list[str] = field(default_factory=list)

    def check(self) -> Outcome:
        """Find what is not as it should be."""
        if not self.said:
            self.faults.append(f"its script failed: {self.error}")
            return self
        self._check_protocol()
        self._check_budgets()
        self._check_refusals()
        return self

    def _check_protocol(self) -> None:
        if not self.said["text"]:
            self.faults.append("no text")
        if "tool" in self.said and self.said["tool"] != ["add", {"a": 1}]:
            self.faults.append(f"the tool call is {self.said['tool']}")
        if "stream" in self.said and (len(self.said["stream"]) < 2 or not all(self.said["stream"])):
            self.faults.append(f"the stream is {self.said['stream']}")

    def _check_budgets(self) -> None:
        """Each call used at most what it was granted; the ledger has each call once."""
        for request in self.requests[""]:
            granted = sum(sum(grant) for grant in request.get("granted", ()))
            if request["status"] != 200 and request["route"] != "unmatched":
                self.faults.append(f"{request['route']} was a {request['status']} {request.get('code', '')}")
            if request.get("thinking", 0) + request.get("solution", 0) > granted:
                self.faults.append(f"more was used than granted: {request}")
        for end, requests in self.requests.items():
            charged = sum(request.get("charged", 0) for request in requests)
            if charged != self.spent[end] and end != "-busy":  # there the other call is charged, too
                self.faults.append(f"the ledger has {self.spent[end]} tokens, the answers {charged}")

    def _check_refusals(self) -> None:
        """402 is an error, and asked for once; 429 is one, after a few tries; neither is charged."""
        tries = CLIENTS[self.client].tries
        for end, status, most in (("-spent", 402, tries), ("-busy", 429, MOST_TRIES)):
            found = [request["status"] for request in self.requests[end]]
            if end[1:] not in self.said:
                self.faults.append(f"{status} is no error to it")
            if not 1 <= len(found) <= most or set(found) != {status}:
                self.faults.append(f"{status}: its requests got {found}")
        if self.spent["-spent"]:
            self.faults.append("a refusal was charged")

    @property
    def error_names(self) -> str:
        """What it raises for 402 and 429, and how often it asked at 429."""
        names = [self.said[name]["error"].rpartition(".")[2] for name in ("spent", "busy")]
        return f"{names[0]}; {names[1]} after {len(self.requests['-busy'])}"


class Server:
    """A gateway's process, with the keys of all clients.

    Attributes:
        url: of its API.
    """

    def __init__(self, folder: Path) -> None:
        self.ledger = str(folder / "clients.db")
        self.log = folder / "access.jsonl"
        keys = Keys(self.ledger)
        self.keys = {
            f"{name}{end}": keys.create(f"{name}{end}", Caps(tokens=tokens))[0]
            for name in CLIENTS
            for end, tokens in CAPS.items()
        }
        self.accounts = {key.name: key.account for key in keys.list()}
        keys.close()
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "tests.integrations.clients.server", self.ledger]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, text=True)
        self.url = str(next(self._lines())["url"])

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def requests(self, key: str) -> list[dict[str, Any]]:
        """The access log's lines of a key."""
        return [line for line in self._lines() if line.get("key") == key]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The whole lines of the log; waits for the first."""
        while not (text := self.log.read_text()).endswith("\n"):
            assert self._process.poll() is None, "the gateway did not start"
            time.sleep(0.02)
        yield from map(json.loads, text.splitlines())

    async def spent(self, key: str) -> int:
        """Tokens of a key on the ledger, once nothing of it is held."""
        store = open_store(self.ledger)
        try:
            for _ in range(200):
                (level, *_) = await store.read_accounts(self.accounts[key])
                if not level.held.tokens:
                    return level.spent.tokens
                await asyncio.sleep(0.05)
        finally:
            await store.aclose()
        raise AssertionError(f"{key}: {level.held.tokens} tokens are still held")


@contextmanager
def running() -> Iterator[Server]:
    """A server for the length of a block."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.stop()


async def try_client(server: Server, name: str) -> Outcome:
    """Run a client's script, while another call holds the room of its busy key."""
    keys = {
        "ELASTIC_KEY": server.keys[name],
        "ELASTIC_SPENT": server.keys[f"{name}-spent"],
        "ELASTIC_BUSY": server.keys[f"{name}-busy"],
    }
    async with holding(server, server.keys[f"{name}-busy"]):
        process = await asyncio.create_subprocess_exec(
            *_command(name),
            env={**os.environ, "ELASTIC_URL": server.url, **keys, "PYTHONPATH": ""},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SECONDS):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            out, err = b"", b"it ran too long"
    lines = out.decode().strip().splitlines()
    said = json.loads(lines[-1]) if process.returncode == 0 and lines else {}
    return Outcome(
        name,
        said,
        err.decode()[-600:],
        {end: _of_script(server.requests(f"{name}{end}")) for end in CAPS},
        {end: await server.spent(f"{name}{end}") for end in CAPS},
    ).check()


def _command(name: str) -> list[str]:
    """What runs a client's script. Node looks for packages beside a script, so it gets a copy there."""
    client = CLIENTS[name]
    if not client.node:
        return [str(python_of(client.env)), str(SCRIPTS / f"{name}.py")]
    copies = ENVS / client.env / "scripts"
    shutil.copytree(SCRIPTS, copies, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return ["node", str(copies / f"{name}.mjs")]


def _of_script(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [request for request in requests if request.get("model") != "slow"]


@asynccontextmanager
async def holding(server: Server, key: str) -> AsyncIterator[None]:
    """Hold `HELD` tokens of a key by another call for the length of a block."""
    body = {
        "model": "slow",
        "messages": [{"role": "user", "content": "hold"}],
        "thinking_budget": 0,
        "solution_budget": HELD,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session:
        call = asyncio.ensure_future(
            session.post(f"{server.url}/chat/completions", json=body, headers=headers)
        )
        await asyncio.sleep(0.5)
        assert not call.done() or call.result().status == 200
        yield
        if call.done():
            call.result().close()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)


def row(outcome: Outcome) -> str:
    """A client's row of the table."""
    what = [name for name in ("text", "tool", "stream") if name in outcome.said]
    result = "yes" if not outcome.faults else "; ".join(outcome.faults)[:300]
    errors = outcome.error_names if {"spent", "busy"} <= set(outcome.said) else ""
    return f"| {outcome.client} | {versions(outcome.client)} | {', '.join(what)} | {errors} | {result} |"


async def main(names: list[str]) -> int:
    """Run clients, and print the table; 1 where something is not as it should be."""
    wanted = names or [name for name in CLIENTS if CLIENTS[name].installed()]
    failed = False
    print("| client | version | tried | 402; 429 | as it should be |\n| --- | --- | --- | --- | --- |")
    with running() as server:
        for name in wanted:
            outcome = await try_client(server, name)
            failed |= bool(outcome.faults)
            print(row(outcome), flush=True)
    for name in CLIENTS:
        if name not in wanted and not names:
            print(f"{name}: not installed here (make clients)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
