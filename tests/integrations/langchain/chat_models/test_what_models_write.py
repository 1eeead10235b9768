"""What a model writes where it should not: thinking opened again, half tool calls, other tools' formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.tools import tool

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM
from elastic_agent.scheduler import task_budget
from elastic_agent.tool_calls import tool_format
from tests.core.generation.saying import Saying

Make = Callable[..., ChatElasticReasoning]
AGAIN = "<think> secret doubts go on </think> it is 4"
CALL = '<tool_call> {"name": "add", "arguments": {"a": 1, "b": 2}} </tool_call>'


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def merged(model: Any, asked: str) -> Any:
    whole: Any = None
    async for chunk in model.astream(asked):
        whole = chunk if whole is None else whole + chunk
    return whole


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("version", [None, "v1"])
async def test_thinking_opened_again_is_reasoning(chat: Make, version: str | None, tools: bool) -> None:
    """C 13: in `invoke` and `stream`, as blocks, and in usage; inside a task and outside."""
    model: Any = chat(backend=Saying(Reply("a b", AGAIN)), solution_budget=40, output_version=version)
    model = model.bind_tools([add]) if tools else model
    for task in (False, True):
        if task:
            async with task_budget(tokens=900):
                message = await model.ainvoke("hi")
                whole = await merged(model, "hi")
        else:
            message, whole = model.invoke("hi"), await merged(model, "hi")
        for found in (message, whole):
            assert found.text.strip() == "it is 4"
            blocks = [b for b in found.content_blocks if b["type"] == "reasoning"]
            assert "".join(b["reasoning"] for b in blocks) == "a b\nsecret doubts go on"
            assert found.response_metadata["finish_reason"] == "stop"
            assert found.usage_metadata["output_token_details"]["reasoning"] == 2 + 6
            assert found.response_metadata["usage"]["reopened"] == 6


async def test_thinking_opened_again_and_never_closed_is_told(chat: Make) -> None:
    """There is no answer, and nothing says that there is one."""
    message = await chat(backend=Saying(Reply("a b", "<think> secret doubts"))).ainvoke("hi")
    assert (message.text, message.response_metadata["finish_reason"]) == ("", "reopened")
    assert message.response_metadata["budget"]["solution_end"] == "reopened"
    assert not message.response_metadata["budget"]["as_asked"]


def test_the_text_model_shows_the_answer_alone() -> None:
    """C 13 for `ElasticReasoningLLM`, streamed and not."""
    model = ElasticReasoningLLM(backend=Saying(Reply("a b", AGAIN)), thinking_budget=4, solution_budget=40)
    assert model.invoke("hi").strip() == "it is 4"
    assert "".join(model.stream("hi")).strip() == "it is 4"


# Tool calls


@pytest.mark.parametrize("thinking", range(9))
async def test_a_tool_call_begun_in_thinking_is_made_in_the_solution(chat: Make, thinking: int) -> None:
    """C 15: its start ends thinking, whatever the budget; the call is made behind the close."""
    backend = ScriptedBackend(Reply(f"hm {CALL}", CALL))
    model = chat(backend=backend, thinking_budget=thinking, solution_budget=40).bind_tools([add])
    for message in (await model.ainvoke("1 + 2"), await merged(model, "1 + 2")):
        assert [call["args"] for call in message.tool_calls] == [{"a": 1, "b": 2}]
        assert (message.text.strip(), message.invalid_tool_calls) == ("", [])
        budget, usage = message.response_metadata["budget"], message.response_metadata["usage"]
        assert budget["thinking_end"] == ("tool_call" if thinking > 1 else "budget")
        assert usage["thinking"] == min(thinking, 1)
        assert usage["discarded"] == (1 if thinking > 1 else 0)
    assert sum(usage[part] for part in ("thinking", "solution", "discarded")) == backend.meter.output / 2


async def test_the_rest_of_a_call_is_an_invalid_call(chat: Make) -> None:
    """C 15: a model that goes on behind the close with what it began before it has made no call."""

    class GoesOn(ScriptedBackend):
        """Says the same words whatever stands between them."""

        def _script(self, prompt: Any, extra: Any) -> Any:
            reply, script = super()._script(prompt, extra)
            closed = 2 in prompt or 3 in prompt[2:]
            words = self.codec.encode(f"{CALL} done")
            return reply, [*words[1:], 0] if closed and self.codec.markers.close_ids[0] in prompt else script

    backend = GoesOn(Reply(f"hm {CALL} and on", "x"))
    model = chat(backend=backend, thinking_budget=9, solution_budget=40).bind_tools([add])
    for message in (await model.ainvoke("1 + 2"), await merged(model, "1 + 2")):
        assert (message.tool_calls, message.text.strip()) == ([], "done")
        (invalid,) = message.invalid_tool_calls
        assert '"arguments": {"a": 1, "b": 2}}' in invalid["args"]


async def test_without_tools_a_tag_in_thinking_is_thinking(chat: Make) -> None:
    """Somebody may well think about what a tool call looks like."""
    backend = ScriptedBackend(Reply(f"hm {CALL} so", "it is 3"))
    message = await chat(backend=backend, thinking_budget=99).ainvoke("1 + 2")
    assert message.response_metadata["budget"]["thinking_end"] == "natural"
    assert message.additional_kwargs["reasoning_content"] == f"hm {CALL} so"


async def test_an_end_tag_in_an_argument(chat: Make) -> None:
    """C 14: in `invoke` and in a stream."""

    @tool
    def say(x: str) -> str:
        """Say."""
        return x

    said = '<tool_call>{"name": "say", "arguments": {"x": "</tool_call>"}}</tool_call>'
    model = chat(backend=ScriptedBackend(Reply("a", said)), solution_budget=40).bind_tools([say])
    for message in (await model.ainvoke("hi"), await merged(model, "hi")):
        assert [call["args"] for call in message.tool_calls] == [{"x": "</tool_call>"}]
        assert (message.text, message.invalid_tool_calls) == ("", [])


async def test_the_format_is_the_models_own(chat: Make) -> None:
    """C 14: calls are read as the chat template has them written, arguments as the tool's schema."""
    said = (
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>2</parameter>\n</function>"
    )
    said += "\n</tool_call>"
    message = (
        await chat(backend=ScriptedBackend(Reply("a", said)), solution_budget=40)
        .bind_tools([add])
        .ainvoke("hi")
    )
    assert [call["args"] for call in message.tool_calls] == [{"a": 1, "b": 2}]
    backend = ScriptedBackend(Reply("a", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}'))
    backend.codec.tool_format = tool_format("{{ '[TOOL_CALLS]' }}")
    message = await chat(backend=backend, solution_budget=40).bind_tools([add]).ainvoke("hi")
    assert [call["args"] for call in message.tool_calls] == [{"a": 1, "b": 2}]
