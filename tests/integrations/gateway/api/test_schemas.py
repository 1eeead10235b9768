"""Schemas through the gateway: what could stop an engine for everybody is refused, with its field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.gateway.conftest import HELLO, Start
from tests.integrations.openai_format.test_schema_check import BAD
from tests.wire import Faults


@pytest.mark.parametrize("name", ["260 objects", "enum", "type", "pattern"])
async def test_through_the_gateway(start: Start, name: str) -> None:
    """400 with the field, over both APIs, for formats and for strict tools; nothing was held or sent."""
    schema: Any = BAD[name][0]
    deep = name == "260 objects"  # too deep for a body already
    function = {"name": "f", "parameters": schema, "strict": True}
    async with start() as served:
        for path, body, param in (
            (
                "/chat/completions",
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
                "response_format.json_schema.schema",
            ),
            ("/chat/completions", {"tools": [{"type": "function", "function": function}]}, "tools"),
            (
                "/chat/completions",
                {
                    "tools": [{"type": "function", "function": function | {"strict": None}}],
                    "tool_choice": "required",
                },
                "tools",
            ),
            (
                "/responses",
                {"input": "a", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}},
                "text.format.schema",
            ),
        ):
            asked = body if path == "/responses" else {"messages": HELLO} | body
            status, _, answer = await served.post(path, asked)
            assert status == 400, answer
            assert answer["error"]["param"] == (None if deep else param), answer
        assert served.backend.meter.requests == 0
        assert (await served.settled()).tokens == 0


ODD = {"type": "object", "properties": {"a": {"type": "array", "contains": {"type": "integer"}}}}


async def test_what_only_the_engine_refuses(start: Start) -> None:
    """400 with the field and the engine's words, over both APIs and streamed; nothing was held or sent."""
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": ODD}}
    function = {"name": "f", "parameters": ODD, "strict": True}
    tools = [{"type": "function", "function": function}]
    async with start(faults=Faults(refuse_guides="Unimplemented keys: contains")) as served:
        for path, body, param in (
            ("/chat/completions", {"response_format": shape}, "response_format"),
            ("/chat/completions", {"response_format": shape, "stream": True}, "response_format"),
            ("/chat/completions", {"tools": tools}, "tools"),
            ("/chat/completions", {"tools": tools, "tool_choice": "required"}, "tool_choice"),
            (
                "/responses",
                {"text": {"format": {"type": "json_schema", "name": "x", "schema": ODD}}},
                "text.format",
            ),
        ):
            asked = {"input": "a"} if path == "/responses" else {"messages": HELLO}
            status, headers, answer = await served.post(path, asked | body)
            assert status == 400, answer
            error = answer["error"]
            assert (error["param"], error["code"]) == (param, "unsupported_value")
            assert error["message"].startswith(f"{param}: the engine of scripted can't guide by this schema")
            assert "Unimplemented keys: contains" in error["message"]
            assert "charged" not in error
            assert headers["Content-Type"].startswith("application/json")
        assert served.backend.meter.requests == 0
        assert (await served.settled()).tokens == 0
        assert not served.events


async def test_what_the_engine_takes_is_not_charged_for_the_question(start: Start) -> None:
    """The ledger says what the meter says."""
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": ODD}}
    async with start() as served:
        for _ in range(3):
            assert "error" not in await served.ask(response_format=shape)
        assert len(served.wire.checks) == 2
        await served.exact()


async def test_a_list_of_one_prompt_is_a_prompt(start: Start) -> None:
    """Clients of completions send lists always; of several prompts, the error says what to do."""
    async with start() as served:
        ids = served.backend.codec.encode("hello there")
        for prompt in (["hello there"], [ids]):
            status, _, answer = await served.post("/completions", {"prompt": prompt, "max_tokens": 20})
            assert (status, answer["choices"][0]["text"]) == (200, "so it is 42")
        status, _, answer = await served.post("/completions", {"prompt": ["a", "b"]})
        assert (status, answer["error"]["param"]) == (400, "prompt")
        assert "one prompt a request" in answer["error"]["message"]
