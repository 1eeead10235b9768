"""An agent's ways to the model in training: LangChain's model, and a gateway that starts when needed."""

from __future__ import annotations

import asyncio
import socket
import time
from contextvars import copy_context
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import CapExceededError, TaskClosedError
from elastic_agent.integrations.langchain import ChatElasticReasoning, use_client
from elastic_agent.scheduler import BudgetScheduler, task_budget
from elastic_agent.training.agents.clients import EpisodeGateway, is_refusal, make_llm

MESSAGES: Any = [{"role": "user", "content": "hello there"}]
TALK = Reply(thinking="hm " * 60, solution="so it is 42")


async def by_wire(llm: ChatElasticReasoning, **options: Any) -> str | None:
    """An agent that uses a plain client, as in production."""
    async with openai.AsyncOpenAI(**use_client(llm), max_retries=0) as client:
        said = await client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES, **options)
        return said.choices[0].message.content


def listens(url: str) -> bool:
    port = int(url.rpartition(":")[2].removesuffix("/v1"))
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


async def test_the_model_is_in_the_task() -> None:
    """Its calls are the task's, with fields of its own; outside of a task it works like any model."""
    backend = ScriptedBackend(TALK)
    llm = make_llm(backend, solution_budget=20, kind="answer")
    async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=200)) as task:
        assert (await llm.ainvoke("hello")).text == "so it is 42"
        (call,) = task.report().calls
        assert (call.kind, call.model) == ("answer", "scripted")


async def test_an_agent_by_wire_is_in_its_task() -> None:
    """Coroutines and plain functions in threads; a sub-task that the agent opens; episodes side by side."""
    backend = ScriptedBackend(TALK, tpot=0.0005)
    llm = make_llm(backend)

    def in_thread() -> str | None:
        with openai.OpenAI(**use_client(llm)) as client:
            said = client.chat.completions.create(model="gpt-5-mini", messages=MESSAGES)
            return said.choices[0].message.content

    async with BudgetScheduler(backend) as scheduler, EpisodeGateway() as gateway:
        keys = []

        async def episode(number: int) -> int:
            async with scheduler.task(Caps(tokens=400), name=f"row {number}") as task:
                with gateway.episode(task):
                    assert await asyncio.to_thread(in_thread) == "so it is 42"
                    assert await by_wire(llm) == "so it is 42"
                    assert use_client(llm) == use_client(llm)
                    async with task_budget(tokens=30) as part:
                        await by_wire(llm)
                        assert use_client(llm)["api_key"] != gateway.client(task, backend)["api_key"]
                    assert 0 < (part.spent.tokens or 0) <= 30
                    keys.append(use_client(llm))
                return len(task.report().calls)

        assert await asyncio.gather(*map(episode, range(4))) == [3] * 4
        assert len({key["base_url"] for key in keys}) == 1, "one gateway for all"
        async with openai.AsyncOpenAI(**keys[0], max_retries=0) as late:
            with pytest.raises(openai.AuthenticationError):
                await late.models.list()
        assert gateway._keys == {}
    assert not listens(keys[0]["base_url"])


async def test_it_starts_when_needed_and_ends_with_the_run() -> None:
    """No server without a client; a client that is left open holds nothing up; afterwards it says so."""
    backend = ScriptedBackend(TALK)
    async with BudgetScheduler(backend) as scheduler:
        async with EpisodeGateway() as unused, scheduler.task(Caps(tokens=200)) as task:
            with unused.episode(task):
                await make_llm(backend).ainvoke("hello")
            assert unused._gateway is None
        async with EpisodeGateway() as gateway, scheduler.task(Caps(tokens=200)) as task:
            client = openai.AsyncOpenAI(**gateway.client(task))
            await client.chat.completions.create(model="x", messages=MESSAGES)
            began = time.perf_counter()
        assert time.perf_counter() - began < 2.0
        await client.close()
        with pytest.raises(RuntimeError, match="has ended"):
            gateway.client(task)
        async with EpisodeGateway() as other:
            with pytest.raises(TaskClosedError):
                other.client(task)


async def test_a_refusal_is_told_from_a_failure() -> None:
    """The budget's errors in each of their forms; what else goes wrong is none of them."""
    backend = ScriptedBackend(TALK)
    llm = make_llm(backend)
    async with BudgetScheduler(backend) as scheduler, EpisodeGateway() as gateway:
        async with scheduler.task(Caps(tokens=40), on_exhausted="raise") as task:
            with gateway.episode(task):
                with pytest.raises(openai.APIStatusError) as wire:
                    await by_wire(llm, extra_body={"solution_budget": 60})
                assert wire.value.status_code == 402
                assert gateway.refused(task)
                with pytest.raises(CapExceededError) as ours:
                    await llm.with_budget(solution_budget=60).ainvoke("hello")
                with pytest.raises(openai.BadRequestError) as other:
                    await by_wire(llm, temperature=9)
                await by_wire(llm, extra_body={"solution_budget": 9})
                assert not gateway.refused(task)
                with pytest.raises(openai.APIStatusError):
                    await by_wire(llm, extra_body={"solution_budget": 60})
        assert gateway.refused(task), "also when its keys have ended"
    both = ExceptionGroup("two", [wire.value, ours.value])
    wrapped = RuntimeError("the graph failed")
    wrapped.__cause__ = wire.value
    assert all(map(is_refusal, (wire.value, ours.value, both, wrapped)))
    mixed = ExceptionGroup("two", [wire.value, ValueError("no")])
    assert not any(map(is_refusal, (other.value, mixed, ValueError("no"), TimeoutError())))


async def test_other_frameworks_models_at_the_gateway_are_counted() -> None:
    """LangChain's own model for OpenAI: the task doesn't warn of it, since its calls are the task's."""
    backend = ScriptedBackend(TALK)
    async with (
        BudgetScheduler(backend, uncounted="refuse") as scheduler,
        EpisodeGateway() as gateway,
        scheduler.task(Caps(tokens=400)) as task,
        httpx.AsyncClient() as connections,
    ):
        with gateway.episode(task):
            given = use_client(make_llm(backend))
            model = ChatOpenAI(
                model="gpt-5-mini",
                base_url=given["base_url"],
                api_key=SecretStr(given["api_key"]),
                http_async_client=connections,
            )
            assert (await model.ainvoke("hello")).text == "so it is 42"
        assert [call.outcome for call in task.report().calls] == ["answered"]


async def test_requests_belong_to_no_other_task() -> None:
    """The first agent that asks starts the server: later requests don't inherit the context of its task."""
    backend = ScriptedBackend(TALK)
    async with BudgetScheduler(backend) as scheduler, EpisodeGateway() as gateway:
        async with scheduler.task(Caps(tokens=200)) as first:
            gateway.client(first)
        second = copy_context().run(scheduler.task(Caps(tokens=200)).open)
        async with openai.AsyncOpenAI(**gateway.client(second)) as client:
            await client.chat.completions.create(model="x", messages=MESSAGES)
        assert (first.report().calls, len(second.report().calls)) == ((), 1)
        await second.aclose()
