"""`ElasticReasoningLLM`: text in, text out; budgets, streams, tasks and errors as for the chat model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.prompts import PromptTemplate
from pydantic import ValidationError

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import InvalidBudgetError, UnknownModelError
from elastic_agent.integrations.langchain import ElasticReasoningLLM
from elastic_agent.integrations.langchain.errors import UpstreamUnavailableError

Make = Callable[..., ElasticReasoningLLM]


@pytest.fixture
def llm(backend: ScriptedBackend) -> Make:
    def make(**fields: Any) -> ElasticReasoningLLM:
        return ElasticReasoningLLM(
            **{"backend": backend, "thinking_budget": 4, "solution_budget": 8, **fields}
        )

    return make


async def test_the_text_is_the_solution(llm: Make) -> None:
    """Invoke, sync and async, batched, in a chain."""
    model = llm()
    assert await model.ainvoke("say 7") == model.invoke("say 7") == "the answer is 7"
    assert await model.abatch(["say 1", "say 2"]) == model.batch(["say 1", "say 2"])
    assert await (PromptTemplate.from_template("say {n}") | model).ainvoke({"n": 3}) == "the answer is 3"


async def test_generation_info_says_the_rest(llm: Make) -> None:
    """Thinking, usage and budget for whoever looks."""
    info = (await llm().agenerate(["say 7"])).generations[0][0].generation_info
    assert info is not None
    assert info["reasoning_content"] == "one two three four"
    assert info["usage_metadata"]["output_token_details"] == {"reasoning": 4}
    assert info["budget"]["forced_close"] is True
    assert info["model_name"] == "scripted"


@pytest.mark.parametrize("carrier", ["call", "bind", "with_budget", "field"])
async def test_budgets_reach_the_call(llm: Make, carrier: str) -> None:
    """Each way of giving one, invoked and streamed."""
    model: Any = llm(thinking_budget=2) if carrier == "field" else llm()
    options: dict[str, Any] = {"thinking_budget": 2} if carrier == "call" else {}
    if carrier in ("bind", "with_budget"):
        model = getattr(model, carrier)(thinking_budget=2)
    before = llm().backend.meter.output  # type: ignore[union-attr]
    await model.ainvoke("say 7", **options)
    [_ async for _ in model.astream("say 7", **options)]
    assert llm().backend.meter.output - before == 2 * (2 + 5)  # type: ignore[union-attr]


async def test_streams_give_the_solution_only(llm: Make) -> None:
    """Pieces of the answer, in order, sync and async; callbacks see them too."""
    seen: list[str] = []

    class Listening(AsyncCallbackHandler):
        async def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            seen.append(token)

    pieces = [piece async for piece in llm().astream("say 7", config={"callbacks": [Listening()]})]
    assert "".join(pieces) == "the answer is 7" == "".join(llm().stream("say 7"))
    assert len([p for p in pieces if p]) == 4
    assert seen == pieces


async def test_one_failed_prompt_stops_the_others() -> None:
    """A batch of prompts is one request in LangChain: the rest is stopped before the error is raised."""
    slow = ScriptedBackend(lambda prompt: Reply("a b c", "d", fail_after=0 if "bad" in prompt else None))
    slow.tpot = 0.01
    model = ElasticReasoningLLM(backend=slow)
    with pytest.raises(UpstreamUnavailableError):
        await model.agenerate(["good", "bad", "good"])
    assert slow.running == 0


async def test_a_cancelled_call_stops_the_model(llm: Make, backend: ScriptedBackend) -> None:
    """As for the chat model."""
    backend.ttft = 30.0
    task = asyncio.create_task(llm().ainvoke("say 7"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.running == 0


async def test_bad_input_is_refused_before_anything_is_spent(llm: Make, backend: ScriptedBackend) -> None:
    """Constructor and call, misspelt and impossible; tools are for the chat model."""
    with pytest.raises(ValidationError, match="thinking_budget must be at least 0"):
        llm(thinking_budget=-1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        llm(thinking=1)
    with pytest.raises(InvalidBudgetError):
        await llm().ainvoke("hi", solution_budget=0)
    with pytest.raises(TypeError, match="unknown call options thinking"):
        await llm().ainvoke("hi", thinking=3)
    with pytest.raises(TypeError, match="unknown call options tools"):
        await llm().ainvoke("hi", tools=[])
    with pytest.raises(UnknownModelError):
        await ElasticReasoningLLM(model="nonesuch").ainvoke("hi")
    assert backend.meter.requests == 0


def test_what_the_standard_suite_asks_of_chat_models(llm: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """`langchain-tests` has no suite for text models: environment, tracing, exact token counts, its type."""
    monkeypatch.setenv("ELASTIC_AGENT_API_KEY", "secret")
    key = ElasticReasoningLLM(model="m", base_url="http://localhost:8000/v1").api_key
    assert key is not None
    assert key.get_secret_value() == "secret"
    told = llm()._get_ls_params(model="other")
    assert (told["ls_model_name"], told["ls_model_type"]) == ("other", "llm")
    assert llm().get_num_tokens("one two three") == 3
    assert llm()._llm_type == "elastic-reasoning"
