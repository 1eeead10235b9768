"""`task_budget` around LangChain: the budget arrives, and the ledger agrees with the backend's meter.

Each carrier is one way in which a model call can come about inside a task. All are held and settled by the
one task around them: direct, in a chain, in LangGraph's parallel branches, sub-graphs, tools, sync graphs.
"""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import CapExceededError, TaskClosedError
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM
from elastic_agent.integrations.langchain.errors import BudgetExceededError, ClosedTaskError
from elastic_agent.scheduler import Price, Task, task_budget
from tests.integrations.langchain.conftest import numbered

Make = Callable[..., ChatElasticReasoning]
Run = Callable[[ChatElasticReasoning], Awaitable[Any]]


class State(TypedDict, total=False):
    item: int
    items: list[int]
    out: Annotated[list[str], operator.add]


def fan(model: ChatElasticReasoning, *, sync: bool) -> Any:
    """A graph that asks about each item in a branch of its own."""
    graph = StateGraph(State)

    async def ask(state: State) -> State:
        return {"out": [(await model.ainvoke(f"say {state['item']}")).text]}

    def ask_sync(state: State) -> State:
        return {"out": [model.invoke(f"say {state['item']}").text]}

    graph.add_node("ask", ask_sync if sync else ask)
    graph.add_conditional_edges(START, lambda state: [Send("ask", {"item": i}) for i in state["items"]])
    graph.add_edge("ask", END)
    return graph.compile()


async def direct(model: ChatElasticReasoning) -> Any:
    return await model.ainvoke("say 1")


async def streamed(model: ChatElasticReasoning) -> Any:
    return [chunk async for chunk in model.astream("say 1")]


async def sync(model: ChatElasticReasoning) -> Any:
    return model.invoke("say 1")


async def sync_streamed(model: ChatElasticReasoning) -> Any:
    return list(model.stream("say 1"))


async def batch(model: ChatElasticReasoning) -> Any:
    return await model.abatch([f"say {n}" for n in range(6)])


async def sync_batch(model: ChatElasticReasoning) -> Any:
    return model.batch([f"say {n}" for n in range(6)])


async def text_model(model: ChatElasticReasoning) -> Any:
    llm = ElasticReasoningLLM(backend=model.backend, thinking_budget=4, solution_budget=8, price=model.price)
    return await llm.abatch([f"say {n}" for n in range(3)])


async def chain(model: ChatElasticReasoning) -> Any:
    one = ChatPromptTemplate.from_template("say {n}") | model | StrOutputParser()
    return await RunnableParallel(a=one, b=one, c=one).ainvoke({"n": 3})


async def branches(model: ChatElasticReasoning) -> Any:
    return await fan(model, sync=False).ainvoke({"items": list(range(8))})


async def sync_graph(model: ChatElasticReasoning) -> Any:
    return fan(model, sync=True).invoke({"items": list(range(8))})


async def sync_graph_in_a_thread(model: ChatElasticReasoning) -> Any:
    return await asyncio.to_thread(fan(model, sync=True).invoke, {"items": [1, 2, 3]})


async def sync_nodes_in_an_async_graph(model: ChatElasticReasoning) -> Any:
    return await fan(model, sync=True).ainvoke({"items": [1, 2, 3]})


async def subgraph(model: ChatElasticReasoning) -> Any:
    outer = StateGraph(State)
    outer.add_node("inner", fan(model, sync=False))
    outer.add_edge(START, "inner")
    outer.add_edge("inner", END)
    return await outer.compile().ainvoke({"items": [1, 2]})


async def tool_sub_agent(model: ChatElasticReasoning) -> Any:
    """An agent whose tool asks the model again, sync and async."""

    @tool
    async def research(question: str) -> str:
        """Ask a researcher."""
        return (await model.ainvoke(question)).text

    call = '<tool_call>{"name": "research", "arguments": {"question": "say 5"}}</tool_call>'

    def script(prompt: str) -> Reply:
        if "say 5" in prompt and "tool the" not in prompt:
            return numbered(prompt)
        return Reply("hm " * 6, "done" if "tool the" in prompt else call)

    assert isinstance(model.backend, ScriptedBackend)
    model.backend._reply = script
    agent = create_agent(model.with_budget(solution_budget=20), [research])
    out = await agent.ainvoke({"messages": [("user", "go")]})
    assert [m.text for m in out["messages"]][-2:] == ["the answer is 5", "done"]
    return out


async def thread_with_the_context(model: ChatElasticReasoning) -> Any:
    thread = threading.Thread(target=copy_context().run, args=(model.invoke, "say 1"))
    thread.start()
    await asyncio.to_thread(thread.join)


CARRIERS: list[tuple[Run, int]] = [
    (direct, 1),
    (streamed, 1),
    (sync, 1),
    (sync_streamed, 1),
    (batch, 6),
    (sync_batch, 6),
    (text_model, 3),
    (chain, 3),
    (branches, 8),
    (sync_graph, 8),
    (sync_graph_in_a_thread, 3),
    (sync_nodes_in_an_async_graph, 3),
    (subgraph, 2),
    (tool_sub_agent, 3),
    (thread_with_the_context, 1),
]


def agree(task: Task, backend: ScriptedBackend) -> None:
    """The books hold, and charge what the meter counts: sampled tokens, and the closes that we wrote."""
    task.dispatcher.ledger.check()
    calls = task.report().calls
    forced = sum(call.usage.forced for call in calls)
    assert task.state.account.spent.tokens == backend.meter.output + forced
    assert sum(call.usage.metered_input for call in calls) == backend.meter.input
    assert task.state.account.held.tokens == 0
    assert not task.state.account.live


@pytest.mark.parametrize(("run", "calls"), CARRIERS, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_task_reaches_every_call(chat: Make, backend: ScriptedBackend, run: Run, calls: int) -> None:
    """Laws 1 and 2 for each carrier."""
    async with task_budget(tokens=2_000, usd=1) as task:
        await run(chat(price=Price("1", "2")))
    assert len(task.report().calls) == calls
    agree(task, backend)
    assert backend.running == 0


@pytest.mark.parametrize("run", [direct, sync, branches, sync_graph], ids=lambda run: run.__name__)
async def test_without_a_task_nothing_is_charged_to_one(chat: Make, run: Run) -> None:
    """The scope ends where it ends."""
    async with task_budget(tokens=2_000) as task:
        pass
    await run(chat())
    assert task.report().calls == ()


async def test_a_message_says_what_its_task_granted_and_why(chat: Make) -> None:
    """Law 9 through LangChain."""
    model = chat(thinking_budget=None, price=Price("1", "2"))
    async with task_budget(tokens=100, name="job") as task:
        message = await model.ainvoke("say 7", kind="steps-3")
    (call,) = task.report().calls
    assert call.kind == "steps-3"
    assert call.grant is not None
    told = message.response_metadata["budget"]
    assert (told["thinking"], told["solution"]) == (call.grant.budget.thinking, call.grant.budget.solution)
    assert told["reason"] == call.grant.reason
    assert told["asked"]["solution"] == 8
    assert message.response_metadata["cost"] == {"usd": format(call.cost or 0, "f")}


async def test_a_tight_task_shrinks_or_waits_rather_than_fail(chat: Make, backend: ScriptedBackend) -> None:
    """32 branches under a cap that can't hold them at once: none is lost while tokens are left."""
    backend.tpot = 0.0005
    model = chat(thinking_budget=8)
    async with task_budget(tokens=700) as task:
        out = await fan(model, sync=False).ainvoke({"items": list(range(32))})
    assert sorted(out["out"]) == sorted(f"the answer is {n}" for n in range(32))
    agree(task, backend)
    assert task.spent.tokens is not None
    assert task.spent.tokens <= 700


async def test_sync_branches_wait_for_each_other_without_a_deadlock(
    chat: Make, backend: ScriptedBackend
) -> None:
    """LangGraph's threads all wait in the portal while the loop that opened the task is blocked."""
    backend.tpot = 0.0005
    model = chat(thinking_budget=8)
    with task_budget(tokens=300) as task:
        out = fan(model, sync=True).invoke({"items": list(range(12))})
    assert len(out["out"]) == 12
    agree(task, backend)


async def test_a_cap_that_holds_no_answer_is_refused_unspent(chat: Make, backend: ScriptedBackend) -> None:
    """Law 4, as an error that LangChain does not retry and that has the numbers."""
    async with task_budget(tokens=20) as task:
        with pytest.raises(BudgetExceededError) as caught:
            await chat(solution_budget=500).ainvoke("say 7", on_exhausted="raise")
    assert isinstance(caught.value, CapExceededError)
    assert caught.value.needed["tokens"] > caught.value.available["tokens"]
    assert backend.meter.requests == 0
    assert task.spent.tokens == 0


async def test_a_call_after_the_end_is_refused(chat: Make, backend: ScriptedBackend) -> None:
    """A branch that outlives its task gets no tokens from it."""
    async with task_budget(tokens=500):
        later = copy_context()
    with pytest.raises(ClosedTaskError) as caught:
        await asyncio.get_running_loop().create_task(chat().ainvoke("say 7"), context=later)
    assert isinstance(caught.value, TaskClosedError)
    assert backend.meter.requests == 0


@pytest.mark.parametrize("how", ["cancel", "break", "close", "interrupt"])
async def test_a_call_that_is_left_is_settled_at_what_is_known(
    chat: Make, backend: ScriptedBackend, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled `ainvoke`, an abandoned stream, async and sync: nothing is held, the known is charged."""
    backend.tpot = 0.002
    model = chat(thinking_budget=8)
    async with task_budget(tokens=500) as task:
        if how == "cancel":
            running = asyncio.create_task(model.ainvoke("say 7"))
            while backend.meter.output < 2:  # noqa: ASYNC110 - the fake has no event to wait for
                await asyncio.sleep(0.001)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        elif how == "break":
            async for _ in model.astream("say 7"):
                break
            for _ in range(30):
                await asyncio.sleep(0)
        else:
            stream: Any = model.stream("say 7")
            next(stream)
            if how == "close":
                stream.close()
            else:
                with pytest.raises(KeyboardInterrupt):
                    stream.throw(KeyboardInterrupt())
        assert backend.running == 0
        assert not task.state.account.live  # no hold; the final answer's reserve stays until the end
        assert task.spent.tokens == backend.meter.output > 0
    agree(task, backend)


async def test_one_failing_branch_leaves_clean_books(chat: Make, backend: ScriptedBackend) -> None:
    """LangGraph cancels the other branches; every hold is settled."""
    backend.tpot = 0.001
    model = chat(thinking_budget=8)
    graph = StateGraph(State)

    async def ask(state: State) -> State:
        return {"out": [(await model.ainvoke("say 1")).text]}

    async def fail(state: State) -> State:
        await asyncio.sleep(0.004)
        raise ValueError("a bug")

    for n in range(4):
        graph.add_node(f"ask{n}", ask)
        graph.add_edge(START, f"ask{n}")
    graph.add_node("fail", fail)
    graph.add_edge(START, "fail")
    async with task_budget(tokens=1_000) as task:
        with pytest.raises(ValueError, match="a bug"):
            await graph.compile().ainvoke({})
    agree(task, backend)


async def test_a_call_inside_an_open_sync_stream_does_not_wait_for_it(
    chat: Make, backend: ScriptedBackend
) -> None:
    """The inner call is granted what is left, although the stream around it holds nearly everything."""
    model = chat(thinking_budget=8, solution_budget=8)
    with task_budget(tokens=34, final_solution=8) as task:
        stream = model.stream("say 1")
        first = next(stream)
        inner = await asyncio.wait_for(asyncio.to_thread(copy_context().run, model.invoke, "say 2"), 10)
        rest = list(stream)
    assert inner.text == "the answer is 2"
    assert "".join(chunk.text for chunk in [first, *rest]) == "the answer is 1"
    agree(task, backend)


async def test_a_sync_stream_left_open_is_settled_when_its_task_ends(
    chat: Make, backend: ScriptedBackend
) -> None:
    """The stream lives on the portal's loop and the task on this one: it is stopped, and the reader told."""
    async with task_budget(tokens=500) as task:
        stream = chat(thinking_budget=8).stream("say 7")
        next(stream)
    agree(task, backend)
    assert backend.running == 0
    with pytest.raises(ClosedTaskError, match="not whole"):
        list(stream)


@pytest.mark.parametrize("served", range(0, 60, 4))
async def test_a_graph_cancelled_anywhere_leaves_nothing_behind(
    chat: Make, backend: ScriptedBackend, served: int
) -> None:
    """Cancelled after so many tokens: no hold, no running stream, and the known is charged."""
    backend.tpot = backend.ttft = 0.0005
    model = chat(thinking_budget=8)
    async with task_budget(tokens=150) as task:
        running = asyncio.create_task(fan(model, sync=False).ainvoke({"items": list(range(8))}))
        while backend.meter.output < served and not running.done():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert backend.running == 0
        assert not task.state.account.live
        assert task.report().calls == () or {c.outcome for c in task.report().calls} <= ENDED
    agree(task, backend)


ENDED = {"answered", "stopped", "refused"}
