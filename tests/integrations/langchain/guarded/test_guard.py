"""`guard`: other providers' models under the ledger; what their meters count is what is charged, never more
than the caps as far as they keep to `max_tokens`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
)
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import APIConnectionError, AuthenticationError, InternalServerError
from pydantic import BaseModel

from elastic_agent import Budget, Caps
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import DeadlineError
from elastic_agent.integrations.langchain import ChatElasticReasoning, TaskBudgetMiddleware, guard
from elastic_agent.integrations.langchain.errors import (
    BudgetExceededError,
    ClosedTaskError,
    RefusedRequestError,
)
from elastic_agent.integrations.langchain.guarded.providers import known_controls, thinks
from elastic_agent.scheduler import Price, Task, task_budget
from tests.integrations.langchain.openai_server import OpenAIServer, openai_server

PRICE = Price("1", "2")


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as running:
        yield running


def gpt(server: OpenAIServer, model: str = "gpt-4o-mini", **options: Any) -> ChatOpenAI:
    own = {name: options.pop(name) for name in ("price", "max_tokens", "thinking_budget") if name in options}
    client = ChatOpenAI(
        model=model,
        base_url=server.base_url,
        api_key="sk-test",  # type: ignore[arg-type]
        max_retries=0,
        **options,
    )
    return guard(client, **{"price": PRICE, "max_tokens": 40, **own})


def settled(task: Task) -> None:
    task.dispatcher.ledger.check()
    assert task.state.account.held.tokens == 0
    assert not task.state.account.live


def agree(task: Task, server: OpenAIServer) -> None:
    """The books say what the server's own meter counted, in tokens and dollars."""
    settled(task)
    assert task.spent.tokens == server.output
    assert task.spent.usd == (server.input * Decimal(1) + server.output * Decimal(2)) / 1_000_000


@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream", "stream", "abatch", "batch"])
async def test_a_guarded_model_is_charged_what_its_server_meters(server: OpenAIServer, how: str) -> None:
    """Every way to call it; the grant's tokens are the ones on the wire."""
    model = gpt(server)
    async with task_budget(tokens=500, usd="0.01") as task:
        if how == "astream":
            assert (
                "".join([chunk.text async for chunk in model.astream("hi")]).split() == server.answer.split()
            )
        elif how == "stream":
            assert len(list(model.stream("hi"))) > 4
        elif how == "abatch":
            await model.abatch(["hi", "hello", "hey"])
        elif how == "batch":
            model.batch(["hi", "hello", "hey"])
        else:
            message = await model.ainvoke("hi") if how == "ainvoke" else model.invoke("hi")
            assert message.text == server.answer
    agree(task, server)
    calls = task.report().calls
    assert len(calls) == server.requests == (3 if "batch" in how else 1)
    assert all(call.outcome == "answered" for call in calls)
    assert all(body["max_completion_tokens"] == 40 for body in server.bodies)


async def test_a_tight_cap_shrinks_what_is_asked_for(server: OpenAIServer) -> None:
    """The hold is the allocation: what is held goes on the wire, and the server keeps to it."""
    server.answer = "word " * 100
    async with task_budget(tokens=25) as task:
        message = await gpt(server).ainvoke("hi")
        with pytest.raises(BudgetExceededError):
            await gpt(server).ainvoke("hi")
    assert server.bodies[0]["max_completion_tokens"] == len(message.text.split()) == 25
    assert server.output == task.spent.tokens == 25


async def test_a_fan_out_stays_under_its_cap(server: OpenAIServer) -> None:
    """32 branches at once: they wait for each other's refunds rather than overspend."""
    model = gpt(server)
    async with task_budget(tokens=300) as task:
        done = await asyncio.gather(*[model.ainvoke(f"hi {n}") for n in range(32)])
    assert len(done) == 32
    assert task.spent.tokens == server.output <= 300
    settled(task)


async def test_mixed_models_share_one_task(server: OpenAIServer) -> None:
    """Ours, OpenAI's and a fake one: one ledger, one report."""
    backend = ScriptedBackend(Reply("a b", "c d"))
    ours = ChatElasticReasoning(backend=backend, thinking_budget=4, solution_budget=8)
    fake = guard(FakeListChatModel(responses=["hello"]), max_tokens=10)
    async with task_budget(tokens=400) as task:
        await asyncio.gather(ours.ainvoke("x"), gpt(server).ainvoke("x"), fake.ainvoke("x"))
    models = {call.model: call for call in task.report().calls}
    assert set(models) == {"scripted", "gpt-4o-mini", "FakeListChatModel"}
    assert models["FakeListChatModel"].usage.unknown == 10  # it tells no usage: charged whole
    forced = models["scripted"].usage.forced
    assert task.spent.tokens == backend.meter.output + forced + server.output + 10
    settled(task)


@pytest.mark.parametrize("how", ["usage", "cut", "500", "left", "cancelled"])
async def test_what_nobody_knows_is_charged_whole(server: OpenAIServer, how: str) -> None:
    """No usage, a broken stream, a server error, a reader who leaves, a cancellation."""
    model = gpt(server)
    async with task_budget(tokens=500) as task:
        if how == "usage":
            server.usage = False
            await model.ainvoke("hi")
        elif how == "cut":
            server.cut_after = 2
            with pytest.raises(APIConnectionError):
                [chunk async for chunk in model.astream("hi")]
        elif how == "500":
            server.status = 500
            with pytest.raises(InternalServerError):
                await model.ainvoke("hi")
        elif how == "left":
            stream = model.astream("hi")
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
        else:
            server.pause = 0.05
            running = asyncio.create_task(model.ainvoke("hi"))
            while not server.running:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert task.spent.tokens == 40 >= server.output
        assert not task.state.account.live
    settled(task)


async def test_what_was_refused_costs_nothing(server: OpenAIServer) -> None:
    """A 401 served nothing."""
    server.status = 401
    async with task_budget(tokens=500, usd="0.01") as task:
        with pytest.raises(AuthenticationError):
            await gpt(server).ainvoke("hi")
    assert (task.spent.tokens, task.spent.usd) == (0, 0)
    settled(task)


async def test_its_task_stops_it(server: OpenAIServer) -> None:
    """At its end, and at its deadline: the caller is told, the hold charged, the connection closed."""
    server.pause, server.answer = 0.05, "word " * 40
    async with task_budget(tokens=500) as task:
        running = asyncio.create_task(gpt(server).ainvoke("hi"))
        while not server.running:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    with pytest.raises(ClosedTaskError):
        await running
    assert task.spent.tokens == 40
    settled(task)
    async with task_budget(tokens=500, seconds=0.4) as late:
        with pytest.raises(DeadlineError):
            await gpt(server).ainvoke("hi")
    assert late.spent.tokens == 40


async def test_a_dead_server_is_its_own_error(server: OpenAIServer) -> None:
    """Nothing of ours hides it; no connection came about, so nothing is charged (the hold was, before)."""
    client = ChatOpenAI(model="gpt-4o-mini", base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=0)  # type: ignore[arg-type]
    async with task_budget(tokens=100) as task:
        with pytest.raises(APIConnectionError):
            await guard(client, max_tokens=30).ainvoke("hi")
    assert task.spent.tokens == 0
    settled(task)


class Claude(GenericFakeChatModel):
    """What guard looks at of a ChatAnthropic."""

    model: str = "claude-sonnet-4-5"


Claude.__mro__[0].__name__ = "ChatAnthropic"


def test_each_provider_is_told_in_its_own_words() -> None:
    """The table of `_providers`."""
    claude = Claude(messages=iter(()))
    assert known_controls(claude)(Budget(2048, 500)) == {
        "max_tokens": 2548,
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    }
    assert known_controls(claude)(Budget(100, 500)) == {"max_tokens": 500, "thinking": {"type": "disabled"}}
    o3 = ChatOpenAI(model="o3-mini", api_key="k")  # type: ignore[arg-type]
    efforts = [known_controls(o3)(Budget(t, 100)) for t in (0, 1024, 9000)]
    assert [told["reasoning_effort"] for told in efforts] == ["low", "medium", "high"]
    assert [told["max_tokens"] for told in efforts] == [100, 1124, 9100]
    plain = ChatOpenAI(model="gpt-4o", api_key="k")  # type: ignore[arg-type]
    assert not thinks(plain)
    assert known_controls(plain)(Budget(0, 7)) == {"max_tokens": 7}


async def test_a_reasoning_model_is_granted_thinking(server: OpenAIServer) -> None:
    """Effort by the grant; reasoning tokens are thinking in the report."""
    model = gpt(server, "o3-mini", max_tokens=4000)
    async with task_budget(tokens=4_500) as task:
        await model.ainvoke("hi")
    (call,) = task.report().calls
    body = server.bodies[0]
    assert call.grant is not None
    assert body["max_completion_tokens"] == (call.grant.budget.thinking or 0) + call.grant.budget.solution
    assert call.usage.thinking == {"low": 5, "medium": 50}[body["reasoning_effort"]]
    agree(task, server)


class Shape(BaseModel):
    """An answer."""

    word: str


async def test_it_is_still_the_model_that_it_was(server: OpenAIServer) -> None:
    """Its class, tools and structured output; the original is not touched; outside of tasks no ledger."""
    plain = ChatOpenAI(model="gpt-4o-mini", base_url=server.base_url, api_key="k", max_retries=0)  # type: ignore[arg-type]
    model = guard(plain, price=PRICE)
    assert isinstance(model, ChatOpenAI)
    assert type(plain) is ChatOpenAI
    assert "sk" not in repr(model)
    async with task_budget(tokens=9_000) as task:
        out = await model.with_structured_output(Shape, method="function_calling").ainvoke("hi")
        with pytest.warns(RuntimeWarning, match="ChatOpenAI is called inside of task"):
            await plain.ainvoke("hi")
    assert out == Shape(word="say 5")
    assert len(task.report().calls) == 1
    await model.ainvoke("hi")
    assert server.bodies[-1]["max_completion_tokens"] == 4096
    with pytest.raises(TypeError, match="is none"):
        guard(ChatElasticReasoning(backend=ScriptedBackend()))
    with pytest.raises(ValueError, match="one answer"):
        await model.ainvoke("hi", n=2)
    with pytest.raises(ValueError, match="leaves nothing"):
        guard(plain, max_tokens=10, thinking_budget=10)


async def test_what_has_no_bound_is_refused_where_money_is_capped(server: OpenAIServer) -> None:
    """Law 8: a picture's tokens; `allow` names them. Where only tokens are capped it does not matter."""
    picture = [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
    ask: Any = [("user", picture)]
    async with task_budget(tokens=200):
        await gpt(server).ainvoke(ask)
    async with task_budget(usd="0.01"):
        with pytest.raises(RefusedRequestError, match="allow="):
            await gpt(server).ainvoke(ask)
    assert server.requests == 1


async def test_an_agent_of_a_guarded_model_ends_with_an_answer(server: OpenAIServer) -> None:
    """TaskBudgetMiddleware takes guarded models; the last call has no tools."""

    @tool
    def research(question: str) -> str:
        """Ask."""
        return "go on"

    fake: Any = guard(
        Looping(
            responses=[
                AIMessage("", tool_calls=[CALL], usage_metadata=USED),
                AIMessage("done", usage_metadata=USED),
            ]
        ),
        max_tokens=20,
    )
    tasks: list[Task] = []
    budget = TaskBudgetMiddleware(run=Caps(tokens=100), on_task=tasks.append)
    agent: Any = create_agent(fake, [research], middleware=[budget])
    out = await agent.ainvoke({"messages": [("user", "go")]}, {"recursion_limit": 100})
    assert out["messages"][-1].text == "done"
    assert tasks[0].spent.tokens is not None
    assert 60 <= tasks[0].spent.tokens <= 100
    settled(tasks[0])


CALL: Any = {"name": "research", "args": {"question": "x"}, "id": "1", "type": "tool_call"}
USED: Any = {"input_tokens": 5, "output_tokens": 10, "total_tokens": 15}


class Looping(FakeMessagesListChatModel):
    """Calls its tool for ever, unless it has none."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[{"type": "function", "function": {"name": t.name}} for t in tools], **kwargs)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        self.i = 0 if kwargs.get("tools") else 1
        return super()._generate(messages, stop, run_manager, **kwargs)
