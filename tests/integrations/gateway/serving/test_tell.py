"""`serve --tell`: what is left of the task that a request names, told by the wire."""

from __future__ import annotations

from typing import Any

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply
from elastic_agent.cli_arguments import Parser
from elastic_agent.errors import InvalidValueError, UsageError
from elastic_agent.integrations.commands.serve import add_command
from elastic_agent.integrations.gateway.settings import GatewaySettings
from tests.integrations.gateway.accounts.test_hosted_tasks import hosting
from tests.integrations.gateway.conftest import Start

ASKED = [
    {"role": "user", "content": "say 1"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": [{"type": "text", "text": "say"}, {"type": "text", "text": " 2"}]},
]
LIMITS: dict[str, Any] = {"thinking_budget": 4, "solution_budget": 8, "messages": ASKED}
TASK = {"X-Elastic-Task": "job", "X-Elastic-Caps": "tokens=812"}


async def test_requests_of_a_task_are_told(start: Start) -> None:
    """Behind the last message, streamed or not; the ledger charges what the meter counts."""
    seen: list[str] = []

    def reply(prompt: str) -> Reply:
        if prompt not in seen:
            seen.append(prompt)
        return Reply("hm hm", "so it is 42")

    async with start(reply, tell=True) as served:
        said = await served.ask(headers=TASK, **LIMITS)
        left = said["budget"]["left"]["tokens"]
        async with served.session.post(
            f"{served.gateway.url}/chat/completions",
            json={**LIMITS, "stream": True},
            headers={"X-Elastic-Task": "job", "X-Elastic-Final": "true"},
        ) as response:
            assert b"[DONE]" in await response.read()
        quiet = await served.ask(headers={**TASK, "X-Elastic-Tell": "false"}, **LIMITS)
        alone = await served.ask(**LIMITS)
        await served.post("/completions", {**LIMITS, "messages": None, "prompt": "go"}, X_Elastic_Task="job")
        await served.settled()
        schedulers = served.gateway.schedulers
        names = [one.name for one in schedulers._by_root.values()]  # the key's account, and the task's in it
        spent = [(await schedulers.store.read_accounts(name))[0].spent for name in names]
        key = max(spent, key=lambda one: one.tokens)
        meter = served.backend.meter
        assert (key.tokens, key.nano) == (meter.output, 1000 * meter.input + 2000 * meter.output)
    about = left // 10 * 10
    before = "user say 1assistant 1user say 2"
    assert seen == [
        f"{before} (about 810 tokens left)assistant",
        f"{before} (about {about} tokens left; final answer now)assistant",
        f"{before}assistant",
        "go",
    ]
    assert said["usage"]["prompt_tokens"] == quiet["usage"]["prompt_tokens"] + 4
    assert quiet["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]


async def test_a_request_asks_to_be_told(start: Start) -> None:
    """Where the gateway doesn't tell by itself. It needs a task to tell of."""
    seen: list[str] = []

    def reply(prompt: str) -> Reply:
        seen.append(prompt)
        return Reply("hm hm", "so it is 42")

    async with start(reply) as served:
        await served.ask(headers={**TASK, "X-Elastic-Tell": "true"}, **LIMITS)
        assert seen[0].endswith("say 2 (about 810 tokens left)assistant")
        for headers in ({"X-Elastic-Tell": "true"}, {**TASK, "X-Elastic-Tell": "loud"}):
            error = (await served.ask(headers=headers, **LIMITS))["error"]
            assert error["param"] == "X-Elastic-Tell"


async def test_a_hosted_task_is_told_as_it_says() -> None:
    """A task of this process, by wire: its `tell=` holds, for the sub-task of one request, too."""
    seen: dict[str, None] = {}

    def reply(prompt: str) -> Reply:
        seen[prompt] = None
        return Reply("hm hm", "so it is 42")

    async with hosting(reply) as served, served.scheduler.task(Caps(tokens=812), tell=True) as task:
        await served.ask(task)
        await served.ask(task, extra_headers={"X-Elastic-Caps": "tokens=300"})
        await served.ask(task, extra_headers={"X-Elastic-Tell": "false"})
    assert list(seen) == [
        "user hello there (about 810 tokens left)assistant",
        "user hello there (about 300 tokens left; final answer now)assistant",
        "user hello thereassistant",
    ]


def test_tell_is_checked_with_the_settings() -> None:
    """Before anything is served."""
    with pytest.raises(InvalidValueError, match="may hold"):
        GatewaySettings([], tell="{thinking}")


def test_the_command_takes_words() -> None:
    """Or none, for the standard words."""
    parser = Parser()
    add_command(parser.add_subparsers())
    given = {(): None, ("--tell",): True, ("--tell", "( {tokens} left )"): "( {tokens} left )"}
    for arguments, tell in given.items():
        assert parser.parse_args(["serve", "--no-keys", *arguments]).tell == tell
    with pytest.raises(UsageError, match="may hold"):
        parser.parse_args(["serve", "--tell", "{thinking}"])
