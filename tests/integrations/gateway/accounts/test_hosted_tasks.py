"""A task of this process by wire: what a client sends with its key are calls of the task, nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest

from elastic_agent import Caps, load_backend
from elastic_agent.backends.base import Backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import TaskClosedError
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Limits, Upstream
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task
from tests.integrations.gateway.answers.test_answers import CALL, TOOL
from tests.integrations.gateway.conftest import HELLO, TALK, until

MESSAGES: Any = HELLO
PRODUCTION = "gpt-5-mini"


@dataclass
class Hosting:
    """A gateway that serves nothing but hosted tasks, and a scheduler that opens them."""

    gateway: Gateway
    scheduler: BudgetScheduler
    backend: Any
    access: list[dict[str, Any]]
    stack: AsyncExitStack

    def client(self, task: Task) -> openai.AsyncOpenAI:
        """A client of the task; it ends with the test."""
        client = openai.AsyncOpenAI(base_url=self.gateway.url, api_key=self.gateway.host(task), max_retries=0)
        self.stack.push_async_callback(client.close)
        return client

    async def ask(self, task: Task, **options: Any) -> Any:
        """An answer by a client of its own, or the client's error."""
        return await ask(self.client(task), **options)


async def ask(client: openai.AsyncOpenAI, **options: Any) -> Any:
    """An answer, or the client's error."""
    try:
        return await client.chat.completions.create(model=PRODUCTION, messages=MESSAGES, **options)
    except openai.APIStatusError as error:
        return error


@asynccontextmanager
async def hosting(
    reply: Reply | Callable[[str], Reply] = TALK, backend: Backend | None = None, **options: Any
) -> AsyncIterator[Hosting]:
    """A gateway without models and without a ledger's file, for the length of a block."""
    model = backend or ScriptedBackend(reply, tpot=options.pop("tpot", 0.0))
    access: list[dict[str, Any]] = []
    settings = GatewaySettings([], port=0, limits=Limits(grace_seconds=2.0))
    async with (
        AsyncExitStack() as stack,
        BudgetScheduler(model, **options) as scheduler,
        Gateway(settings, access.append) as gateway,
    ):
        yield Hosting(gateway, scheduler, model, access, stack)
        await stack.aclose()  # the clients, before the gateway waits for their connections


async def test_an_openai_client_is_in_the_task() -> None:
    """Whole and streamed answers are calls of the task, allocated by its scheduler; any model's name will do;
    the model list shows the task's model; nothing is found under other names or keys."""
    async with hosting() as served, served.scheduler.task(Caps(tokens=120), expect={"call": 2}) as task:
        client = served.client(task)
        said = await client.chat.completions.create(model=PRODUCTION, messages=MESSAGES)
        assert (said.model, said.choices[0].message.content) == ("scripted", "so it is 42")
        (call,) = task.report().calls
        assert call.grant is not None
        assert call.grant.budget.thinking is not None
        assert call.grant.budget.thinking < 60, (
            "the scheduler's allocation, not all that the model would think"
        )
        assert said.usage is not None
        assert said.usage.completion_tokens == call.usage.output == task.spent.tokens
        assert said.model_extra is not None
        assert said.model_extra["budget"]["left"]["tokens"] == task.left.tokens
        stream = await client.chat.completions.create(model="other", messages=MESSAGES, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "so it is 42"
        assert [one.outcome for one in task.report().calls] == ["answered"] * 2
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve(PRODUCTION)).id == "scripted"
        assert served.backend.meter.output + 2 >= (task.spent.tokens or 0) >= served.backend.meter.output
        assert {line["key"] for line in served.access} == {task.name}
        assert "eh-" not in json.dumps(served.access)
        async with aiohttp.ClientSession() as session:
            async with session.get(served.gateway.url.replace("/v1", "/ready")) as ready:
                assert ready.status == 200
            for bad in (None, "Bearer none", "Bearer eh-wrong"):
                sent = {} if bad is None else {"Authorization": bad}
                async with session.get(f"{served.gateway.url}/models", headers=sent) as response:
                    assert response.status == 401


async def test_a_blocking_client_and_tools() -> None:
    """A plain function with the sync client, in a thread; its tools come back as tool calls."""

    def said(prompt: str) -> Reply:
        return Reply(thinking="hm", solution="it is 2" if "tool 2" in prompt else CALL)

    def agent(base_url: str, key: str) -> str | None:
        tools: Any = [TOOL]
        with openai.OpenAI(base_url=base_url, api_key=key) as client:
            messages: list[Any] = list(HELLO)
            first = client.chat.completions.create(model=PRODUCTION, messages=messages, tools=tools)
            (call,) = first.choices[0].message.tool_calls or []
            messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "2"}]
            return (
                client.chat.completions.create(model=PRODUCTION, messages=messages, tools=tools)
                .choices[0]
                .message.content
            )

    async with hosting(said) as served, served.scheduler.task(Caps(tokens=4000)) as task:
        key = served.gateway.host(task)
        assert await asyncio.to_thread(agent, served.gateway.url, key) == "it is 2"
        assert len(task.report().calls) == 2


async def test_refusals_have_the_task_s_numbers() -> None:
    """402 with what is needed and left; the task hears nothing of it, and the owner knows."""
    async with hosting() as served, served.scheduler.task(Caps(tokens=40), on_exhausted="raise") as task:
        refused = await served.ask(task, extra_body={"solution_budget": 60})
        assert (refused.status_code, refused.code) == (402, "cap_exceeded")
        assert refused.body["needed"]["tokens"] > refused.body["available"]["tokens"]
        assert task.spent.tokens == 0
        assert next(iter(served.gateway.hosted._by_digest.values())).refused
        assert (await served.ask(task, extra_body={"temperature": 9})).status_code == 400


async def test_sub_tasks_by_headers_and_by_name() -> None:
    """Caps without a name hold for one request; with a name until the sub-task is closed; never beyond the
    task's own."""
    async with hosting() as served, served.scheduler.task(Caps(tokens=400)) as task:
        client = served.client(task)

        async def used(**headers: str) -> int:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            said = await client.chat.completions.create(
                model=PRODUCTION, messages=MESSAGES, extra_headers=sent
            )
            assert said.usage is not None
            return said.usage.completion_tokens

        assert await used(X_Elastic_Caps="tokens=20") <= 20
        named = {"X_Elastic_Task": "search", "X_Elastic_Caps": "tokens=40"}
        first = await used(**named)
        second = await used(X_Elastic_Task="search")
        assert first + second <= 40
        with pytest.raises(openai.BadRequestError, match="other caps"):
            await used(X_Elastic_Task="search", X_Elastic_Caps="tokens=41")
        with pytest.raises(openai.NotFoundError, match="no task is called"):
            await used(X_Elastic_Task="nothing")
        opened: Any = await client.post("/tasks", cast_to=object, body={"tokens": 30, "id": "write"})
        assert (opened["caps"], opened["closed"]) == ({"tokens": 30}, False)
        wrote = await used(X_Elastic_Task="write")
        report: Any = await client.get("/tasks/write", cast_to=object)
        assert report["spent"]["tokens"] == wrote == 30 - report["left"]["tokens"]
        assert [call["outcome"] for call in report["calls"]] == ["answered"]
        assert (await client.delete("/tasks/write", cast_to=object))["closed"]  # type: ignore[index]
        with pytest.raises(openai.APIStatusError) as ended:
            await used(X_Elastic_Task="write")
        assert ended.value.status_code == 410
        assert (task.spent.tokens or 0) > first + second + wrote
        assert len(task.report().calls) == 4


async def test_many_at_once_stay_inside_the_caps() -> None:
    """64 requests of 8 tasks side by side: no task spends more than its cap, and the meter agrees."""
    async with hosting(tpot=0.0005) as served:
        tasks = [served.scheduler.task(Caps(tokens=1000)).open() for _ in range(8)]
        answers = await asyncio.gather(
            *(ask(client) for client in map(served.client, tasks) for _ in range(8))
        )
        assert {getattr(one, "status_code", 200) for one in answers} <= {200, 402, 429}
        for task in tasks:
            assert 0 < (task.spent.tokens or 0) <= 1000
        spent = sum(task.spent.tokens or 0 for task in tasks)
        forced = sum(call.usage.close for task in tasks for call in task.report().calls)
        assert spent - forced <= served.backend.meter.output <= spent
        served.scheduler.check()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_task_that_ends_under_a_running_request(stream: bool) -> None:
    """The request ends with an error that says so and what was charged, not with half an answer."""
    async with hosting(Reply(thinking="hm " * 2000), tpot=0.005) as served:
        async with served.scheduler.task(Caps(tokens=5000)) as task:
            client = served.client(task)

            async def read() -> str:
                said: Any = await client.chat.completions.create(
                    model=PRODUCTION, messages=MESSAGES, stream=stream
                )
                return "".join([str(chunk) async for chunk in said])

            reading = asyncio.ensure_future(read())
            await until(lambda: served.backend.meter.output > 5)
        with pytest.raises(openai.APIError) as ended:
            await reading
        assert ended.value.code == "task_closed"
        charged: Any = ended.value.body
        assert charged["charged"]["tokens"] == task.spent.tokens
        assert (task.spent.tokens or 0) >= served.backend.meter.output
        with pytest.raises(openai.APIStatusError) as late:
            await read()
        assert late.value.status_code == 410


async def test_keys_end_with_their_release() -> None:
    """A released key is unknown, also where no keys are asked for; running requests go on; an ended task
    can't be hosted, nor one without a model."""
    async with hosting(tpot=0.005) as served, served.scheduler.task(Caps(tokens=500)) as task:
        key, other = served.gateway.host(task), served.gateway.host(task)
        assert key != other
        assert len(key) > 40
        async with openai.AsyncOpenAI(base_url=served.gateway.url, api_key=key, max_retries=0) as client:
            running = asyncio.ensure_future(
                client.chat.completions.create(model=PRODUCTION, messages=MESSAGES)
            )
            await until(lambda: served.backend.running > 0)
            served.gateway.release(key)
            served.gateway.release(key)
            with pytest.raises(openai.AuthenticationError, match="isn't hosted"):
                await client.models.list()
            assert (await running).choices[0].message.content == "so it is 42"
    with pytest.raises(TaskClosedError, match="has ended"):
        served.gateway.host(task)
    async with BudgetScheduler() as bare, bare.task(Caps(tokens=99)) as task:
        with pytest.raises(ValueError, match="which model"):
            served.gateway.host(task)
    settings = GatewaySettings([Upstream("a", ScriptedBackend())], port=0, no_keys=True)
    async with (
        Gateway(settings) as open_to_all,
        BudgetScheduler(ScriptedBackend(TALK)) as scheduler,
        scheduler.task(Caps(tokens=100)) as task,
        openai.AsyncOpenAI(base_url=open_to_all.url, api_key=open_to_all.host(task)) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["scripted"]
        open_to_all.release(client.api_key)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    with pytest.raises(ValueError, match="hosted tasks alone"):
        GatewaySettings([], no_keys=True)


async def test_an_idempotency_key_and_a_client_that_leaves() -> None:
    """Sent again, the request is answered and not charged again, within its task alone; one whose client
    leaves is stopped and charged for what was used."""
    async with hosting(tpot=0.001) as served:
        a, b = [served.scheduler.task(Caps(tokens=500)).open() for _ in range(2)]
        sent = {"Idempotency-Key": "one"}
        client = served.client(a)
        first, again = await asyncio.gather(
            *(
                client.chat.completions.create(model=PRODUCTION, messages=MESSAGES, extra_headers=sent)
                for _ in range(2)
            )
        )
        assert first.id == again.id
        assert len(a.report().calls) == 1
        await served.ask(b, extra_headers=sent)
        assert len(b.report().calls) == 1
        served.backend.tpot = 0.1  # on a busy machine, too, the client leaves before the answer is whole
        leaving = asyncio.ensure_future(ask(client))
        await until(lambda: served.backend.running > 0)
        leaving.cancel()
        await until(lambda: [call.outcome for call in a.report().calls] == ["answered", "stopped"])
        assert a.report().calls[1].usage.passes == 1
        served.scheduler.check()


async def test_the_embedded_model() -> None:
    """e1-tiny by wire: an answer within the task's caps."""
    backend = load_backend("e1-tiny")
    async with hosting(backend=backend) as served, served.scheduler.task(Caps(tokens=60)) as task:
        said = await served.ask(task, temperature=0)
        assert said.model == "e1-tiny"
        assert 0 < said.usage.completion_tokens == (task.spent.tokens or 0) <= 60
