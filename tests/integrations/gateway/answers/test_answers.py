"""What a request asks for is what it gets: budgets, answers, numbers, in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elastic_agent.backends.scripted import Reply
from tests.integrations.gateway.conftest import HELLO, Start

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
STRICT: dict[str, Any] = {**TOOL, "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


async def test_an_answer_has_both_segments_and_the_numbers(start: Start) -> None:
    """Thinking is cut at its budget; usage is our own count; the budget says what was granted and used."""
    async with start() as served:
        status, headers, body = await served.post(
            "/chat/completions", {"messages": HELLO, "thinking_budget": 5, "solution_budget": 20}
        )
        assert status == 200
        message = body["choices"][0]["message"]
        assert message["content"] == "so it is 42"
        assert message["reasoning"] == message["reasoning_content"] == "hm hm hm hm hm"
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"]["completion_tokens"] == 5 + 1 + 5
        assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
        (call,) = body["budget"]["calls"]
        assert call["granted"] == {"thinking": 5, "solution": 20}
        assert call["thinking_end"] == "budget"
        assert headers["X-Elastic-Granted"] == "thinking=5, solution=20"
        assert headers["X-Elastic-Used"] == "thinking=5, close=1, solution=5"
        await served.exact()


@pytest.mark.parametrize(
    ("asked", "headers", "granted"),
    [
        ({"thinking_budget": 7, "solution_budget": 9}, {}, (7, 9)),
        ({}, {"X-Elastic-Thinking": "3", "X-Elastic-Solution": "4"}, (3, 4)),
        ({"thinking_budget": 7}, {"X-Elastic-Thinking": "3", "X-Elastic-Solution": "4"}, (7, 4)),
        ({"reasoning_effort": "none", "solution_budget": 8}, {}, (0, 8)),
        ({"reasoning_effort": "low", "solution_budget": 8}, {}, (1024, 8)),
        ({"max_tokens": 102}, {}, (50, 50)),
        ({"max_completion_tokens": 102, "max_tokens": 9}, {}, (50, 50)),
        ({"max_completion_tokens": 102, "thinking_budget": 80}, {}, (50, 50)),
        ({"max_completion_tokens": 102, "thinking_budget": 10}, {}, (10, 90)),
        ({"max_completion_tokens": 102, "solution_budget": 30}, {}, (70, 30)),
        ({"max_completion_tokens": 3}, {}, (0, 1)),
    ],
)
async def test_budgets_by_field_and_by_header(
    start: Start, asked: dict[str, Any], headers: dict[str, str], granted: tuple[int, int]
) -> None:
    """Each way of saying a budget, and which one wins."""
    async with start() as served:
        body = await served.ask(headers=headers, **asked)
        found = body["budget"]["calls"][0]["granted"]
        assert (found["thinking"], found["solution"]) == granted
        limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
        assert limit is None or body["usage"]["completion_tokens"] <= limit
        await served.exact()


async def test_a_completion(start: Start) -> None:
    """The text is the solution, with the thinking beside it; prompts are text or ids."""
    async with start() as served:
        for prompt in ("hello there", [20, 21]):
            sent = {"prompt": prompt, "thinking_budget": 3, "logprobs": 0}
            status, _, body = await served.post("/completions", sent)
            assert status == 200, body
            (choice,) = body["choices"]
            assert choice["text"] == "so it is 42"
            assert choice["reasoning"].startswith("hm")
            assert choice["logprobs"]["tokens"][:2] == ["so", " it"]
        await served.exact()


async def test_n_answers_are_n_calls(start: Start) -> None:
    """Side by side, each with its own budget and seed, each paid."""
    async with start() as served:
        body = await served.ask(n=3, thinking_budget=4, seed=7, logprobs=True)
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        assert body["usage"]["completion_tokens"] == 3 * (4 + 1 + 5)
        assert len({sent["seed"] for sent in served.wire.requests}) == 6
        assert [t["token"] for t in body["choices"][2]["logprobs"]["content"]][:2] == ["so", " it"]
        await served.exact()


async def test_stop_strings_end_the_solution_alone(start: Start) -> None:
    """A stop string in the thinking stops nothing."""
    async with start(Reply(thinking="one is two", solution="three is four")) as served:
        body = await served.ask(stop=[" is"])
        assert body["choices"][0]["message"]["reasoning"] == "one is two"
        assert body["choices"][0]["message"]["content"] == "three"
        assert body["choices"][0]["finish_reason"] == "stop"
        await served.covered()


async def test_tool_calls_live_in_the_solution(start: Start) -> None:
    """A call in the thinking is none; one that is no JSON is text."""
    async with start(Reply(thinking=f"maybe {CALL}", solution=f"I will. {CALL}")) as served:
        body = await served.ask(tools=[TOOL])
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "I will."
        (call,) = choice["message"]["tool_calls"]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("add", {"a": 1})
        assert (await served.ask(tools=[TOOL], tool_choice="none"))["choices"][0]["finish_reason"] == "stop"
    async with start(Reply(solution="<tool_call>nonsense</tool_call>")) as served:
        message = (await served.ask(tools=[TOOL]))["choices"][0]["message"]
        assert message["content"] == "<tool_call>nonsense"
        assert "tool_calls" not in message


async def test_guided_decoding_is_for_the_solution_alone(start: Start) -> None:
    """A schema and a forced tool go to the engine in the second pass, and not where there is no engine."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    async with start(Reply(thinking="hm", solution='{"x": 1}')) as served:
        assert (await served.ask(response_format=wanted))["choices"][0]["message"]["content"] == '{"x": 1}'
        thinking, solving = served.wire.requests
        assert "structured_outputs" not in thinking
        assert json.loads(solving["structured_outputs"]["json"]) == schema
    async with start(Reply(thinking="hm", solution=CALL)) as served:
        for choice in ("required", {"type": "function", "function": {"name": "add"}}):
            served.wire.requests.clear()
            body = await served.ask(tools=[TOOL], tool_choice=choice)
            (call,) = body["choices"][0]["message"]["tool_calls"]
            assert call["function"]["arguments"] == '{"a": 1}'
            guide = json.loads(served.wire.requests[1]["structured_outputs"]["structural_tag"])
            (tag,) = guide["format"]["tags"]
            assert '"name": "add"' in tag["begin"]
            assert tag["content"]["json_schema"] == TOOL["function"]["parameters"]  # type: ignore[index]
    async with start(embedded=True) as served:
        for asked, field in (
            ({"response_format": wanted}, "response_format"),
            ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
            ({"tools": [TOOL], "parallel_tool_calls": False}, "parallel_tool_calls"),
            ({"tools": [STRICT]}, "tools"),
        ):
            status, _, body = await served.post("/chat/completions", {"messages": HELLO, **asked})
            assert (status, body["error"]["param"]) == (400, field)
        assert served.backend.meter.requests == 0


async def test_old_thinking_and_tool_results_reach_the_template(start: Start) -> None:
    """A conversation with everything in it is read."""
    history = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "add"}, {"type": "text", "text": " one"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "well",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    async with start() as served:
        status, _, body = await served.post("/chat/completions", {"messages": history, "tools": [TOOL]})
        assert status == 200, body


async def test_models_and_the_description(start: Start) -> None:
    """The models are listed; the description names every route that there is, but those of the live page."""
    async with start() as served:
        async with served.session.get(f"{served.gateway.url}/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["scripted"]
        async with served.session.get(f"{served.gateway.url}/models/scripted") as response:
            assert (await response.json())["max_model_len"] == 32_768
        async with served.session.get(f"{served.root}/openapi.json") as response:
            described = await response.json()
        routes = {r.canonical for r in served.gateway.app.router.resources()}  # type: ignore[union-attr]
        api = {path.replace("{name:.+}", "{name}") for path in routes if not path.startswith("/ui")}
        assert api == set(described["paths"])
        async with served.session.get(f"{served.root}/ready") as response:
            assert (await response.json())["upstreams"] == {"scripted": True}
