"""Budgets and tools: what is bound first is not lost when something is bound afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool
from pydantic import BaseModel

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning

Make = Callable[..., ChatElasticReasoning]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def granted(message: Any) -> int:
    return int(message.response_metadata["budget"]["thinking"])


CARRIERS: dict[str, Callable[[ChatElasticReasoning], Any]] = {
    "constructor": lambda m: ChatElasticReasoning(backend=m.backend, thinking_budget=3).bind_tools([add]),
    "bind": lambda m: m.bind(thinking_budget=3),
    "bind, then bind_tools": lambda m: m.bind(thinking_budget=3).bind_tools([add]),
    "bind_tools": lambda m: m.bind_tools([add], thinking_budget=3),
    "bind_tools, then bind": lambda m: m.bind_tools([add]).bind(thinking_budget=3),
    "bind twice": lambda m: m.bind(seed=1).bind(thinking_budget=3).bind_tools([add]),
    "with_config between": lambda m: m.bind(thinking_budget=3).with_config(tags=["x"]).bind_tools([add]),
    "with_budget": lambda m: m.with_budget(thinking_budget=3),
    "with_budget, then bind_tools": lambda m: m.with_budget(thinking_budget=3).bind_tools([add]),
    "bind, then with_budget": lambda m: m.bind(seed=1).with_budget(thinking_budget=3).bind_tools([add]),
}


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_a_budget_survives_bind_tools(chat: Make, carrier: str) -> None:
    """FACTS 5: LangChain's own `bind` is dropped by a later `bind_tools`. Ours is not, in any order."""
    model = CARRIERS[carrier](chat(thinking_budget=99))
    assert granted(await model.ainvoke("say 7")) == 3
    assert granted(model.invoke("say 7")) == 3
    assert granted([c async for c in model.astream("say 7")][-1]) == 3


@pytest.mark.parametrize("bound", [False, True])
async def test_a_budget_reaches_create_agent(bound: bool) -> None:
    """Through `create_agent(tools=...)`, which binds the tools itself; two calls around one tool call."""
    from langchain.agents import create_agent

    def script(prompt: str) -> Reply:
        return Reply("a b c d e f g", "it is 3" if "tool 3" in prompt else CALL)

    backend = ScriptedBackend(script)
    model = ChatElasticReasoning(backend=backend)
    carrier: Any = model.bind(thinking_budget=5) if bound else model.with_budget(thinking_budget=5)
    agent = create_agent(carrier, [add])
    out = await agent.ainvoke({"messages": [("user", "1 + 2?")]})
    first, result, last = out["messages"][1:]
    assert first.tool_calls[0]["args"] == {"a": 1, "b": 2}
    assert (result.content, last.text) == ("3", "it is 3")
    assert [granted(first), granted(last)] == [5, 5]
    assert first.usage_metadata["output_token_details"]["reasoning"] == 5


def test_with_budget_is_a_model_and_leaves_the_original_alone(chat: Make) -> None:
    """A copy that shares the backend, for code that insists on a model."""
    model = chat(thinking_budget=9)
    copy = model.with_budget(thinking_budget=None, solution_budget=3, stop=["x"])
    assert isinstance(copy, ChatElasticReasoning)
    assert (copy.thinking_budget, copy.solution_budget, copy.stop) == (None, 3, ["x"])
    assert (model.thinking_budget, model.solution_budget, model.stop) == (9, 8, None)
    assert copy.backend is model.backend
    with pytest.raises(ValueError, match="thinking must be"):
        model.with_budget(thinking_budget=-1)
    with pytest.raises(TypeError, match="unknown call options"):
        model.with_budget(thinking=3)


async def test_bindings_still_serve_as_langchains(chat: Make) -> None:
    """Structured output on top of a bound budget; the binding is a RunnableBinding."""

    class Sum(BaseModel):
        """A sum."""

        a: int
        b: int

    backend = ScriptedBackend(Reply("x y z", '{"a": 1, "b": 2}'))
    bound = chat(backend=backend, solution_budget=50).bind(thinking_budget=2)
    assert isinstance(bound, RunnableBinding)
    out = await bound.with_structured_output(Sum, include_raw=True).ainvoke("1 and 2")
    assert out["parsed"] == Sum(a=1, b=2)
    assert granted(out["raw"]) == 2


# Tool calls in the solution


async def test_tool_calls_are_read_from_the_solution_only(chat: Make) -> None:
    """A model that thinks about a call has not made it; text around a call stays text."""
    backend = ScriptedBackend(Reply(f"maybe {CALL} or not", f"I add. {CALL} {CALL} Done."))
    model = chat(backend=backend, thinking_budget=None, solution_budget=99).bind_tools([add])
    message = await model.ainvoke("hi")
    assert [c["args"] for c in message.tool_calls] == [{"a": 1, "b": 2}] * 2
    assert len({c["id"] for c in message.tool_calls}) == 2
    assert message.text.split() == ["I", "add.", "Done."]
    assert message.response_metadata["finish_reason"] == "tool_calls"
    whole: Any = None
    async for chunk in model.astream("hi"):
        whole = chunk if whole is None else whole + chunk
    assert [c["args"] for c in whole.tool_calls] == [{"a": 1, "b": 2}] * 2
    assert whole.text == message.text


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "add", "arguments": {"a": 1',
        '{"name": "add", "arguments": [1]}',
        '{"arguments": {}}',
        "[]",
        "nonsense",
    ],
)
async def test_a_malformed_call_is_an_invalid_call(chat: Make, body: str) -> None:
    """It is neither lost, nor completed by LangChain's lenient parser into a call that was never made."""
    backend = ScriptedBackend(Reply("x", f"<tool_call>{body}</tool_call>"))
    message = await chat(backend=backend, solution_budget=99).bind_tools([add]).ainvoke("hi")
    assert message.tool_calls == []
    assert body in str(message.invalid_tool_calls[0]["args"])


async def test_a_call_cut_by_its_budget_is_invalid_and_a_whole_one_is_not(chat: Make) -> None:
    """No end tag: the body decides."""
    whole = ScriptedBackend(Reply("x", '<tool_call>{"name": "add", "arguments": {"a": 1}}'))
    message = await chat(backend=whole, solution_budget=99).bind_tools([add]).ainvoke("hi")
    assert message.tool_calls[0]["args"] == {"a": 1}
    message = await chat(backend=whole, solution_budget=2).bind_tools([add]).ainvoke("hi")
    assert (message.tool_calls, len(message.invalid_tool_calls)) == ([], 1)


async def test_without_tools_the_tag_is_text(chat: Make) -> None:
    """Somebody may well ask what a tool call looks like."""
    backend = ScriptedBackend(Reply("x", CALL))
    message = await chat(backend=backend, solution_budget=99).ainvoke("hi")
    assert (message.text, message.tool_calls) == (CALL, [])


async def test_tool_choice_shows_all_one_or_none(chat: Make) -> None:
    """The template is shown the chosen tool; an unknown choice is an error."""

    @tool
    def sub(a: int, b: int) -> int:
        """Subtract."""
        return a - b

    model = chat()
    names = []
    for choice in (None, "auto", "any", "none", "sub", {"type": "function", "function": {"name": "add"}}):
        bound: Any = model.bind_tools([add, sub], tool_choice=choice)
        shown = model._options(None, bound.kwargs, chat=True).tools
        names.append([tool["function"]["name"] for tool in shown])
    assert names == [["add", "sub"]] * 3 + [[], ["sub"], ["add"]]
    with pytest.raises(ValueError, match="not among the tools"):
        await model.bind_tools([add], tool_choice="mul").ainvoke("hi")
