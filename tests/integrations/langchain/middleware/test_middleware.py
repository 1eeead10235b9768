"""`TaskBudgetMiddleware`: each run of an agent is a task, its tools' model calls included."""

from __future__ import annotations

import asyncio
import atexit
import gc
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import ElasticError
from elastic_agent.integrations.langchain import ChatElasticReasoning, TaskBudgetMiddleware
from elastic_agent.integrations.langchain.accounts.account_leases import LeasedAccounts
from elastic_agent.integrations.langchain.blocking_portal import portal
from elastic_agent.integrations.langchain.errors import (
    BudgetExceededError,
    UpstreamUnavailableError,
)
from elastic_agent.integrations.langchain.middleware.invocations import invocations
from elastic_agent.scheduler import Task, default_scheduler, task_budget

CALL = '<tool_call>{"name": "research", "arguments": {"question": "say 5"}}</tool_call>'


def script(prompt: str) -> Reply:
    if "tool five" in prompt:
        return Reply("hm hm", "done")
    return Reply("hm hm hm", "five" if prompt.startswith("user say 5") else CALL)


class Setup:
    """An agent whose tool asks the same model, and the tasks of its runs."""

    def __init__(self, caps: Caps, **options: Any) -> None:
        own = {
            name: options.pop(name) for name in ("thread", "store", "on_exhausted", "tell") if name in options
        }
        more, failing = options.pop("more", []), options.pop("failing", False)
        self.backend = ScriptedBackend(script)
        model = ChatElasticReasoning(backend=self.backend, thinking_budget=4, solution_budget=20)

        @tool
        def research(question: str) -> str:
            """Ask a researcher."""
            text = model.invoke(question).text
            if failing:
                raise RuntimeError("the tool failed")
            return text

        self.tasks: list[Task] = []
        self.budget = TaskBudgetMiddleware(run=caps, on_task=self.tasks.append, **own)
        self.agent: Any = create_agent(model, [research], middleware=[self.budget, *more], **options)

    def nest(self) -> None:
        """The agent becomes the tool of another, which has no budget of its own."""
        inner = self.agent

        @tool
        async def research(question: str) -> str:
            """Ask an agent."""
            return str((await inner.ainvoke(ASK))["messages"][-1].text)

        model = ChatElasticReasoning(backend=ScriptedBackend(script), thinking_budget=4, solution_budget=20)
        self.agent = create_agent(model, [research])

    def agree(self, task: Task, calls: int) -> None:
        report = task.report()
        assert len(report.calls) == calls
        assert sum(c.usage.metered_output for c in report.calls) == self.backend.meter.output
        assert task.closed
        assert task.state.account.held.tokens == 0


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


async def test_runs_of_a_named_agent_are_planned_by_those_before() -> None:
    """The agent's name is its tasks' name for the history of runs; without one there is no history."""
    named, nameless = Setup(Caps(tokens=500), name="planned-by-name"), Setup(Caps(tokens=500))
    for _ in range(2):
        await named.agent.ainvoke(ASK)
    await nameless.agent.ainvoke(ASK)
    assert [task.agent for task in named.tasks + nameless.tasks] == ["planned-by-name"] * 2 + [None]
    history = default_scheduler().history_for("planned-by-name")
    assert history is not None
    assert history.runs


def looping(setup: Setup) -> None:
    """The model calls its tool for ever, unless the prompt tells it to answer."""

    def reply(prompt: str) -> Reply:
        if "Answer now" in prompt:
            return Reply("hm", "all in all five")
        return Reply("hm", "five" if prompt.startswith("user say 5") else CALL)

    setup.backend._reply = reply


async def test_a_run_that_never_ends_is_ended_by_an_answer() -> None:
    """The last call is always the answer: without tools, within what was kept. Never more than the cap."""
    setup = Setup(Caps(tokens=300))
    looping(setup)
    out = await setup.agent.ainvoke(ASK, {"recursion_limit": 500})
    last = out["messages"][-1]
    assert (last.text, last.tool_calls) == ("all in all five", [])
    assert setup.backend.meter.requests > 10
    assert setup.backend.meter.output <= 300
    (task,) = setup.tasks
    assert task.report().calls[-1].grant.last  # type: ignore[union-attr]


async def test_a_run_that_may_not_answer_raises_with_the_numbers() -> None:
    """`on_exhausted="shrink"`: the error has what was needed and what is left."""
    setup = Setup(Caps(tokens=300), on_exhausted="shrink")
    looping(setup)
    with pytest.raises(BudgetExceededError) as caught:
        await setup.agent.ainvoke(ASK, {"recursion_limit": 500})
    assert caught.value.needed["tokens"] > caught.value.available["tokens"]
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


@pytest.mark.parametrize("sync", [False, True])
async def test_a_resumed_run_is_a_run(sync: bool) -> None:
    """After an interrupt the agent goes on under a budget: a run of its own, its tools included."""
    setup = Setup(Caps(tokens=500), checkpointer=InMemorySaver(), interrupt_before=["tools"])
    config = {"configurable": {"thread_id": "1"}}
    await setup.agent.ainvoke(ASK, config)
    assert setup.tasks == []
    out = setup.agent.invoke(None, config) if sync else await setup.agent.ainvoke(None, config)
    assert out["messages"][-1].text == "done"
    (task,) = setup.tasks
    assert [call.outcome for call in task.report().calls] == ["answered"] * 2  # the tool's, and the last
    assert task.closed


@pytest.mark.parametrize("place", ["memory", "file"])
async def test_a_threads_caps_hold_over_runs_and_interrupts(place: str, tmp_path: Path) -> None:
    """Run after run, until the thread is used up: then refused, unspent. Other threads are not touched."""
    store = {"store": tmp_path / "spend.db"} if place == "file" else {}
    setup = Setup(
        Caps(tokens=120),
        thread=Caps(tokens=300),
        checkpointer=InMemorySaver(),
        interrupt_before=["tools"],
        **store,
    )
    accounts = setup.budget._accounts
    assert accounts is not None
    before = 0
    config = {"configurable": {"thread_id": "a"}}

    async def again_and_again() -> None:
        nonlocal before
        for _ in range(200):
            before = setup.backend.meter.output
            await setup.agent.ainvoke(ASK, config)
            await setup.agent.ainvoke(None, config)

    with pytest.raises(BudgetExceededError) as caught:
        await again_and_again()
    assert caught.value.available["tokens"] < caught.value.needed["tokens"] + 1
    gc.collect()
    spent = await asyncio.to_thread(portal.run, accounts.spent("thread a"))
    # What is charged beyond the meter are the closes that we wrote: one a call at most
    assert setup.backend.meter.output <= spent.tokens <= 300
    assert spent.tokens <= setup.backend.meter.output + setup.backend.meter.requests
    assert before > 100
    await setup.agent.ainvoke(ASK, {"configurable": {"thread_id": "b"}})
    with pytest.raises(ValueError, match="needs a thread"):
        Setup(Caps(tokens=9), thread=Caps(tokens=9)).agent.invoke(ASK)


def ending(where: str) -> type[AgentMiddleware[Any, Any, Any]]:
    """Middleware that fails in one of its nodes."""

    class Ends(AgentMiddleware[Any, Any, Any]):
        pass

    def fail(self: Any, state: Any, runtime: Any) -> None:
        raise RuntimeError("failed")

    setattr(Ends, where, fail)
    return Ends


def broken(setup: Setup, how: str, kept: list[Any]) -> Callable[[dict[str, Any]], Any]:
    """An invocation that ends in this way; what it raises is kept, with all its frames."""

    async def run(config: dict[str, Any]) -> None:
        try:
            if how == "wait_for":
                await asyncio.wait_for(setup.agent.ainvoke(ASK, config), 0.3)
            elif how == "cancel":
                task = asyncio.create_task(setup.agent.ainvoke(ASK, config))
                await asyncio.sleep(0.3)
                task.cancel()
                await task
            elif how == "stream left":
                stream = setup.agent.astream(ASK, config)
                kept.append(stream)
                await anext(stream)
                await stream.aclose()
            elif how == "stream abandoned":
                async for _ in setup.agent.astream(ASK, config):
                    break
            elif how == "sync stream abandoned":
                for _ in setup.agent.stream(ASK, config):
                    break
            elif how == "sync":
                setup.agent.invoke(ASK, config)
            else:
                await setup.agent.ainvoke(ASK, config)
        except BaseException as error:
            kept.append(error)

    return run


WAYS = {
    "tool": {},
    "sync": {},
    "wait_for": {},
    "cancel": {},
    "stream left": {},
    "stream abandoned": {},
    "sync stream abandoned": {},
    "interrupt": {"checkpointer": InMemorySaver(), "interrupt_before": ["tools"]},
    "before_agent": {"after": "before_agent"},
    "before_model": {"after": "before_model"},
    "after_agent": {"after": "after_agent"},
    "sub-agent": {},
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("place", ["memory", "file"])
async def test_a_threads_lease_comes_back_however_its_run_ends(how: str, place: str, tmp_path: Path) -> None:
    """The fault: held 400 of 1,000 after each of three runs that failed; the fourth was refused. Right: held
    nothing, and spent what the meter says, though the error is kept with all its frames."""
    options = dict(WAYS[how])
    after = options.pop("after", None)
    if place == "file":
        options["store"] = tmp_path / "spend.db"
    setup = Setup(
        Caps(tokens=400),
        thread=Caps(tokens=1_000),
        more=[ending(str(after))()] if after else [],
        failing=how in ("tool", "sync", "sub-agent"),
        **options,
    )
    if how in ("wait_for", "cancel"):
        setup.backend.tpot = 0.1
    accounts, kept = setup.budget._accounts, []
    assert accounts is not None
    if how == "sub-agent":
        setup.nest()
    run = broken(setup, how, kept)
    for _ in range(5):
        await run({"configurable": {"thread_id": "t"}})
    gc.collect()
    await asyncio.sleep(0.2)
    assert not any(isinstance(error, BudgetExceededError) for error in kept), kept
    (level, *_) = await asyncio.to_thread(portal.run, accounts.store.read_accounts("thread t"))
    assert level.held.tokens == 0
    assert setup.backend.meter.output <= level.spent.tokens <= 1_000
    if how not in ("wait_for", "cancel"):  # a call that is broken off is charged what it held
        assert level.spent.tokens <= setup.backend.meter.output + setup.backend.meter.requests
    assert not invocations._graph_of
    assert not invocations._ends


_forked: list[Setup] = []


def _run_in_child(number: int) -> str:
    try:
        _forked[-1].agent.invoke(ASK, {"configurable": {"thread_id": "t"}})
    except ElasticError as error:
        return str(error)
    return "done"


@pytest.mark.parametrize("place", ["memory", "file"])
def test_forked_processes_share_a_threads_caps_through_the_store(place: str, tmp_path: Path) -> None:
    """A process pool after a run: each child opens the store anew. What is in memory can't be shared."""
    store = {"store": tmp_path / "spend.db"} if place == "file" else {}
    setup = Setup(Caps(tokens=200), thread=Caps(tokens=1_000), **store)
    setup.agent.invoke(ASK, {"configurable": {"thread_id": "t"}})
    _forked.append(setup)
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        said = list(pool.map(_run_in_child, range(4)))
    assert setup.budget._accounts is not None
    (level, *_) = portal.run(setup.budget._accounts.store.read_accounts("thread t"))
    assert level.held.tokens == 0
    if place == "file":
        assert said == ["done"] * 4
        assert level.spent.tokens == 5 * setup.backend.meter.output
    else:
        assert all("share them with store=" in one for one in said)
        assert level.spent.tokens == setup.backend.meter.output


def test_a_forked_process_leaves_its_parents_runs_alone(tmp_path: Path) -> None:
    """Its end is not theirs: what they hold, they may still spend."""
    setup = Setup(Caps(tokens=200), thread=Caps(tokens=1_000), store=tmp_path / "spend.db")
    accounts = setup.budget._accounts
    assert accounts is not None
    running = setup.agent.stream(ASK, {"configurable": {"thread_id": "t"}})
    next(running)
    child = get_context("fork").Process(target=_end_as_a_program_does)
    child.start()
    child.join()
    (level, *_) = portal.run(accounts.store.read_accounts("thread t"))
    assert level.held.tokens == 200
    running.close()
    assert portal.run(accounts.lease("thread t", None)).caps.tokens == 1_000


def _end_as_a_program_does() -> None:
    atexit._run_exitfuncs()
    gc.collect()


async def test_a_lease_that_no_run_uses_is_given_back() -> None:
    """One that is lost on the way to its run."""
    accounts = LeasedAccounts("memory://", Caps(tokens=100), seconds=0.3)
    lease = await accounts.lease("a", None)
    assert lease.caps.tokens == 100
    del lease
    gc.collect()
    await asyncio.sleep(0.3)
    assert (await accounts.store.read_accounts("a"))[0].held.tokens == 0


async def test_the_model_is_told_what_is_left_when_asked_to() -> None:
    """Each call of the run, its tools' too, behind the last message; the system prompt stays what it is."""
    seen: list[str] = []
    setup = Setup(Caps(tokens=500), tell=True, system_prompt="Be brief.")
    setup.backend._reply = lambda prompt: (seen.append(prompt), script(prompt))[1]
    await setup.agent.ainvoke(ASK)
    told = [int(n) for prompt in dict.fromkeys(seen) for n in re.findall(r"about (\d+) tokens left", prompt)]
    assert len(told) == 3
    assert told == sorted(told, reverse=True)
    assert 500 >= told[0] > told[-1]
    assert all(re.search(r" \(about \d+ tokens left\)assistant$", prompt) for prompt in seen)
    assert any("Be brief.user" in prompt for prompt in seen)


def test_the_middleware_takes_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is no cap."""
    wrong: Callable[..., Any] = TaskBudgetMiddleware
    with pytest.raises(TypeError, match="run must be Caps"):
        wrong(run=500)
    with pytest.raises(TypeError, match="without caps there is no budget"):
        TaskBudgetMiddleware()
    with pytest.raises(ValueError, match="a run, not a thread"):
        TaskBudgetMiddleware(thread=Caps(seconds=5))
    with pytest.raises(ValueError, match="store= is for thread"):
        TaskBudgetMiddleware(run=Caps(tokens=5), store="spend.db")
