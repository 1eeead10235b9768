"""What a model writes where it should not, at every route of the gateway, streamed and not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from tests.core.generation.saying import Saying
from tests.integrations.gateway.conftest import HELLO, Served, Start

AGAIN = "<think> secret doubts go on </think> it is 4"
TOOL = {
    "type": "function",
    "function": {"name": "say", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}},
}
ASKED: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": HELLO},
    "completions": {"prompt": "hello there"},
    "responses": {"input": "hello there"},
}


async def ask(served: Served, path: str, *, stream: bool, **more: Any) -> tuple[str, str, dict[str, Any]]:
    """Reasoning, text, and what was said last, of one answer."""
    body = {**ASKED[path], "stream": stream, "thinking_budget": 4, **more}
    async with served.session.post(f"{served.gateway.url}/{path}", json=body) as response:
        assert response.status == 200, await response.text()
        if not stream:
            return whole(path, await response.json())
        lines = [part.partition("data: ")[2] for part in (await response.text()).split("\n\n") if part]
    events = [json.loads(line) for line in lines if line and line != "[DONE]"]
    if path == "responses":
        said = {"response.reasoning_text.delta": "", "response.output_text.delta": ""}
        for event in events:
            if event["type"] in said:
                said[event["type"]] += event["delta"]
        return (*said.values(), events[-1]["response"])
    choices = [event["choices"][0] for event in events if event["choices"]]
    deltas = [choice.get("delta", choice) for choice in choices]
    text = "".join(delta.get("content") or delta.get("text") or "" for delta in deltas)
    return "".join(delta.get("reasoning") or "" for delta in deltas), text, events[-1]


def whole(path: str, body: Any) -> tuple[str, str, dict[str, Any]]:
    if path == "responses":
        parts = {item["type"]: item["content"][0]["text"] for item in body["output"]}
        return parts.get("reasoning", ""), parts["message"], body
    choice = body["choices"][0]
    message = choice.get("message", choice)
    return message.get("reasoning") or "", message.get("content", message.get("text")), body


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_opened_again_is_reasoning(start: Start, path: str, stream: bool) -> None:
    """C 13: at every route; what it cost is in usage, and the books are exact."""
    async with start(backend=Saying(Reply("a b c d e f", AGAIN))) as served:
        more = {} if path == "responses" else {"logprobs": True if path.startswith("chat") else 0}
        thought, text, last = await ask(served, path, stream=stream, **more)
        opens = path == "completions"  # bare text: the start marker is the model's own, and thinking
        assert (thought, text) == (f"a b c{'' if opens else ' d'}\nsecret doubts go on", "it is 4")
        assert "secret" not in json.dumps(last.get("choices", [{}])[0].get("logprobs") or {})
        if not stream and path != "responses":
            assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4 + 6
        await served.exact()


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_never_came_is_told(start: Start, path: str, stream: bool) -> None:
    """The model ended while it thought again: nothing says that it stopped by itself, with an answer."""
    async with start(backend=Saying(Reply("a b", "<think> secret doubts"))) as served:
        thought, text, last = await ask(served, path, stream=stream)
        assert (thought, text) == ("a b\nsecret doubts", "")
        if path == "responses":
            assert last["status"] == "incomplete"
        else:
            assert last["choices"][0]["finish_reason"] == "length"
        await served.exact()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_end_tag_in_an_argument(start: Start, stream: bool) -> None:
    """C 14, in chat and in Responses."""
    said = '<tool_call>{"name": "say", "arguments": {"x": "</tool_call>"}}</tool_call>'
    async with start(Reply("a b", said)) as served:
        body = {"messages": HELLO, "tools": [TOOL], "stream": stream}
        async with served.session.post(f"{served.gateway.url}/chat/completions", json=body) as response:
            text = await response.text()
        assert json.dumps(json.dumps({"x": "</tool_call>"})) in text
        assert '"finish_reason": "tool_calls"' in text or '"finish_reason":"tool_calls"' in text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_begun_in_thinking_is_made_behind_it(start: Start, stream: bool) -> None:
    """C 15: thinking ends at its start, and the model makes it in its solution."""
    call = '<tool_call> {"name": "say", "arguments": {"x": "hi"}} </tool_call>'
    async with start(Reply(f"hm {call}", call)) as served:
        body = {"messages": HELLO, "tools": [TOOL], "stream": stream, "thinking_budget": 3}
        async with served.session.post(f"{served.gateway.url}/chat/completions", json=body) as response:
            text = await response.text()
        assert json.dumps(json.dumps({"x": "hi"})) in text
        await served.exact()


@pytest.mark.parametrize("path", ASKED)
async def test_a_wrap_up_is_the_operators(start: Start, path: str) -> None:
    """It is written before each forced close, billed, and counts against `max_tokens`."""
    backend = ScriptedBackend(Reply("a b c d e f", "it is 4 and more"))
    async with start(backend=backend, wrap_up="Time is up: answer now.") as served:
        thought, text, _ = await ask(served, path, stream=False)
        opens = path == "completions"  # bare text: the start marker is the model's own, and thinking
        assert (thought, text) == ("a b c" if opens else "a b c d", "it is 4 and more")
        used = next(e["used"] for e in served.events if e["event"] == "settled")
        assert (used["wrap_up"], used["forced"]) == (6, 7)
        await served.exact()
        if path == "chat/completions":
            _, text, last = await ask(served, path, stream=False, max_tokens=12, thinking_budget=None)
            assert last["usage"]["completion_tokens"] <= 12
