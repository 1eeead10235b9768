"""`/v1/responses`, by its real clients: the official SDK, `ChatOpenAI` and pydantic-ai."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from elastic_agent.backends.scripted import Reply
from tests.integrations.gateway.conftest import Served, Start

TOOL: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    "strict": False,
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ROUTE = "/responses"


class Answer(BaseModel):
    """A value."""

    value: int


@asynccontextmanager
async def sdk(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none", max_retries=0) as client:
        yield client


def agent(prompt: str) -> Reply:
    """Calls its tool, and answers when it has spoken."""
    return Reply(thinking="hm hm", solution="it is 2" if "tool 2" in prompt else CALL)


async def test_a_response_has_both_segments_and_the_numbers(start: Start) -> None:
    """Reasoning and message are items; usage is our count; thinking is cut at its budget."""
    async with start() as served, sdk(served) as client:
        said = await client.responses.create(
            model="scripted",
            input="hello",
            instructions="be short",
            metadata={"run": "7"},
            extra_body={"thinking_budget": 5, "solution_budget": 20},
        )
        reasoning, message = said.output
        assert reasoning.type == "reasoning"
        assert reasoning.content is not None
        assert reasoning.content[0].text == "hm hm hm hm hm"
        assert (message.type, said.output_text, said.status) == ("message", "so it is 42", "completed")
        assert (said.instructions, said.metadata) == ("be short", {"run": "7"})
        assert said.usage is not None
        assert said.usage.output_tokens_details.reasoning_tokens == 5
        extra: Any = said.model_extra
        assert extra["budget"]["calls"][0]["granted"] == {"thinking": 5, "solution": 20}
        await served.exact()


async def test_an_answer_that_is_cut_is_incomplete(start: Start) -> None:
    """`max_output_tokens` holds for thinking, close and solution together."""
    async with start() as served, sdk(served) as client:
        said = await client.responses.create(model="scripted", input="hello", max_output_tokens=4)
        assert said.status == "incomplete"
        assert said.incomplete_details is not None
        assert said.incomplete_details.reason == "max_output_tokens"
        assert said.usage is not None
        assert said.usage.output_tokens <= 4
        await served.exact()


async def test_an_empty_answer_is_a_message(start: Start) -> None:
    """Clients look for one."""
    async with start(Reply(thinking="hm", solution="")) as served, sdk(served) as client:
        said = await client.responses.create(model="scripted", input="hello")
        assert [item.type for item in said.output] == ["reasoning", "message"]
        assert said.output_text == ""


async def test_a_stream_adds_up_to_the_response(start: Start) -> None:
    """The SDK's own accumulation of the events is the final response; all events are numbered in order."""
    async with start(Reply(thinking="hm hm", solution=f"I will. {CALL}")) as served, sdk(served) as client:
        async with client.responses.stream(model="scripted", input="add", tools=[TOOL]) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
        assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
        deltas = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
        assert "".join(deltas) == "hm hm"
        assert final.output_text == "I will."
        whole = await client.responses.create(model="scripted", input="add", tools=[TOOL])
        told = ("type", "name", "arguments", "status", "content", "summary", "role")
        streamed, answered = (
            [{name: item.to_dict().get(name) for name in told} for item in one.output]
            for one in (final, whole)
        )
        for item in streamed:  # what the SDK's helper adds
            for part in item["content"] or ():  # type: ignore[attr-defined]
                part.pop("parsed", None)
        assert streamed == answered
        await served.exact()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_loop(start: Start, streamed: bool) -> None:
    """What came out goes back in, as the SDK hands it over, and reaches the template as one turn."""
    async with start(agent) as served, sdk(served) as client:
        history: Any = [{"role": "user", "content": "add one"}]
        for _ in range(2):
            if streamed:
                async with client.responses.stream(model="scripted", input=history, tools=[TOOL]) as stream:
                    async for _event in stream:
                        pass
                    said: Any = await stream.get_final_response()
            else:
                said = await client.responses.create(model="scripted", input=history, tools=[TOOL])
            history += said.output
            for item in said.output:
                if item.type == "function_call":
                    assert (item.name, json.loads(item.arguments)) == ("add", {"a": 1})
                    output = [{"type": "input_text", "text": "2"}]
                    history.append(
                        {"type": "function_call_output", "call_id": item.call_id, "output": output}
                    )
        assert said.output_text == "it is 2"
        await served.exact()


async def test_structured_answers_and_forced_calls_are_guided(start: Start) -> None:
    """A schema and a tool choice reach the engine in the solution's pass alone."""
    async with start(Reply(thinking="hm", solution='{"value": 3}')) as served, sdk(served) as client:
        said = await client.responses.parse(model="scripted", input="?", text_format=Answer)
        assert said.output_parsed == Answer(value=3)
        thinking, solving = served.wire.requests
        assert "structured_outputs" not in thinking
        assert json.loads(solving["structured_outputs"]["json"])["required"] == ["value"]
    async with start(Reply(thinking="hm", solution=CALL)) as served, sdk(served) as client:
        forced: Any = ("required", {"type": "function", "name": "add"})
        for choice in forced:
            said = await client.responses.create(
                model="scripted", input="?", tools=[TOOL], tool_choice=choice
            )
            assert said.output[-1].type == "function_call"
            assert "structural_tag" in served.wire.requests[-1]["structured_outputs"]


async def test_other_clients(start: Start) -> None:
    """LangChain's `ChatOpenAI` and pydantic-ai over the Responses API, unchanged."""
    async with start(agent) as served, sdk(served) as client:
        model = ChatOpenAI(
            model="scripted", base_url=served.gateway.url, api_key="none", use_responses_api=True
        )
        assert (await model.bind_tools([TOOL]).ainvoke("add")).tool_calls[0]["args"] == {"a": 1}
        text = "".join([chunk.text async for chunk in model.astream("tool 2")])
        assert text == "it is 2"
        ours: Agent[None, str] = Agent(
            OpenAIResponsesModel("scripted", provider=OpenAIProvider(openai_client=client))
        )

        @ours.tool_plain
        def add(a: int) -> int:
            return a + 1

        assert (await ours.run("add one")).output == "it is 2"
        await served.exact()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "hi", "background": True}, "background"),
        ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "function_call_output", "output": "2"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "a", "name": "b", "arguments": "{"}]}, "input[0]"),
        ({"input": [{"content": "hi"}]}, "input[0].role"),
        ({"input": "hi", "max_output_tokens": 1}, "max_output_tokens"),
        ({"input": "hi", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
        ({"input": "hi", "thinking_budgett": 5}, "thinking_budgett"),
        ({"input": "hi", "model": "nobody"}, None),
    ],
)
async def test_what_cannot_be_obeyed_is_named(start: Start, body: dict[str, Any], field: str | None) -> None:
    """By the names of this API; nothing is spent."""
    async with start() as served:
        status, _, error = await served.post(ROUTE, body)
        assert status == (404 if field is None else 400), error
        if field is not None:
            assert error["error"]["param"].startswith(field), error
        assert served.backend.meter.requests == 0


async def test_an_error_in_mid_stream_is_the_clients_to_see(start: Start) -> None:
    """The SDK raises it, and what was served is charged."""
    from elastic_agent.integrations.gateway.settings import Limits

    slow = Limits(call_seconds=0.3, grace_seconds=2.0)
    async with start(tpot=0.02, limits=slow) as served, sdk(served) as client:
        with pytest.raises(openai.APIError, match="longer than"):
            async for _ in await client.responses.create(model="scripted", input="hello", stream=True):
                pass
        await served.covered()


async def test_a_summary_that_is_asked_for_is_the_reasoning(start: Start) -> None:
    """Clients that show summaries alone show the thinking; a history with one brings the thinking back."""
    async with start(Reply(thinking="hm hm", solution="so")) as served, sdk(served) as client:
        asked: Any = {"model": "scripted", "reasoning": {"effort": "low", "summary": "auto"}}
        async with client.responses.stream(input="hello", **asked) as stream:
            events = [event async for event in stream]
            streamed = await stream.get_final_response()
        whole = await client.responses.create(input="hello", text={"verbosity": "low"}, **asked)
        for response in (streamed, whole):
            reasoning = response.output[0]
            assert reasoning.type == "reasoning"
            assert [part.text for part in reasoning.summary] == ["hm hm"]
            assert not reasoning.content
        deltas = [e.delta for e in events if e.type == "response.reasoning_summary_text.delta"]
        assert "".join(deltas) == "hm hm"
        history: Any = [
            {"role": "user", "content": "hello"},
            *(item.model_dump(exclude_none=True) for item in whole.output),
            {"role": "user", "content": "again"},
        ]
        assert (await client.responses.create(input=history, **asked)).output_text == "so"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "store: false"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"type": "namespace", "name": "shell"}]}, "namespace"),
    ],
)
async def test_what_openai_would_run_or_keep_is_named(body: dict[str, Any], words: str, start: Start) -> None:
    """The error says which tool it is, or what to send instead of a reference."""
    async with start() as served:
        status, _, answer = await served.post(ROUTE, {"input": "hello", **body})
        assert status == 400
        assert words in answer["error"]["message"]
