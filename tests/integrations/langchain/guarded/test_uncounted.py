"""A model that a task can't count is told of: by a warning, an error, or not at all if so asked."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool

from elastic_agent import Caps
from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.errors import UncountedModelError
from elastic_agent.integrations.langchain import (
    ChatElasticReasoning,
    ElasticReasoningLLM,
    TaskBudgetMiddleware,
    guard,
)
from elastic_agent.scheduler import BudgetScheduler, Price, current_task, task_budget
from tests.integrations.langchain.middleware.test_middleware import ASK, Setup

Chat = Callable[..., ChatElasticReasoning]


class Counting(FakeListChatModel):
    """Says how often it was called."""

    calls: list[str]

    def _call(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append("called")
        return super()._call(*args, **kwargs)


@pytest.fixture
def plain() -> Counting:
    return Counting(responses=["hi"], calls=[])


async def call(model: Any, how: str) -> None:
    """One call of a model, in one of LangChain's ways."""
    if how == "ainvoke":
        await model.ainvoke("q")
    elif how == "invoke":
        model.invoke("q")
    elif how == "astream":
        async for _ in model.astream("q"):
            pass
    elif how == "stream":
        list(model.stream("q"))
    elif how == "batch":
        model.batch(["q"])
    elif how == "chain":
        await (RunnableLambda(lambda q: q) | model).ainvoke("q")
    else:
        await asyncio.to_thread(model.invoke, "q")


WAYS = ["ainvoke", "invoke", "astream", "stream", "batch", "chain", "thread"]


@pytest.mark.parametrize("how", WAYS)
async def test_an_uncounted_model_is_warned_of(plain: Counting, how: str) -> None:
    """The fault: a plain model under a cap, 0 calls, 0 spent, and nobody was told."""
    with pytest.warns(RuntimeWarning, match=r"Counting is called inside of task 'mine'.*guard\(model"):
        async with task_budget(usd="0.05", name="mine"):
            await call(plain, how)


async def test_the_warning_comes_once_for_each_task_and_class(plain: Counting) -> None:
    """Not once for each call, nor only for the first class."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            async with task_budget(tokens=99):
                for how in WAYS:
                    await call(plain, how)
                await FakeListLLM(responses=["hi"]).ainvoke("q")
    names = [str(one.message).split()[0] for one in caught]
    assert names == ["Counting", "FakeListLLM"] * 2


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("where", ["task", "scheduler", "around"])
async def test_it_is_refused_before_the_call_is_sent(plain: Counting, how: str, where: str) -> None:
    """Said of the task, of the scheduler, or of the task around it."""
    scheduler = BudgetScheduler(uncounted="refuse" if where == "scheduler" else "warn")
    own = "refuse" if where == "task" else None
    async with (
        task_budget(tokens=99, scheduler=scheduler, uncounted="refuse" if where == "around" else None),
        task_budget(tokens=99, scheduler=scheduler, uncounted=own),
    ):
        with pytest.raises(UncountedModelError, match=r"guard\(model"):
            await call(plain, how)
    assert plain.calls == []


@pytest.mark.parametrize("how", WAYS)
async def test_it_is_not_told_where_nobody_cares(plain: Counting, chat: Chat, how: str) -> None:
    """With "ignore", outside of any task, and for models that count."""
    models: list[Any] = [
        chat(),
        ElasticReasoningLLM(backend=ScriptedBackend(), thinking_budget=4, solution_budget=8),
        guard(plain, price=Price("1", "2"), max_tokens=5),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await call(plain, how)
        async with task_budget(tokens=99, uncounted="ignore"):
            await call(plain, how)
        async with task_budget(tokens=5_000, uncounted="refuse") as task:
            for model in models:
                await call(model, how)
    assert len(task.report().calls) == 3


async def test_the_models_own_subclass_counts(chat: Chat) -> None:
    """Whatever its class is called, and wherever it lives."""

    class Mine(ChatElasticReasoning):
        @classmethod
        def is_lc_serializable(cls) -> bool:
            return False

    model = Mine(backend=chat().backend, thinking_budget=4, solution_budget=8)
    async with task_budget(tokens=500, uncounted="refuse"):
        await model.ainvoke("q")


@pytest.mark.parametrize("uncounted", [None, "warn", "refuse", "ignore"])
async def test_the_middleware_tells_of_its_tools_models(plain: Counting, uncounted: Any) -> None:
    """A tool's own model: told by default, refused where that is asked for."""
    plain.responses = ["five"]
    setup = Setup(Caps(tokens=500))

    @tool
    async def research(question: str) -> str:
        """Ask a researcher."""
        return str((await plain.ainvoke(question)).text)

    model = ChatElasticReasoning(backend=setup.backend, thinking_budget=4, solution_budget=20)
    budget = TaskBudgetMiddleware(run=Caps(tokens=500), uncounted=uncounted)
    agent: Any = create_agent(model, [research], middleware=[budget])
    if uncounted == "refuse":
        with pytest.raises(UncountedModelError):
            await agent.ainvoke(ASK)
        assert plain.calls == []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await agent.ainvoke(ASK)
    assert len([one for one in caught if "Counting is called" in str(one.message)]) == (uncounted != "ignore")
    assert plain.calls == ["called"]


async def test_an_agents_own_model_may_be_let_through(plain: Counting) -> None:
    """Refused by default (see test_middleware); with "warn" it runs, and is told of."""
    budget = TaskBudgetMiddleware(run=Caps(tokens=500), uncounted="warn")
    agent: Any = create_agent(plain, [], middleware=[budget])
    with pytest.warns(RuntimeWarning, match="Counting is called"):
        await agent.ainvoke(ASK)
    assert plain.calls == ["called"]


@pytest.mark.parametrize("sync", [True, False])
def test_callbacks_carry_a_scope_that_a_thread_lost(chat: Chat, sync: bool) -> None:
    """A bare thread pool in a runnable, whose calls are given the run's config, as LangChain asks for."""
    model = chat()

    def branches(question: str, config: RunnableConfig) -> list[str]:
        def one(number: int) -> str:
            if sync:
                said = model.invoke(f"{question} {number}", config).text
            else:
                said = asyncio.run(model.ainvoke(f"{question} {number}", config)).text
            assert current_task() is None or not sync
            return str(said)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, range(4)))

    with task_budget(tokens=500) as task:
        said = RunnableLambda(branches).invoke("q")
    assert len(said) == len(task.report().calls) == 4


@pytest.mark.parametrize("way", ["no", "", 1])
def test_another_word_is_refused(way: Any) -> None:
    """At once, wherever it is said."""
    for make in (
        lambda: task_budget(tokens=5, uncounted=way),
        lambda: BudgetScheduler(uncounted=way),
        lambda: TaskBudgetMiddleware(run=Caps(tokens=5), uncounted=way),
    ):
        with pytest.raises(ValueError, match="uncounted must be one of warn, refuse, ignore"):
            make()


def test_a_program_that_never_heard_of_our_langchain_classes_is_told() -> None:
    """`task_budget` alone, around somebody else's model."""
    code = (
        "from langchain_core.language_models.fake_chat_models import FakeListChatModel\n"
        "from elastic_agent.scheduler import task_budget\n"
        "with task_budget(tokens=50):\n"
        "    FakeListChatModel(responses=['x']).invoke('q')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FakeListChatModel is called inside of task" in done.stderr


def test_chat_models_are_what_is_tested() -> None:
    """The plain model has no way around LangChain's own."""
    assert issubclass(Counting, BaseChatModel)
