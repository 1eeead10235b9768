"""Guided decoding on a real vLLM server: the thinking is free, the solution keeps to the grammar.

Through the gateway by the official SDK, over both of its APIs, and through `ChatElasticReasoning`. The model
is noise (`byte_model`), so nothing here is well-formed by chance.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import openai
import pytest
from langchain_core.tools import tool
from pydantic import BaseModel, ConfigDict

from benchmarks._vllm import counters, idle
from elastic_agent.backends.vllm.process import VllmProcess
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.integrations.gateway.app import Gateway
from elastic_agent.integrations.gateway.settings import GatewaySettings, Upstream
from elastic_agent.integrations.langchain import ChatElasticReasoning
from tests.vllm_server import BYTES as NAME

# A server starts in a minute on an idle machine, and in several on one that is shared
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASK: Any = [{"role": "user", "content": "pick one"}]
BUDGETS = {"thinking_budget": 12, "solution_budget": 400}
SEEDS = range(4)


class Pick(BaseModel):
    """What was picked."""

    model_config = ConfigDict(extra="forbid")

    size: Literal["small", "large"]
    sure: bool


@dataclass(frozen=True)
class Served:
    """A server, and where its tokenizer is."""

    url: str
    folder: str


@pytest.fixture
def served(bytes_vllm: VllmProcess) -> Served:
    bytes_vllm.ensure()
    return Served(bytes_vllm.base_url, bytes_vllm.model)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK, through a gateway."""
    backend = VllmServerBackend(NAME, served.url, tokenizer=served.folder)
    try:
        async with (
            Gateway(GatewaySettings([Upstream(NAME, backend)], port=0, no_keys=True)) as gateway,
            openai.AsyncOpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client,
        ):
            yield client
    finally:
        await backend.aclose()


async def ask(client: openai.AsyncOpenAI, seed: int, **options: Any) -> Any:
    said = await client.chat.completions.create(
        model=NAME, messages=ASK, seed=seed, temperature=1.0, extra_body=BUDGETS, **options
    )
    return said.choices[0]


def assert_same_thinking(guided: str, free: str) -> None:
    """Token for token; behind it an unguided answer may open thinking again, on a line of its own."""
    assert free == guided or free.startswith(f"{guided}\n")


async def test_a_schema_through_the_gateway(client: openai.AsyncOpenAI) -> None:
    """Valid JSON by the schema; the thinking is token for token that of the same call without one."""
    shape = {"type": "json_schema", "json_schema": {"name": "pick", "schema": Pick.model_json_schema()}}
    for seed in SEEDS:
        free, guided = await ask(client, seed), await ask(client, seed, response_format=shape)
        assert guided.finish_reason == "stop"
        Pick.model_validate_json(guided.message.content)
        assert_same_thinking(guided.message.reasoning, free.message.reasoning)
        assert guided.message.reasoning
        with pytest.raises(ValueError, match="JSON"):
            Pick.model_validate_json(free.message.content)


async def test_a_forced_call_through_the_gateway(client: openai.AsyncOpenAI) -> None:
    """A call of the named tool, with arguments by its schema; the thinking is free here, too."""
    function = {"name": "pick", "parameters": Pick.model_json_schema()}
    choice = {"type": "function", "function": {"name": "pick"}}
    for seed in SEEDS:
        free = await ask(client, seed)
        forced = await ask(
            client,
            seed,
            tools=[{"type": "function", "function": function}],
            tool_choice=choice,
            parallel_tool_calls=False,
        )
        (call,) = forced.message.tool_calls
        assert (forced.finish_reason, call.function.name) == ("tool_calls", "pick")
        Pick.model_validate_json(call.function.arguments)
        assert_same_thinking(forced.message.reasoning, free.message.reasoning)


async def test_what_the_engine_refuses(served: Served) -> None:
    """Law 4: a schema that passes our own check and not vLLM's is a 400 that quotes vLLM, as a format and as
    a tool; by vLLM's own counters no question cost a token, whatever the answer."""
    contains = {"type": "array", "contains": {"type": "integer"}}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": contains}}
    function = {"name": "f", "strict": True, "parameters": {"type": "string", "pattern": "(a)\\1"}}
    backend = VllmServerBackend(NAME, served.url, tokenizer=served.folder)
    async with (
        aiohttp.ClientSession() as session,
        Gateway(GatewaySettings([Upstream(NAME, backend)], port=0, no_keys=True)) as gateway,
        openai.AsyncOpenAI(base_url=gateway.url, api_key="none", max_retries=0) as client,
    ):
        before = await idle(served.url, session)
        with pytest.raises(openai.BadRequestError, match=r'Unimplemented keys: \["contains"\]') as raised:
            await ask(client, 0, response_format=shape)
        assert (raised.value.param, raised.value.code) == ("response_format", "unsupported_value")
        with pytest.raises(openai.BadRequestError, match="can't guide by this schema") as raised:
            await ask(client, 0, tools=[{"type": "function", "function": function}])
        assert raised.value.param == "tools"
        good = {"structured_outputs": {"json": '{"type": "object"}'}}
        assert await backend.refusal(good) == ""
        assert backend._guides._tells
        assert await counters(served.url, session) == before
        assert backend.meter.requests == 0
    await backend.aclose()


async def test_the_responses_api(client: openai.AsyncOpenAI) -> None:
    """The same over `/v1/responses`."""
    said = await client.responses.parse(
        model=NAME, input="pick one", text_format=Pick, temperature=1.0, extra_body=BUDGETS
    )
    assert said.output_parsed is not None
    tools: Any = [{"type": "function", "name": "pick", "parameters": Pick.model_json_schema()}]
    forced = await client.responses.create(
        model=NAME,
        input="pick one",
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.0,
        extra_body=BUDGETS,
    )
    call = forced.output[-1]
    assert call.type == "function_call"
    Pick.model_validate_json(call.arguments)


async def test_langchain(served: Served) -> None:
    """`with_structured_output`, by schema and by call, and a tool choice."""

    @tool(args_schema=Pick)
    def pick(size: str, sure: bool) -> str:
        """Pick."""
        return f"{size} {sure}"

    for seed in SEEDS:
        model = ChatElasticReasoning(
            model=NAME,
            base_url=served.url,
            tokenizer=served.folder,
            temperature=1.0,
            seed=seed,
            thinking_budget=12,
            solution_budget=400,
        )
        free = await model.ainvoke("pick one")
        thought = free.additional_kwargs["reasoning_content"]
        for method in ("json_schema", "function_calling"):
            ours: Any = model.with_structured_output(Pick, method=method, include_raw=True)  # type: ignore[arg-type]
            out = await ours.ainvoke("pick one")
            assert isinstance(out["parsed"], Pick), out
            assert_same_thinking(out["raw"].additional_kwargs["reasoning_content"], thought)
        called: Any = await model.bind_tools([pick], tool_choice="pick").ainvoke("pick one")
        assert called.tool_calls
        for call in called.tool_calls:
            Pick.model_validate(call["args"])
