"""What a tracer (LangSmith's is one) knows of a call: provider, model, the budget asked for and granted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM, guard
from elastic_agent.scheduler import Price, task_budget

Make = Callable[..., ChatElasticReasoning]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_run_knows_its_budget(chat: Make, how: str) -> None:
    """Asked and granted, sync or async; the cap grants less than was asked."""
    model = chat(thinking_budget=40, solution_budget=8)
    tracer = RunCollectorCallbackHandler()
    config: Any = {"callbacks": [tracer], "metadata": {"mine": 1}}
    async with task_budget(tokens=20):
        if how == "invoke":
            said = await asyncio.to_thread(model.invoke, "say 7", config)
        else:
            said = await model.ainvoke("say 7", config)
    (run,) = tracer.traced_runs
    noted, budget = run.metadata, said.response_metadata["budget"]
    assert (noted["ls_provider"], noted["ls_model_name"], noted["mine"]) == ("elastic_agent", "scripted", 1)
    assert (noted["budget_asked_thinking"], noted["budget_asked_solution"]) == (40, 8)
    granted = noted["budget_granted_thinking"], noted["budget_granted_solution"]
    assert granted == (budget["thinking"], budget["solution"])
    assert granted[0] < 40
    assert noted["budget_reason"] == budget["reason"]


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_streams_run_has_its_budget_in_its_output(chat: Make, how: str) -> None:
    """LangChain doesn't tell a stream which run it is: the message that the run ends with has all of it."""
    tracer, model = RunCollectorCallbackHandler(), chat()
    config: Any = {"callbacks": [tracer]}
    if how == "stream":
        await asyncio.to_thread(lambda: list(model.stream("say 7", config)))
    else:
        _ = [chunk async for chunk in model.astream("say 7", config)]
    (run,) = tracer.traced_runs
    assert run.outputs is not None
    message = run.outputs["generations"][0][0]["message"]["kwargs"]
    assert message["response_metadata"]["budget"]["asked"] == {"thinking": 4, "solution": 8}


async def test_prompts_of_one_request_have_budgets_of_their_own(chat: Make) -> None:
    """LangChain gives them one metadata; what is noted must not mix."""
    tracer = RunCollectorCallbackHandler()
    async with task_budget(tokens=42):
        made = await chat(thinking_budget=12, solution_budget=8).agenerate(
            [[HumanMessage("say 7")], [HumanMessage("say 8")]], callbacks=[tracer]
        )
    said = [one[0].message.response_metadata["budget"]["thinking"] for one in made.generations]
    noted = {run.id: run.metadata["budget_granted_thinking"] for run in tracer.traced_runs}
    assert made.run is not None
    assert [noted[one.run_id] for one in made.run] == said
    assert said[0] != said[1]


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_a_guarded_models_run_knows_its_budget(how: str) -> None:
    """Asked and granted for another provider's model."""
    model = guard(FakeListChatModel(responses=["x"]), price=Price("1", "1"), max_tokens=500)
    tracer = RunCollectorCallbackHandler()
    config: Any = {"callbacks": [tracer]}
    async with task_budget(tokens=100):
        await (
            asyncio.to_thread(model.invoke, "hi", config) if how == "invoke" else model.ainvoke("hi", config)
        )
    noted = tracer.traced_runs[0].metadata
    assert noted["budget_asked_solution"] == 500
    assert 0 < noted["budget_granted_solution"] <= 100
    assert noted["budget_reason"]


LEFT_OUT = pytest.mark.xfail(
    reason="langchain-core's AsyncCallbackManager.on_llm_start tells no other handler where one runs inline, "
    "as the middleware's does from its import on",
    strict=False,
)


@pytest.mark.parametrize("how", ["invoke", pytest.param("ainvoke", marks=LEFT_OUT)])
async def test_the_text_models_run_knows_its_budget(backend: ScriptedBackend, how: str) -> None:
    """The same metadata for a text model's run."""
    model, tracer = ElasticReasoningLLM(backend=backend, thinking_budget=4), RunCollectorCallbackHandler()
    config: Any = {"callbacks": [tracer]}
    await (
        asyncio.to_thread(model.invoke, "say 7", config)
        if how == "invoke"
        else model.ainvoke("say 7", config)
    )
    noted = tracer.traced_runs[0].metadata
    assert (noted["budget_asked_thinking"], noted["budget_granted_thinking"]) == (4, 4)


async def test_a_message_names_its_provider(chat: Make) -> None:
    """As LangChain's other integrations do; it doesn't change how blocks are read."""
    said = await chat().ainvoke("say 7")
    assert said.response_metadata["model_provider"] == "elastic_agent"
    assert [block["type"] for block in said.content_blocks] == ["reasoning", "text"]
