"""What a guarded call is charged when it did not end well, or when its usage says odd things; its retries;
and every way in which LangChain makes one model of another."""

from __future__ import annotations

import asyncio
import copy
import pickle
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import ConfigurableField
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from typing_extensions import TypedDict

from elastic_agent.backends.vllm.server_process import free_port
from elastic_agent.budget import to_usd
from elastic_agent.errors import ElasticError
from elastic_agent.integrations.langchain import guard
from elastic_agent.integrations.langchain.errors import RefusedRequestError, UnpricedModelError
from elastic_agent.scheduler import Price, task_budget
from tests.integrations.langchain.guarded.test_guard import PRICE, agree, gpt, settled
from tests.integrations.langchain.openai_server import OpenAIServer, openai_server

ANSWER = " ".join(["word"] * 30)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as running:
        yield running


@pytest.fixture(scope="module")
def closed() -> str:
    """An address where nobody answers."""
    return f"http://127.0.0.1:{free_port()}/v1"


def at(url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key="k", **options)  # type: ignore[arg-type]


async def ask(model: Any, how: str, **options: Any) -> None:
    """One call, in one of the four ways."""
    if how == "astream":
        _ = [chunk async for chunk in model.astream("hi", **options)]
    elif how == "stream":
        await asyncio.to_thread(lambda: list(model.stream("hi", **options)))
    elif how == "invoke":
        await asyncio.to_thread(lambda: model.invoke("hi", **options))
    else:
        await model.ainvoke("hi", **options)


WAYS = ["ainvoke", "invoke", "astream", "stream"]
TWO = ["ainvoke", "stream"]
"""langchain-openai keeps clients for 128 addresses, and each test has one of its own."""


# Usage


@pytest.mark.parametrize("how", ["astream", "stream"])
async def test_usage_with_each_chunk_is_not_added_up(server: OpenAIServer, how: str) -> None:
    """`continuous_usage_stats`: 300 tokens served had been 45,450 charged."""
    server.answer, server.continuous = " ".join(["word"] * 300), True
    async with task_budget(tokens=90_000, usd="1") as task:
        await ask(gpt(server, max_tokens=400), how)
    assert task.spent.tokens == server.output == 300
    agree(task, server)


@pytest.mark.parametrize("how", TWO)
@pytest.mark.parametrize(
    ("says", "input", "output"),
    [
        ({"prompt_tokens": None, "total_tokens": None}, "held", "met"),
        ({"prompt_tokens": 0, "total_tokens": 0}, "held", "met"),
        ({"prompt_tokens": None}, "met", "met"),  # the total tells it
        ({"completion_tokens": None}, "met", "met"),
        ({"completion_tokens": None, "total_tokens": None}, "met", "held"),
        ({"completion_tokens": 0, "total_tokens": 0}, "met", "held"),
        ({"completion_tokens": 1, "total_tokens": 1}, "met", "held"),  # thirty words in one token
        ({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}, "held", "held"),
        ({"prompt_tokens": -5, "completion_tokens": -5, "total_tokens": -10}, "held", "held"),
        ({"completion_tokens_details": None, "prompt_tokens_details": None}, "met", "met"),
    ],
    ids=str,
)
async def test_a_usage_that_says_nothing(
    server: OpenAIServer, says: dict[str, Any], input: str, output: str, how: str
) -> None:
    """What it doesn't say is charged as what was held for it, never as 0."""
    server.answer, server.says = ANSWER, says
    async with task_budget(tokens=500, usd="0.05") as task:
        await ask(gpt(server), how)
    (call,) = task.report().calls
    assert call.usage is not None
    assert call.usage.generated == (server.output if output == "met" else 40)
    held_input = call.usage.metered_input
    assert held_input == server.input if input == "met" else held_input > server.input
    assert task.spent.usd == to_usd(PRICE.charge(call.usage))
    settled(task)


@pytest.mark.parametrize("how", TWO)
async def test_each_part_of_the_input_has_its_price(server: OpenAIServer, how: str) -> None:
    """Read from a cache, written to one, neither: each is billed in its own way, and held by the dearest."""
    server.says = {
        "prompt_tokens": 20,
        "total_tokens": 24,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 12},
    }
    price = Price("4", "2", "0.4", cache_write="5")
    async with task_budget(usd="0.05") as task:
        await ask(gpt(server, price=price), how)
    assert task.spent.usd == to_usd(3 * 4000 + 5 * 400 + 12 * 5000 + 4 * 2000)
    settled(task)


@pytest.mark.parametrize("how", ["astream", "stream"])
async def test_both_at_once(server: OpenAIServer, how: str) -> None:
    """Usage with each chunk, and no prompt in any."""
    server.answer, server.continuous = ANSWER, True
    server.says = {"prompt_tokens": None, "total_tokens": None}
    async with task_budget(tokens=500) as task:
        await ask(gpt(server), how)
    assert task.spent.tokens == server.output == 30


# What never left, and what did


@pytest.mark.parametrize("how", WAYS)
async def test_what_never_left_costs_nothing(closed: str, how: str) -> None:
    """A closed port, a name that nobody has, a key that is no header, an option that is none."""
    broken = [
        (at(closed), {}),
        (at("http://no-such-host.invalid/v1"), {}),
        (at("ftp://127.0.0.1/v1"), {}),
        (ChatOpenAI(model="gpt-4o-mini", base_url=closed, api_key="k\n"), {}),  # type: ignore[arg-type]
        (at(closed), {"nonsense": 1}),
        (at(closed), {"response_format": {"type": "nonsense"}}),
    ]
    async with task_budget(tokens=5_000, usd="0.05") as task:
        for model, options in broken:
            with pytest.raises(Exception, match=r"."):
                await ask(guard(model, price=PRICE, max_tokens=400), how, **options)
    assert (task.spent.tokens, task.spent.usd) == (0, 0)
    assert [call.usage.passes if call.usage else 0 for call in task.report().calls] == [0] * len(broken)
    settled(task)


@pytest.mark.parametrize("how", TWO)
@pytest.mark.parametrize("fault", ["drop", "garbage", "null", "408", "409", "499", "500", "503", "504"])
async def test_what_may_have_been_served_costs_the_hold(server: OpenAIServer, fault: str, how: str) -> None:
    """Law 2: also where the client fails with a TypeError or a ValueError, since the answer was odd."""
    if fault == "drop":
        server.drop = 9
    elif fault in ("garbage", "null"):
        server.garbage = "<html>" if fault == "garbage" else '{"choices": null, "usage": null}'
    else:
        server.status = int(fault)
    async with task_budget(tokens=500) as task:
        try:
            await ask(gpt(server), how)
        except ElasticError:
            raise
        except Exception:  # which one depends on the client
            pass
    assert task.spent.tokens == 40 >= server.output
    settled(task)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
async def test_what_was_refused_costs_nothing(server: OpenAIServer, status: int) -> None:
    """By the provider, or by a router that did not pass it on."""
    server.status = status
    async with task_budget(tokens=500, usd="0.01") as task:
        with pytest.raises(openai.APIStatusError):
            await gpt(server).ainvoke("hi")
    assert (task.spent.tokens, task.spent.usd) == (0, 0)
    settled(task)


async def test_content_that_came_was_served(server: OpenAIServer) -> None:
    """A stream that ends in a refusal after words had come is not refunded."""

    class Breaking(GenericFakeChatModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            yield ChatGenerationChunk(message=AIMessageChunk("some words"))
            request = httpx2.Request("POST", "http://x")
            raise openai.RateLimitError("x", response=httpx2.Response(429, request=request), body=None)

    async with task_budget(tokens=500) as task:
        with pytest.raises(openai.RateLimitError):
            await ask(guard(Breaking(messages=iter(())), max_tokens=40), "astream")
    assert task.spent.tokens == 40


async def test_an_error_of_an_earlier_request_is_not_this_ones(server: OpenAIServer, closed: str) -> None:
    """A second model asked while the first one's connection error is handled, as fallbacks do."""
    server.drop = 9
    async with task_budget(tokens=500) as task:
        try:
            await guard(at(closed), max_tokens=40).ainvoke("hi")
        except openai.APIConnectionError:
            with pytest.raises(openai.APIConnectionError):
                await gpt(server).ainvoke("hi")
    assert task.spent.tokens == 40


async def test_controls_that_fail(server: OpenAIServer) -> None:
    """Before anything is sent: nothing is charged, nothing stays held."""

    def controls(budget: Any) -> Any:
        raise KeyError("no such control")

    for how in WAYS:
        async with task_budget(tokens=500) as task:
            with pytest.raises(KeyError):
                await ask(guard(at(server.base_url), controls=controls, max_tokens=40), how)
        assert task.spent.tokens == 0
        settled(task)
    assert server.requests == 0


async def test_a_caller_who_leaves_while_connecting() -> None:
    """Cancelled before a connection came about: nothing had left."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        full = [socket.socket() for _ in range(4)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        model = guard(at(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"), max_tokens=40)
        async with task_budget(tokens=500) as task:
            running = asyncio.create_task(model.ainvoke("hi"))
            await asyncio.sleep(0.2)
            running.cancel()
            await asyncio.wait([running])
        assert task.spent.tokens == 0
        settled(task)
        for one in full:
            one.close()


# Retries


@pytest.mark.parametrize("how", WAYS)
async def test_a_clients_retries_are_off(server: OpenAIServer, how: str) -> None:
    """The SDK's default is two: three requests, and one hold. The original keeps its own."""
    server.drop = 9
    plain = at(server.base_url)
    async with task_budget(tokens=500) as task:
        with pytest.raises(openai.APIConnectionError):
            await ask(guard(plain, max_tokens=40), how)
    assert server.requests == 1
    assert task.spent.tokens == 40 >= server.output
    assert plain.root_client.max_retries == plain.client._client.max_retries == 2


def test_retries_that_cant_be_switched_off_are_told() -> None:
    """boto3's clients keep theirs."""

    class Meta:
        config = type("Config", (), {"__module__": "botocore.config", "retries": None})()

    class Bedrock(FakeListChatModel):
        client: Any = None

    client = type("BedrockRuntime", (), {"meta": Meta})()
    with pytest.warns(UserWarning, match="BedrockRuntime.*total_max_attempts"):
        guard(Bedrock(responses=["x"], client=client))
    Meta.config.retries = {"total_max_attempts": 1}  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard(Bedrock(responses=["x"], client=client))


def test_fields_by_any_name() -> None:
    """`max_retries`, `retries` and the like; 1 where a class counts tries; what is no number stays."""

    class Retrying(FakeListChatModel):
        max_retries: int | None = None
        retries: int = 3
        num_retries: int = 3
        retry_attempts: int = 5
        retry: bool = True

    class ChatGoogleGenerativeAI(Retrying):
        pass

    quiet = guard(Retrying(responses=[]))
    assert (quiet.max_retries, quiet.retries, quiet.num_retries, quiet.retry_attempts) == (0, 0, 0, 1)
    assert quiet.retry is True
    assert guard(ChatGoogleGenerativeAI(responses=[])).max_retries == 1


# Models made of models


class Shape(BaseModel):
    """An answer."""

    word: str


class Dict(TypedDict):
    """An answer."""

    word: str


@pytest.mark.parametrize(
    "schema", [Shape, Dict, Shape.model_json_schema()], ids=["pydantic", "typed", "json"]
)
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_structured_output_under_a_money_cap(server: OpenAIServer, schema: Any, method: Any) -> None:
    """A class as the format is counted as the schema that it is on the wire."""
    server.answer = '{"word":"five"}'
    async with task_budget(usd="0.05") as task:
        model = gpt(server, max_tokens=100).with_structured_output(schema, method=method, include_raw=True)
        out: Any = await model.ainvoke("hi")
    assert isinstance(out["raw"], AIMessage)
    assert len(task.report().calls) == server.requests == 1
    (call,) = task.report().calls
    assert call.grant is not None
    agree(task, server)


async def test_an_answer_cut_in_its_format_is_charged_what_was_counted(server: OpenAIServer) -> None:
    """OpenAI's client raises where the format is cut; the usage is in the error."""
    request = httpx2.Request("POST", "http://x")
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    choice = {"index": 0, "message": {"role": "assistant", "content": "{"}, "finish_reason": "length"}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    completion = openai.types.chat.ChatCompletion(**whole, choices=[choice], usage=usage)  # type: ignore[arg-type]
    assert request is not None

    class Cut(FakeListChatModel):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            raise openai.LengthFinishReasonError(completion=completion)

    async with task_budget(tokens=500) as task:
        with pytest.raises(openai.LengthFinishReasonError):
            await guard(Cut(responses=["x"]), max_tokens=40).ainvoke("hi")
    assert task.spent.tokens == 12


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "options", [{"reasoning": {"effort": "low", "summary": "auto"}}, {"use_responses_api": True}], ids=str
)
async def test_the_responses_api(server: OpenAIServer, options: dict[str, Any], how: str) -> None:
    """Where LangChain picks it, the grant goes there in its words, streamed too."""
    async with task_budget(tokens=9_000, usd="0.05") as task:
        await ask(gpt(server, "gpt-5", max_tokens=4000, **options), how)
    (call,) = task.report().calls
    body = server.bodies[0]
    assert call.grant is not None
    assert body["max_output_tokens"] == (call.grant.budget.thinking or 0) + call.grant.budget.solution
    assert body["reasoning"]["effort"] == "medium"
    assert body["reasoning"].get("summary") == (options.get("reasoning") or {}).get("summary")
    agree(task, server)


async def test_configurable_fields(server: OpenAIServer) -> None:
    """A model made of another by LangChain is guarded as that one was, and priced as what it is."""
    model = gpt(server).configurable_fields(
        model_name=ConfigurableField(id="model"), temperature=ConfigurableField(id="heat")
    )
    async with task_budget(usd="0.01") as task:
        await model.ainvoke("hi", config={"configurable": {"heat": 0.5}})
    assert server.bodies[-1]["temperature"] == 0.5
    agree(task, server)
    async with task_budget(tokens=500) as task:
        await model.ainvoke("hi", config={"configurable": {"model": "another"}})
        assert [call.model for call in task.report().calls] == ["another"]
    async with task_budget(usd="0.01"):
        with pytest.raises(UnpricedModelError, match="another"):
            await model.ainvoke("hi", config={"configurable": {"model": "another"}})


async def test_a_call_that_names_another_model(server: OpenAIServer) -> None:
    """`model=` in a call or bound: that one's price, not the guarded one's."""
    async with task_budget(usd="0.01"):
        with pytest.raises(UnpricedModelError, match="another"):
            await gpt(server).ainvoke("hi", model="another")
        with pytest.raises(UnpricedModelError, match="another"):
            await gpt(server).bind(model="another").ainvoke("hi")
    assert server.requests == 0


async def test_every_way_to_make_one_of_another(server: OpenAIServer, closed: str) -> None:
    """bind, alternatives, fallbacks, retries, copies and pickles: each call is on the books."""
    model = gpt(server)
    dead: Any = guard(at(closed), price=PRICE, max_tokens=40)
    other = model.configurable_alternatives(ConfigurableField(id="which"), default_key="a", b=gpt(server))
    made: list[Any] = [
        model.bind(temperature=0.1),
        model.bind_tools([Shape]),
        model.with_config(tags=["x"]),
        model.with_retry(stop_after_attempt=2),
        dead.with_fallbacks([model]),
        other,
        other.with_config(configurable={"which": "b"}),
        model.model_copy(),
        model.model_copy(update={"temperature": 0.3}),
        copy.copy(model),
        guard(model, price=PRICE, max_tokens=30),
    ]
    async with task_budget(tokens=9_000, usd="0.05") as task:
        for one in made:
            await one.ainvoke("hi")
            one.invoke("hi")
    agree(task, server)
    assert server.requests == 2 * len(made)
    assert server.bodies[-1]["max_completion_tokens"] == 30


@pytest.mark.filterwarnings("ignore:The method `BaseChatModel:Warning")
async def test_no_way_past_the_guard() -> None:
    """A class may have a way of its own for `stream_events`, past `_stream`: it is not taken."""

    class Native(GenericFakeChatModel):
        def _stream_chat_model_events(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("not counted")

        async def _astream_chat_model_events(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("not counted")
            yield

    model = guard(
        Native(messages=iter([AIMessage("a b"), AIMessage("c d"), AIMessage("e f")])), max_tokens=10
    )
    async with task_budget(tokens=500) as task:
        assert [event async for event in model.astream_events("hi")]
        assert [event async for event in await _events(model)]
        assert await asyncio.to_thread(lambda: list(model.stream_events("hi", version="v3")))
    assert len(task.report().calls) == 3


async def _events(model: Any) -> Any:
    made = model.astream_events("hi", version="v3")
    return await made if asyncio.iscoroutine(made) else made


async def test_a_pickle_is_guarded() -> None:
    """A guarded model in another process, or from a cache."""
    model = guard(FakeListChatModel(responses=["hello"]), price=Price("1", "2"), max_tokens=10)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        async with task_budget(usd="0.01") as task:
            await again.ainvoke("hi")
        assert task.spent.tokens == 10
        assert again.guard_terms == model.guard_terms  # type: ignore[attr-defined]
    assert "guard_terms" not in model.model_dump()
    assert "guard_terms" not in repr(model)


async def test_what_has_no_shape_is_refused_where_money_is_capped(server: OpenAIServer) -> None:
    """Law 8, for a format too; where only tokens are capped it does not matter to us."""
    async with task_budget(usd="0.01"):
        with pytest.raises(RefusedRequestError, match="can't be counted"):
            await gpt(server).ainvoke("hi", response_format={"type": object()})
    assert server.requests == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": -4}, "max_tokens must be at least 1"),
        ({"max_tokens": 1.5}, "whole number"),
        ({"max_tokens": True}, "whole number"),
        ({"thinking_budget": -1}, "thinking_budget must be at least 0"),
        ({"price": 0.4}, "Price"),
        ({"allow": {"image_url": -1}}, "image_url"),
    ],
)
def test_numbers_that_are_none(arguments: dict[str, Any], says: str) -> None:
    """Checked when guard is called, with a sentence; 0 means 0."""
    with pytest.raises((ValueError, TypeError), match=says):
        guard(FakeListChatModel(responses=["x"]), **arguments)


async def test_zero_in_a_call_is_refused(server: OpenAIServer) -> None:
    """It had been forgotten, and the model's own limit sent."""
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        await gpt(server).ainvoke("hi", max_tokens=0)
    assert server.requests == 0
