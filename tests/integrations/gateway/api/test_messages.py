"""`/v1/messages`, Anthropic's wire, as it is written. Anthropic's own SDK is tried by `make clients`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply
from tests.integrations.gateway.conftest import HELLO, Served, Start

TOOL = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
ASKED: dict[str, Any] = {"model": "scripted", "max_tokens": 200, "messages": HELLO}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 5}}


async def said(served: Served, **body: Any) -> Any:
    status, _, answer = await served.post("/messages", {**ASKED, **body})
    assert status == 200, answer
    return answer


async def events(served: Served, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream; each is sent under its type."""
    url = f"{served.gateway.url}/messages"
    async with served.session.post(url, json={**ASKED, **body, "stream": True}) as response:
        assert response.status == 200
        found = []
        for part in (await response.text()).strip().split("\n\n"):
            name, data = part.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
        return found


def added_up(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content blocks of a stream, as Anthropic's clients add them up."""
    blocks: list[dict[str, Any]] = []
    written = ""
    for event in found:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(dict(event["content_block"]))
            written = ""
        elif event["type"] == "content_block_delta":
            delta = {name: value for name, value in event["delta"].items() if name != "type"}
            for name, value in delta.items():
                if name == "partial_json":
                    written += value
                else:
                    blocks[-1][name] += value
        elif event["type"] == "content_block_stop" and blocks[-1]["type"] == "tool_use":
            blocks[-1]["input"] = json.loads(written)
    return blocks


async def test_a_message_has_thinking_text_and_numbers(start: Start) -> None:
    """Thinking is cut at `budget_tokens`; its block has a signature; usage is our count."""
    async with start() as served:
        answer = await said(served, **THINKING)
        thinking, text = answer["content"]
        assert thinking == {"type": "thinking", "thinking": "hm hm hm hm hm", "signature": "unsigned"}
        assert text == {"type": "text", "text": "so it is 42"}
        assert (answer["type"], answer["role"], answer["stop_reason"]) == ("message", "assistant", "end_turn")
        assert answer["usage"]["output_tokens"] == 11
        assert answer["usage"]["input_tokens"] > 0
        assert answer["budget"]["calls"][0]["granted"]["thinking"] == 5
        await served.exact()


@pytest.mark.parametrize(
    ("body", "headers", "thought"),
    [
        ({}, {}, 0),
        ({"thinking": {"type": "disabled"}}, {}, 0),
        ({"thinking": {"type": "adaptive"}}, {}, 61),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "none"}}, {}, 0),
        ({"thinking_budget": 7}, {}, 7),
        ({}, {"X_Elastic_Thinking": "3"}, 3),
    ],
)
async def test_who_asks_for_no_thinking_gets_none(
    body: dict[str, Any], headers: dict[str, str], thought: int, start: Start
) -> None:
    """As at Anthropic: programs read the first block as the text. Our own words allow thinking, too."""
    async with start() as served:
        _, _, answer = await served.post("/messages", {**ASKED, **body}, **headers)
        kinds = [block["type"] for block in answer["content"]]
        assert kinds == (["thinking", "text"] if thought else ["text"])
        assert answer["budget"]["calls"][0]["used"]["thinking"] == thought


async def test_max_tokens_caps_everything(start: Start) -> None:
    """`max_tokens` holds for thinking, close and solution together, and cuts with its own reason."""
    async with start() as served:
        answer = await said(served, max_tokens=4, thinking={"type": "enabled", "budget_tokens": 100})
        assert answer["stop_reason"] == "max_tokens"
        assert answer["usage"]["output_tokens"] <= 4
        status, _, missing = await served.post("/messages", {"model": "scripted", "messages": HELLO})
        assert (status, missing["error"]["param"]) == (400, "max_tokens")
        assert (missing["type"], missing["error"]["type"]) == ("error", "invalid_request_error")


async def test_stop_sequences(start: Start) -> None:
    """One that ends the answer is named; of several, none is."""
    async with start() as served:
        answer = await said(served, stop_sequences=[" is"])
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", " is")
        assert answer["content"][-1]["text"] == "so it"
        answer = await said(served, stop_sequences=[" is", "nowhere"])
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", None)


async def test_a_stream_adds_up_to_the_message(start: Start) -> None:
    """Events come in Anthropic's order; their deltas are the blocks of the whole message."""
    async with start(Reply(thinking="hm hm", solution=f"I will. {CALL}")) as served:
        asked: dict[str, Any] = {"tools": [TOOL], **THINKING}
        found, whole = await events(served, **asked), await said(served, **asked)
        kinds = [event["type"] for event in found if event["type"] != "content_block_delta"]
        assert kinds == [
            *("message_start", "ping"),
            *["content_block_start", "content_block_stop"] * 3,
            *("message_delta", "message_stop"),
        ]
        blocks = added_up(found)
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use"]
        for one in (blocks[-1], whole["content"][-1]):
            assert one.pop("id")
        assert blocks == whole["content"]
        end = next(event for event in found if event["type"] == "message_delta")
        assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
        assert end["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
        assert found[0]["message"]["content"] == []
        await served.exact()


async def test_omitted_thinking_is_an_empty_block(start: Start) -> None:
    """`display: omitted` shows none of the thinking, which is charged all the same."""
    async with start() as served:
        asked = {"thinking": {"type": "enabled", "budget_tokens": 5, "display": "omitted"}}
        answer = await said(served, **asked)
        assert answer["content"][0] == {"type": "thinking", "thinking": "", "signature": "unsigned"}
        assert answer["usage"]["output_tokens"] == 11
        assert added_up(await events(served, **asked)) == answer["content"]


async def test_a_conversation_with_tools_comes_back(start: Start) -> None:
    """What an answer held is accepted in the history, and the model reads all of it."""
    prompts = []

    def agent(prompt: str) -> Reply:
        prompts.append(prompt)
        return Reply(thinking="hm hm", solution="it is 2" if "tool 2" in prompt else CALL)

    async with start(agent) as served:
        asked: dict[str, Any] = {
            "tools": [TOOL],
            "system": [{"type": "text", "text": "be short"}],
            **THINKING,
        }
        first = await said(served, **asked)
        (call,) = [block for block in first["content"] if block["type"] == "tool_use"]
        assert (call["name"], call["input"], first["stop_reason"]) == ("add", {"a": 1}, "tool_use")
        result = [{"type": "text", "text": "2", "cache_control": {"type": "ephemeral"}}]
        history = [
            *HELLO,
            {"role": "assistant", "content": [*first["content"], {"type": "redacted_thinking", "data": "x"}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call["id"], "content": result},
                    {"type": "text", "text": "and now?"},
                ],
            },
        ]
        second = await said(served, messages=history, **asked)
        assert second["content"][-1]["text"] == "it is 2"
        assert "be short" in prompts[-1]
        assert "and now?" in prompts[-1]
        await served.exact()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [*HELLO, {"role": "assistant", "content": "so"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}, *HELLO]}, "messages[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"max_output_tokens": 5}, "max_output_tokens"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
        ({"temperature": 9}, "temperature"),
    ],
)
async def test_what_cannot_be_obeyed_is_a_400(body: dict[str, Any], param: str, start: Start) -> None:
    """The field is named, in Anthropic's shape, and nothing is spent."""
    async with start() as served:
        status, _, answer = await served.post("/messages", {**ASKED, **body})
        assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
        assert (answer["error"]["param"] or "").startswith(param), answer
        assert served.backend.meter.output == 0


async def test_keys_and_refusals_in_anthropics_shape(start: Start) -> None:
    """`x-api-key` is a key; 401, 402 and 404 have Anthropic's types; 402 has the numbers."""
    async with start(no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice", Caps(tokens=40))
        answer = (await served.post("/messages", {**ASKED, "max_tokens": 20}, x_api_key=key))[2]
        assert answer["content"][0]["text"] == "so it is 42"
        for expected, kind, sent, headers in (
            (401, "authentication_error", ASKED, {}),
            (401, "authentication_error", ASKED, {"x_api_key": "ea-wrong"}),
            (402, "billing_error", ASKED | {"max_tokens": 39}, {"x_api_key": key}),
            (404, "not_found_error", ASKED | {"model": "claude"}, {"x_api_key": key}),
        ):
            status, _, answer = await served.post("/messages", sent, **headers)
            assert (status, answer["type"], answer["error"]["type"]) == (expected, "error", kind)
            assert ("needed" in answer["error"]) == (status == 402)
        await served.exact()


async def test_a_billed_error_is_not_tried_again(start: Start) -> None:
    """An upstream that breaks off costs what was served; `x-should-retry` keeps the SDK from paying twice."""
    from tests.wire import Faults

    async with start(faults=Faults(cut_after=3)) as served:
        status, headers, answer = await served.post("/messages", {**ASKED, **THINKING})
        assert (status, answer["error"]["type"]) == (503, "overloaded_error")
        assert headers["x-should-retry"] == "false"
        assert answer["error"]["charged"]["tokens"] > 0
        await served.covered()


async def test_count_tokens(start: Start) -> None:
    """The prompt that a message is charged for, counted at no cost."""
    async with start() as served:
        asked = {"model": "scripted", "messages": HELLO, "system": "be short"}
        status, _, counted = await served.post("/messages/count_tokens", asked)
        assert status == 200
        assert served.backend.meter.requests == 0
        answer = await said(served, system="be short")
        used = answer["usage"]
        assert counted["input_tokens"] == used["input_tokens"] + used["cache_read_input_tokens"]
