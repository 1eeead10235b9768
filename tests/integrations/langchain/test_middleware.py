"""`TaskBudgetMiddleware`: each run of an agent is a task, its tools' model calls included."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, TaskBudgetMiddleware
from elastic_agent.integrations.langchain.errors import (
    BudgetExceededError,
    ClosedTaskError,
    UpstreamUnavailableError,
)
from elastic_agent.scheduler import Task, default_scheduler, task_budget

CALL = '<tool_call>{"name": "research", "arguments": {"question": "say 5"}}</tool_call>'


def script(prompt: str) -> Reply:
    if "tool five" in prompt:
        return Reply("hm hm", "done")
    return Reply("hm hm hm", "five" if prompt.startswith("user say 5") else CALL)


class Setup:
    """An agent whose tool asks the same model, and the tasks of its runs."""

    def __init__(self, caps: Caps, **options: Any) -> None:
        self.backend = ScriptedBackend(script)
        model = ChatElasticReasoning(backend=self.backend, thinking_budget=4, solution_budget=20)

        @tool
        def research(question: str) -> str:
            """Ask a researcher."""
            return model.invoke(question).text

        self.tasks: list[Task] = []
        budget = TaskBudgetMiddleware(run=caps, on_task=self.tasks.append)
        self.agent: Any = create_agent(model, [research], middleware=[budget], **options)

    def agree(self, task: Task, calls: int) -> None:
        report = task.report()
        assert len(report.calls) == calls
        assert sum(c.usage.metered_output for c in report.calls) == self.backend.meter.output
        assert task.closed
        assert task.book.account.held.tokens == 0


ASK = {"messages": [("user", "go")]}


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "checkpointed"])
async def test_a_run_is_a_task_with_its_tools(how: str) -> None:
    """Three calls: the agent's two, and the one that its tool makes. Sync, async, streamed, checkpointed."""
    setup = Setup(Caps(tokens=500), **({"checkpointer": InMemorySaver()} if how == "checkpointed" else {}))
    if how == "invoke":
        setup.agent.invoke(ASK)
    elif how == "stream":
        list(setup.agent.stream(ASK))
    else:
        out = await setup.agent.ainvoke(ASK, {"configurable": {"thread_id": "1"}})
        assert [m.text for m in out["messages"]][-2:] == ["five", "done"]
        assert "elastic_run" not in out
    (task,) = setup.tasks
    setup.agree(task, 3)


async def test_each_run_has_the_whole_cap_and_the_outer_task_all_of_them() -> None:
    """Runs are separate tasks; around them the tighter cap wins, and counts everything."""
    setup = Setup(Caps(tokens=500))
    async with task_budget(tokens=2_000) as outer:
        await setup.agent.ainvoke(ASK)
        await setup.agent.ainvoke(ASK)
    assert [task.parent for task in setup.tasks] == [outer, outer]
    assert len(outer.report().calls) == 6
    assert outer.spent.tokens == sum(task.spent.tokens or 0 for task in setup.tasks)


async def test_a_run_that_never_ends_is_ended_by_its_cap() -> None:
    """An agent in a loop: never more than the cap at the meter; the error has the numbers."""
    setup = Setup(Caps(tokens=300))
    setup.backend._reply = lambda prompt: Reply("hm", "five" if prompt.startswith("user say 5") else CALL)
    with pytest.raises(BudgetExceededError) as caught:
        await setup.agent.ainvoke(ASK, {"recursion_limit": 500})
    assert caught.value.needed["tokens"] > caught.value.available["tokens"]
    assert setup.backend.meter.requests > 10
    assert setup.backend.meter.output <= 300


async def test_a_run_that_fails_leaves_no_task_open() -> None:
    """`after_agent` is not called then: the task ends with the run's state."""
    gc.collect()  # what earlier tests left to be collected
    before = len(default_scheduler()._tasks)
    setup = Setup(Caps(tokens=500))
    setup.backend._reply = Reply("a b c", "d", fail_after=2)
    with pytest.raises(UpstreamUnavailableError):
        await setup.agent.ainvoke(ASK)
    gc.collect()
    assert len(default_scheduler()._tasks) == before
    assert setup.tasks == []


async def test_a_model_that_is_not_counted_is_refused() -> None:
    """Law 8: it would spend outside of the cap."""
    agent: Any = create_agent(
        FakeListChatModel(responses=["x"]), [], middleware=[TaskBudgetMiddleware(run=Caps(tokens=100))]
    )
    with pytest.raises(TypeError, match="can't count what a FakeListChatModel spends"):
        await agent.ainvoke(ASK)


async def test_a_resumed_run_is_refused_not_unlimited() -> None:
    """Its task is not in the checkpoint; calls without one must not slip through."""
    setup = Setup(Caps(tokens=500), checkpointer=InMemorySaver(), interrupt_before=["tools"])
    config = {"configurable": {"thread_id": "1"}}
    await setup.agent.ainvoke(ASK, config)
    requests = setup.backend.meter.requests
    with pytest.raises(ClosedTaskError, match="resumed after an interrupt"):
        await setup.agent.ainvoke(None, config)
    assert setup.backend.meter.requests == requests


def test_the_middleware_takes_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is no cap."""
    wrong: Callable[..., Any] = TaskBudgetMiddleware
    with pytest.raises(TypeError, match="run must be Caps"):
        wrong(run=500)
