"""LangChain's answer cache: an answer is replayed only where its budget fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM
from elastic_agent.scheduler import task_budget

Make = Callable[..., ChatElasticReasoning]

CHANGES: list[dict[str, Any]] = [
    {"thinking_budget": 5},
    {"thinking_budget": None},
    {"solution_budget": 7},
    {"temperature": 0.0},
    {"top_p": 0.5},
    {"top_k": 3},
    {"seed": 1},
    {"max_tokens": 9},
    {"stop": ["is"]},
]


@pytest.fixture(params=["chat", "llm"])
def model(request: pytest.FixtureRequest, backend: ScriptedBackend) -> Any:
    kind = {"chat": ChatElasticReasoning, "llm": ElasticReasoningLLM}[request.param]
    return kind(backend=backend, thinking_budget=4, solution_budget=8, cache=InMemoryCache())


async def served(model: Any, **options: Any) -> bool:
    """Whether the call reached the backend."""
    before = model.backend.meter.requests
    await model.ainvoke("say 7", **options)
    return bool(model.backend.meter.requests > before)


async def test_the_same_call_is_replayed(model: Any) -> None:
    """Same prompt, same effective options, however they were given."""
    assert await served(model)
    assert not await served(model)
    assert not await served(model, thinking_budget=4, solution_budget=8)
    assert not await served(model, kind="other", weight=3.0)  # these change grants, never an answer's key
    assert not await served(model.with_budget(thinking_budget=4))
    before = model.backend.meter.requests
    model.invoke("say 7")
    assert model.backend.meter.requests == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
async def test_whatever_changes_the_answer_is_in_the_key(model: Any, change: dict[str, Any]) -> None:
    """A low-budget answer is never replayed at a high budget: per call, bound, or by another constructor."""
    assert await served(model)
    assert await served(model, **change)
    assert not await served(model, **change)
    assert not await served(model.with_budget(**change))


async def test_tools_and_output_version_are_in_the_key(chat: Make) -> None:
    """They change what a message looks like."""
    model = chat(cache=InMemoryCache())
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    assert await served(model)
    assert await served(model, tools=model.bind_tools([tool]).kwargs["tools"])  # type: ignore[attr-defined]
    assert await served(chat(cache=model.cache, output_version="v1", backend=model.backend))


async def test_a_changed_field_changes_the_key(chat: Make) -> None:
    """LangChain keeps a serialised form of a model once made; the key must not come from it."""
    model = chat(cache=InMemoryCache())
    assert await served(model)
    model.thinking_budget = 6
    assert await served(model)


async def test_a_replayed_answer_cost_nothing(chat: Make) -> None:
    """It says so; the text and the thinking are the stored ones."""
    model = chat(cache=InMemoryCache(), price={"input": "1", "output": "2"})
    first, second = await model.ainvoke("say 7"), await model.ainvoke("say 7")
    assert first.response_metadata["cost"] != {"usd": "0"}
    assert (second.response_metadata["cost"], second.response_metadata["cached"]) == ({"usd": "0"}, True)
    assert second.content_blocks == first.content_blocks
    third = await model.ainvoke("say 7")  # the stored answer was not written to
    assert third.response_metadata == second.response_metadata


@pytest.fixture
def shared_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("shared_cache")
async def test_the_global_cache_keeps_the_same_rules(chat: Make) -> None:
    """`set_llm_cache`, and `cache=False` against it."""
    model = chat()
    assert await served(model)
    assert not await served(model)
    assert await served(model, thinking_budget=9)
    assert await served(chat(cache=False, backend=model.backend))


async def test_an_answer_that_a_task_cut_short_is_not_stored(model: Any) -> None:
    """Under a task the grant may be less than what was asked: that answer does not stand for the full one."""
    generous = model.with_budget(thinking_budget=8)
    async with task_budget(tokens=22, final_solution=8) as task:
        assert await served(generous)
        grant = task.report().calls[0].grant
        assert grant is not None
        assert (grant.budget.thinking or 0) < 8
    assert await served(generous)
    assert not await served(generous)


async def test_a_stored_answer_serves_a_task_for_free(model: Any) -> None:
    """What was thought in full is never worse than what the task would grant."""
    assert await served(model)
    async with task_budget(tokens=1_000) as task:
        assert not await served(model)
        assert task.spent.tokens == 0


async def test_an_answer_that_a_task_did_not_cut_is_stored(model: Any) -> None:
    """Its limits did not bind: it is what the full Budget gives."""
    async with task_budget(tokens=1_000):
        assert await served(model)
        assert not await served(model)
    assert not await served(model)
