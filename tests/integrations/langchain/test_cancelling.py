"""A LangGraph run that is cancelled, times out or fails at any point: nothing held, nothing overspent.

The graph has parallel branches, tools that ask models, a guarded model and a sub-agent. It is broken off
after so many tokens of the meter: 100 points drawn from the whole run, in three ways.
"""

from __future__ import annotations

import asyncio
import gc
import operator
import random
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, guard
from elastic_agent.scheduler import task_budget

CALL = '<tool_call>{"name": "research", "arguments": {"question": "say 5"}}</tool_call>'
CAP = 260
WAYS = ("cancelled", "timeout", "exception")


class State(TypedDict, total=False):
    item: int
    out: Annotated[list[str], operator.add]


class Bug(Exception):
    """A node's."""


def script(prompt: str) -> Reply:
    if "tool five" in prompt:
        return Reply("hm hm", "done")
    return Reply("hm " * 5, CALL if prompt.startswith("tool") else "five")


def graph(backend: ScriptedBackend, broken: asyncio.Event) -> Any:
    model = ChatElasticReasoning(backend=backend, thinking_budget=6, solution_budget=12)
    other = guard(FakeListChatModel(responses=["hello"]), max_tokens=3)

    @tool
    async def research(question: str) -> str:
        """Ask a researcher."""
        await other.ainvoke(question)
        return (await model.ainvoke(question)).text

    agent: Any = create_agent(model, [research])

    async def ask(state: State) -> State:
        # Branches in step would serve several tokens at once, and leave few points to break off at
        await asyncio.sleep(0.0006 * state["item"])
        if state["item"] % 3 == 0:
            return {"out": [(await agent.ainvoke({"messages": [("user", "go")]}))["messages"][-1].text]}
        if state["item"] % 3 == 1:
            return {"out": [chunk.text async for chunk in model.astream("say")]}
        return {"out": [(await model.ainvoke("say")).text]}

    async def fail(state: State) -> State:
        await broken.wait()
        raise Bug

    made = StateGraph(State)
    made.add_node("ask", ask)
    made.add_node("fail", fail)
    branches = [*[Send("ask", {"item": n}) for n in range(6)], Send("fail", {})]
    made.add_conditional_edges(START, lambda state: branches)
    made.add_edge("ask", END)
    return made.compile()


async def broken_off(after: int, way: str) -> int:
    """Run the graph, break it off when the meter has counted so many tokens; returns what it has counted."""
    backend = ScriptedBackend(script, ttft=0.0005, tpot=0.0005)
    broken = asyncio.Event()
    async with task_budget(tokens=CAP) as task:
        running = asyncio.create_task(graph(backend, broken).ainvoke({"out": []}))

        async def the_point() -> None:
            idle = 0  # a run that has served all that it will
            while backend.meter.output < after and idle < 200:
                idle = 0 if backend.running else idle + 1
                await asyncio.sleep(0.0002)

        if way == "timeout":
            await the_point()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await running
        else:
            await the_point()
            if way == "exception":
                broken.set()
            else:
                running.cancel()
            with pytest.raises(Bug if way == "exception" else asyncio.CancelledError):
                await running
        assert backend.running == 0
        assert not task.state.account.live
    task.dispatcher.ledger.check()
    assert task.state.account.held.tokens == 0
    forced = sum(call.usage.forced for call in task.report().calls)
    foreign = sum(call.usage.unknown for call in task.report().calls)
    assert task.spent.tokens == backend.meter.output + forced + foreign
    assert task.spent.tokens <= CAP
    return backend.meter.output


@pytest.mark.parametrize("way", WAYS)
async def test_a_run_broken_off_anywhere_leaves_nothing_behind(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Laws 1 and 2; and no task is destroyed while it is pending."""
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    draw = random.Random(5)
    points = sorted(draw.sample(range(100), 34))
    counted = [await broken_off(after, way) for after in points]
    assert len(set(counted)) > 15  # they were points all over the run
    gc.collect()
    await asyncio.sleep(0)
    assert told == []
    assert "was destroyed but it is pending" not in caplog.text
    assert asyncio.all_tasks() == {asyncio.current_task()}
