"""Clients that people have, unchanged: openai, langchain-openai, pydantic-ai, curl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from elastic_agent import Caps
from elastic_agent.backends.scripted import Reply
from tests.integrations.gateway.answers.test_answers import CALL, TOOL
from tests.integrations.gateway.conftest import HELLO, Served, Start

MESSAGES: Any = HELLO


class Answer(BaseModel):
    """What is wanted."""

    value: int


async def test_openai_async(start: Start) -> None:
    """Whole and streamed; budgets by extra_body; usage, reasoning and budget arrive; errors are its own."""
    async with (
        start() as served,
        openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none", max_retries=0) as client,
    ):
        said = await client.chat.completions.create(
            model="scripted", messages=MESSAGES, extra_body={"thinking_budget": 5, "solution_budget": 20}
        )
        assert said.choices[0].message.content == "so it is 42"
        assert said.usage is not None
        assert said.usage.completion_tokens_details is not None
        assert said.usage.completion_tokens_details.reasoning_tokens == 5
        assert said.model_extra is not None
        assert said.model_extra["budget"]["calls"][0]["granted"]["thinking"] == 5
        text, reasoning, usage = "", "", None
        stream = await client.chat.completions.create(
            model="scripted",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Elastic-Thinking": "4"},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
        assert (text, reasoning) == ("so it is 42", "hm hm hm hm")
        assert usage is not None
        assert usage.completion_tokens == 10
        completion = await client.completions.create(model="scripted", prompt="hello", max_tokens=20)
        assert completion.choices[0].text == "so it is 42"
        assert [model.id async for model in client.models.list()] == ["scripted"]
        with pytest.raises(openai.NotFoundError, match="no model called"):
            await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="scripted", messages=MESSAGES, temperature=9)
        assert bad.value.param == "temperature"
        await served.exact()


async def test_openai_with_tools_and_structure(start: Start) -> None:
    """Tool calls and parsed answers, as the SDK's helpers want them."""
    async with (
        start(Reply(thinking="hm", solution=CALL)) as served,
        openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none") as client,
    ):
        tools: Any = [TOOL]
        said = await client.chat.completions.create(model="scripted", messages=MESSAGES, tools=tools)
        (call,) = said.choices[0].message.tool_calls or ()
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
        async with client.chat.completions.stream(model="scripted", messages=MESSAGES, tools=tools) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].finish_reason == "tool_calls"
    async with (
        start(Reply(thinking="hm", solution='{"value": 42}')) as served,
        openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none") as client,
    ):
        parsed = await client.chat.completions.parse(
            model="scripted", messages=MESSAGES, response_format=Answer
        )
        assert parsed.choices[0].message.parsed == Answer(value=42)


async def test_openai_sync_with_a_key(start: Start) -> None:
    """The blocking client; a wrong key and a spent one are errors with numbers, and streams end in errors."""
    async with start(no_keys=False) as served:
        key, _ = served.gateway.keys.create("alice", Caps(tokens=40))

        def use() -> None:
            with openai.OpenAI(base_url=served.gateway.url, api_key=key, max_retries=0) as client:
                said = client.chat.completions.create(
                    model="scripted",
                    messages=MESSAGES,
                    extra_body={"thinking_budget": 5, "solution_budget": 9},
                )
                assert said.choices[0].message.content == "so it is 42"
                chunks = client.chat.completions.create(
                    model="scripted", messages=MESSAGES, max_completion_tokens=16, stream=True
                )
                assert any(chunk.choices[0].delta.content for chunk in chunks)
                with pytest.raises(openai.APIStatusError) as spent:
                    client.chat.completions.create(
                        model="scripted", messages=MESSAGES, extra_body={"solution_budget": 39}
                    )
                assert spent.value.status_code == 402
                body: Any = spent.value.body
                assert body["needed"]["tokens"] == 40
            with (
                openai.OpenAI(base_url=served.gateway.url, api_key="ea-wrong") as client,
                pytest.raises(openai.AuthenticationError),
            ):
                client.models.list()

        await asyncio.to_thread(use)
        await served.exact()


@pytest.fixture
async def chat_openai() -> AsyncIterator[Callable[..., ChatOpenAI]]:
    """ChatOpenAI, with connections that end with the test."""
    async with httpx.AsyncClient() as client:
        yield lambda served, **options: ChatOpenAI(
            model="scripted",
            base_url=served.gateway.url,
            api_key=SecretStr("none"),
            http_async_client=client,
            **options,
        )


async def test_chat_openai(chat_openai: Callable[..., ChatOpenAI], start: Start) -> None:
    """LangChain's own model for OpenAI: invoked, streamed, with tools, structured."""
    async with start() as served:
        model = chat_openai(served, extra_body={"thinking_budget": 5}, stream_usage=True)
        message = await model.ainvoke([HumanMessage("hello")])
        assert message.text == "so it is 42"
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_token_details"]["reasoning"] == 5
        text, used = "", 0
        async for chunk in model.astream("hello"):
            text += chunk.text
            used += (chunk.usage_metadata or {"output_tokens": 0})["output_tokens"]
        assert (text, used) == ("so it is 42", 11)
        await served.exact()
    async with start(Reply(thinking="hm", solution='{"value": 7}')) as served:
        model = chat_openai(served)
        assert await model.with_structured_output(Answer, method="json_schema").ainvoke("?") == Answer(
            value=7
        )
    async with start(Reply(solution=CALL)) as served:
        model = chat_openai(served)
        answer = await model.bind_tools([TOOL]).ainvoke("add")
        assert answer.tool_calls[0]["args"] == {"a": 1}


async def test_pydantic_ai(start: Start) -> None:
    """An agent with a tool, streamed text, and a structured answer by a forced tool."""

    def said(prompt: str) -> Reply:
        done = "tool 2" in prompt
        return Reply(thinking="hm", solution="it is 2" if done else CALL)

    @asynccontextmanager
    async def model(served: Served) -> AsyncIterator[OpenAIChatModel]:
        async with openai.AsyncOpenAI(base_url=served.gateway.url, api_key="none") as client:
            yield OpenAIChatModel("scripted", provider=OpenAIProvider(openai_client=client))

    async with start(said) as served, model(served) as ours:
        agent = Agent(ours)
        asked = []

        @agent.tool_plain
        def add(a: int) -> int:
            asked.append(a)
            return a + 1

        result = await agent.run("add one")
        assert (result.output, asked) == ("it is 2", [1])
        assert result.usage.requests == 2
        await served.exact()
    async with start() as served, model(served) as ours, Agent(ours).run_stream("hi") as stream:
        assert await stream.get_output() == "so it is 42"
    forced = Reply(
        thinking="hm", solution=CALL.replace("add", "final_result").replace('"a": 1', '"value": 3')
    )
    async with start(forced) as served, model(served) as ours:
        assert (await Agent(ours, output_type=Answer).run("?")).output == Answer(value=3)


async def test_curl(start: Start) -> None:
    """As the README shows it."""
    async with start() as served:
        command = [
            *("curl", "-sS", "--fail-with-body", f"{served.gateway.url}/chat/completions"),
            *("-H", "Content-Type: application/json", "-H", "X-Elastic-Thinking: 5"),
            *("-d", '{"messages": [{"role": "user", "content": "hello"}]}'),
        ]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "so it is 42"
        streamed = [*command[:-1], '{"messages": [{"role": "user", "content": "hello"}], "stream": true}']
        done = await asyncio.to_thread(subprocess.run, streamed, capture_output=True, text=True, check=False)
        assert done.stdout.rstrip().endswith("data: [DONE]")
        plain = [*command[:4], "-d", "{}"]
        done = await asyncio.to_thread(subprocess.run, plain, capture_output=True, text=True, check=False)
        assert "Content-Type: application/json" in done.stdout
