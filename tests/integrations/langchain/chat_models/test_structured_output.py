"""Guided decoding: tool choices, strict tools and response formats reach the engine, for the solution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from elastic_agent.backends.base import TokenRequest
from elastic_agent.backends.load import load_backend
from elastic_agent.backends.scripted import ScriptedBackend, ScriptedCodec
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.errors import UnsupportedError
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.integrations.langchain.errors import RefusedRequestError
from elastic_agent.scheduler import task_budget
from tests.integrations.langchain.competent import Competent
from tests.wire import Faults, serve_in_thread

Make = Callable[..., ChatElasticReasoning]


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


class Sum(BaseModel):
    """A sum."""

    a: int
    b: int


class Seen(Competent):
    """Keeps its requests."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[TokenRequest] = []

    async def stream(self, request: TokenRequest) -> Any:
        self.seen.append(request)
        async for chunk in super().stream(request):
            yield chunk


@pytest.mark.parametrize("prefill", [True, False])
async def test_the_grammar_is_for_the_solution_only(chat: Make, prefill: bool) -> None:
    """Thinking stays free; a model that opens its thinking itself can't get around the solution's pass."""
    backend = Seen(codec=ScriptedCodec(prefill=prefill))
    model = chat(backend=backend, solution_budget=40)
    message = await model.bind_tools([add], tool_choice="any").ainvoke("add 3")
    assert [call["args"] for call in message.tool_calls] == [{"a": 3, "b": 3}]
    assert [bool(request.extra) for request in backend.seen] == [False, True]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("thinking", [0, 4])
async def test_structured_output_under_any_thinking(chat: Make, method: Any, thinking: int) -> None:
    """Cut or not, and without any thinking: the solution has the shape."""
    model = chat(backend=Competent(), solution_budget=60, thinking_budget=thinking)
    bound = model.with_structured_output(Sum if method != "json_mode" else {"title": "x"}, method=method)
    out = await bound.ainvoke("'a' and 'b' are 5")
    assert out == (Sum(a=5, b=5) if method != "json_mode" else {"a": "something", "b": "something"})


async def test_what_the_budget_cuts_is_reported_not_invented(chat: Make) -> None:
    """A grammar doesn't make an answer fit its budget: the error is there to read."""
    model = chat(backend=Competent(), solution_budget=2)
    out = await model.with_structured_output(Sum, include_raw=True).ainvoke("3")
    assert out["parsed"] is None
    assert out["parsing_error"] is not None
    assert out["raw"].response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize("task", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"tool_choice": "any"}, {"tool_choice": "add"}, {"strict": True}, {"parallel_tool_calls": False}],
)
async def test_an_engine_without_grammars_refuses_unspent(options: dict[str, Any], task: bool) -> None:
    """Law 8: a choice that nothing enforces would be a wish. The embedded engine has no grammars."""
    model = ChatElasticReasoning(thinking_budget=8, solution_budget=8)
    meter = load_backend("e1-tiny").meter
    before = (meter.requests, meter.output)
    scope = task_budget(tokens=400)
    async with scope if task else nullcontext():
        with pytest.raises(RefusedRequestError, match="without guided decoding") as caught:
            await model.bind_tools([add], **options).ainvoke("hi")
    assert isinstance(caught.value.__cause__, UnsupportedError)
    assert (meter.requests, meter.output) == before
    assert not task or scope.spent.tokens == 0
    with pytest.raises(RefusedRequestError):
        await model.with_structured_output(Sum).ainvoke("hi")


@pytest.mark.parametrize("task", [False, True])
async def test_a_schema_that_the_engine_refuses(task: bool) -> None:
    """Law 4: an error that says what the engine said, before a token is spent."""
    said = 'Grammar error: Unimplemented keys: ["contains"]'
    backend = ScriptedBackend()
    with serve_in_thread(backend, faults=Faults(refuse_guides=said)) as wire:
        client = VllmServerBackend("scripted", wire.base_url, codec=backend.codec)
        model = ChatElasticReasoning(backend=client, thinking_budget=4, solution_budget=8)
        scope = task_budget(tokens=400)
        async with scope if task else nullcontext():
            with pytest.raises(RefusedRequestError, match="Unimplemented keys") as caught:
                await model.with_structured_output(Sum).ainvoke("hi")
        assert isinstance(caught.value.__cause__, UnsupportedError)
        assert not task or scope.spent.tokens == 0
        await client.aclose()
    assert backend.meter.requests == 0


def test_the_profile_says_what_the_engine_can_do(chat: Make) -> None:
    """LangChain's agents choose their strategy by it."""
    assert (chat().profile or {})["structured_output"] is True
    tiny = ChatElasticReasoning().profile or {}
    assert (tiny["structured_output"], tiny["max_input_tokens"]) == (False, 1024)


async def test_an_agents_response_format_uses_it(chat: Make) -> None:
    """`create_agent(response_format=...)` by the provider's way, beside a tool."""
    agent: Any = create_agent(chat(backend=Competent(), solution_budget=60), response_format=Sum)
    out = await agent.ainvoke({"messages": [("user", "it is 7")]})
    assert out["structured_response"] == Sum(a=7, b=7)


async def test_n_answers_are_n_calls(chat: Make, backend: ScriptedBackend) -> None:
    """Each with a hold of its own, each charged."""
    async with task_budget(tokens=500) as task:
        result = await chat(n=2).agenerate([[HumanMessage("say 1")], [HumanMessage("say 2")]], n=3)
    assert [[g.text for g in one] for one in result.generations] == [
        ["the answer is 1"] * 3,
        ["the answer is 2"] * 3,
    ]
    assert len(task.report().calls) == 6
    assert task.spent.tokens == backend.meter.output + 6  # the forced closes
    with pytest.raises(ValueError, match="n must be 1"):
        [chunk async for chunk in chat(n=2).astream("say 1")]
