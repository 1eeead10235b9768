"""How a call is told its own Budget: each row of the first table in docs/langchain.md, inside a task.

The second table's rows (how calls come into a task) are `test_task.CARRIERS` and `test_processes`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, guard
from elastic_agent.scheduler import task_budget
from tests.integrations.langchain.test_task import CARRIERS, agree

Make = Callable[..., ChatElasticReasoning]
ASK = {"messages": [("user", "say 5")]}


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def constructor(model: ChatElasticReasoning) -> Any:
    return await ChatElasticReasoning(backend=model.backend, thinking_budget=2, solution_budget=6).ainvoke(
        "say 5"
    )


async def call(model: ChatElasticReasoning) -> Any:
    return await model.ainvoke("say 5", thinking_budget=2, solution_budget=6)


async def bind(model: ChatElasticReasoning) -> Any:
    return await model.bind(thinking_budget=2, solution_budget=6).ainvoke("say 5")


async def bind_tools(model: ChatElasticReasoning) -> Any:
    return await model.bind_tools([add], thinking_budget=2, solution_budget=6).ainvoke("say 5")


async def bind_then_bind_tools(model: ChatElasticReasoning) -> Any:
    return await model.bind(thinking_budget=2, solution_budget=6).bind_tools([add]).ainvoke("say 5")


async def with_budget(model: ChatElasticReasoning) -> Any:
    return await model.with_budget(thinking_budget=2, solution_budget=6).ainvoke("say 5")


async def with_structured_output(model: ChatElasticReasoning) -> Any:
    shape = {"title": "x", "type": "object"}
    bound = model.with_structured_output(shape, include_raw=True, thinking_budget=2, solution_budget=6)
    return await bound.ainvoke("say 5")


async def agent(model: ChatElasticReasoning) -> Any:
    made: Any = create_agent(model.with_budget(thinking_budget=2, solution_budget=6), [add])
    return await made.ainvoke(ASK)


OWN: list[Callable[[ChatElasticReasoning], Awaitable[Any]]] = [
    constructor,
    call,
    bind,
    bind_tools,
    bind_then_bind_tools,
    with_budget,
    with_structured_output,
    agent,
]


@pytest.mark.parametrize("run", OWN, ids=lambda run: run.__name__)
async def test_a_budget_arrives(chat: Make, backend: ScriptedBackend, run: Callable[..., Any]) -> None:
    """The grant is within it, the model keeps to it, the ledger agrees with the meter."""
    async with task_budget(tokens=2_000) as task:
        await run(chat(thinking_budget=7, solution_budget=40))
    (made,) = task.report().calls
    assert made.grant is not None
    assert (made.grant.budget.thinking, made.grant.budget.solution) == (2, 6)
    assert made.usage.thinking <= 2
    assert made.usage.solution <= 6
    agree(task, backend)


async def test_a_guarded_models_budget_arrives() -> None:
    """`max_tokens`: its own, of the call, and bound; the smallest counts."""
    seen: list[Any] = []

    class Fake(FakeMessagesListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs["max_tokens"])
            return super()._generate(*args, **kwargs)

    used: Any = {"input_tokens": 1, "output_tokens": 3, "total_tokens": 4}
    model = guard(Fake(responses=[AIMessage("x", usage_metadata=used)]), max_tokens=30)
    async with task_budget(tokens=500) as task:
        await model.ainvoke("hi")
        await model.ainvoke("hi", max_tokens=20)
        await model.bind(max_tokens=10).ainvoke("hi")
    assert seen == [30, 20, 10]
    assert task.spent.tokens == 9


def test_the_docs_tables_are_these(root: Path) -> None:
    """Each row names its test, and each carrier has a row."""
    text = (root / "docs" / "langchain.md").read_text()
    named = set(re.findall(r"\| `(\w+)` \|$", text, re.MULTILINE))
    others = {"guarded", "middleware", "resumed", "other_process", "remote"}
    others |= {
        "a_generator_keeps_its_scope",
        "a_generators_branches",
    }  # tests/scheduler/runtime/test_scopes.py
    assert named == {run.__name__ for run in OWN} | {run.__name__ for run, _ in CARRIERS} | others
