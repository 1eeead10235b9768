"""The gateway that the clients meet, as a process: e1-tiny, and four scripted models beside.

caller  calls the tool `add`, and says "it is 2" once it has the result
coder   runs a command by the tool `Bash`, and says what came of it
writer  answers in JSON
slow    says nothing for ten minutes, so that its calls hold room, and nobody knows for how long

    python -m tests.integrations.clients.server LEDGER

Prints its URL, then a JSON line a request (the access log), until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from elastic_agent import load_backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits, Upstream
from elastic_agent.scheduler.ledger.prices import Price

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def call(prompt: str) -> Reply:
    """A tool call, or the answer after one."""
    return Reply(thinking="hm hm", solution="it is 2" if "tool 2" in prompt else CALL)


COMMAND = '<tool_call>\n{"name": "Bash", "arguments": {"command": "echo $((20+3))"}}\n</tool_call>'


def code(prompt: str) -> Reply:
    """A command, or the answer after one."""
    return Reply(thinking="hm hm", solution="the sum is 23" if "tool 23" in prompt else COMMAND)


async def main(ledger: str) -> None:
    """Serve until standard input ends."""
    price = Price("1", "2")
    upstreams = [
        Upstream("e1-tiny", load_backend("e1-tiny"), price),
        Upstream("caller", ScriptedBackend(call), price),
        Upstream("coder", ScriptedBackend(code, context_length=200_000), price),
        Upstream("writer", ScriptedBackend(Reply(thinking="hm", solution='{"a": 42}')), price),
        Upstream("slow", ScriptedBackend(ttft=600.0), price),
    ]
    settings = GatewaySettings(upstreams, ledger=ledger, port=0, limits=Limits(grace_seconds=0.0))
    async with Gateway(settings, access) as gateway:
        print(json.dumps({"url": gateway.url}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def access(facts: dict[str, Any]) -> None:
    """A line of the access log."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
