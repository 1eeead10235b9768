"""Budgets across processes: a checkpointed thread that another process resumes, and a graph that runs there.

The other process is a real one, started anew; both reach the same SQLite ledger and the same server, whose
meter is the ground truth.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, remote_budget
from elastic_agent.integrations.langchain.accounts.account_leases import LeasedAccounts
from elastic_agent.integrations.langchain.blocking_portal import portal
from elastic_agent.integrations.langchain.errors import BudgetExceededError, ClosedTaskError
from elastic_agent.scheduler import task_budget
from elastic_agent.scheduler.ledger.stores import open_store
from tests.wire import Wire, serve_in_thread

PROGRAM = Path(__file__).parents[1] / "other_process.py"
CALL = '<tool_call>{"name": "research", "arguments": {"question": "x"}}</tool_call>'


@pytest.fixture
def wire() -> Iterator[Wire]:
    backend = ScriptedBackend(Reply("hm " * 30, CALL))
    for text in ("hm " * 30, CALL):
        backend.codec.encode(text)  # the other process decodes with the words that are known when it starts
    with serve_in_thread(backend) as server:
        yield server


def other(*args: object, wire: Wire, kill: bool = False) -> dict[str, Any]:
    """Run a part of the other process's program; what it prints."""
    codec: Any = wire.backend.codec
    command = [sys.executable, str(PROGRAM), wire.base_url, *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(json.dumps(codec._ids))
        running.stdin.close()
        if kill:
            assert running.stdout.readline().startswith("running")
            while not wire.backend.meter.output:
                time.sleep(0.01)
            running.send_signal(signal.SIGKILL)
            return {}
        out = running.stdout.read()
    assert running.returncode == 0, out
    return dict(json.loads(out.splitlines()[-1]))


def spent(ledger: Path, account: str, caps: Caps) -> int:
    return portal.run(LeasedAccounts(ledger, caps).spent(account)).tokens


def test_a_thread_goes_on_in_another_process(wire: Wire, tmp_path: Path) -> None:
    """Interrupted here, resumed there: the checkpoint is a file, and so is the thread's account."""
    thread = Caps(tokens=200)
    first = other("start", tmp_path, wire=wire)
    assert first == {"next": ["tools"], "messages": 2}
    before = wire.backend.meter.output
    assert before > 0
    second = other("resume", tmp_path, wire=wire)
    assert second == {"next": ["tools"], "messages": 4}  # the tool's answer, and the next call of it
    charged = spent(tmp_path / "spend.db", "thread 7", thread)
    assert wire.backend.meter.output > before
    forced = wire.backend.meter.requests  # at most one close a call is charged beyond the meter
    assert wire.backend.meter.output <= charged <= wire.backend.meter.output + forced


def test_a_killed_run_is_charged_whole(wire: Wire, tmp_path: Path) -> None:
    """Nobody knows what a dead process has spent: its lease is charged when it runs out."""
    backend: Any = wire.backend
    backend.tpot = 0.05
    other("start", tmp_path, 1.0, wire=wire, kill=True)
    store = open_store(tmp_path / "spend.db")

    async def after_the_lease() -> int:
        while (await store.read_accounts("thread 7"))[0].held.tokens:
            await store.expire()
            await asyncio.sleep(0.05)
        books = (await store.read_accounts("thread 7"))[0]
        await store.aclose()
        return books.spent.tokens

    charged = asyncio.run(after_the_lease())
    assert charged == 100 >= wire.backend.meter.output > 0


async def test_a_remote_graph_spends_what_was_set_aside(wire: Wire, tmp_path: Path) -> None:
    """The id travels as JSON in metadata; both sides share the caps; what comes late is refused."""
    ledger = tmp_path / "spend.db"
    model = ChatElasticReasoning(backend=wire.backend, thinking_budget=8, solution_budget=8)
    async with task_budget(tokens=300) as task:
        async with remote_budget(Caps(tokens=100), store=ledger) as metadata:
            assert isinstance(json.loads(metadata["elastic_agent_scope"]), dict)
            assert task.state.account.held.tokens >= 100
            there = await asyncio.to_thread(other, "remote", ledger, json.dumps(metadata), 3, wire=wire)
        remotely = task.spent.tokens
        late = await asyncio.to_thread(other, "remote", ledger, json.dumps(metadata), 1, wire=wire)
        assert (late["answered"], late["error"]) == (0, "ClosedTaskError")
        await model.ainvoke("say 1")
    assert there["answered"] == 3
    assert remotely == there["spent"]
    calls = wire.backend.meter.requests
    assert task.spent.tokens is not None
    assert wire.backend.meter.output <= task.spent.tokens <= wire.backend.meter.output + calls
    task.dispatcher.ledger.check()
    assert task.state.account.held.tokens == 0


async def test_a_remote_graph_cannot_spend_more(wire: Wire, tmp_path: Path) -> None:
    """Its calls are refused there when the part is used up, and here there is no more than there is."""
    ledger = tmp_path / "spend.db"
    async with task_budget(tokens=300) as task:
        async with remote_budget(Caps(tokens=40), store=ledger) as metadata:
            there = await asyncio.to_thread(other, "remote", ledger, json.dumps(metadata), 7, wire=wire)
        with pytest.raises(BudgetExceededError):
            async with remote_budget(Caps(tokens=300), store=ledger):
                pass
    assert 0 < there["answered"] < 7  # an answer takes 7 tokens at least
    assert there["error"] == "BudgetExceededError"
    assert wire.backend.meter.output <= (task.spent.tokens or 0) <= 40
    with pytest.raises(ClosedTaskError, match="open task_budget"):
        async with remote_budget(Caps(tokens=60), store=ledger):
            pass
