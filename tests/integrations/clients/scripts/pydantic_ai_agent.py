"""Pydantic AI: an agent with a tool."""

import asyncio

from _report import CALLER, MODEL, MOST, QUESTION, URL, run
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

asked = []


def agent(key, model):
    provider = OpenAIProvider(base_url=URL, api_key=key)
    return Agent(OpenAIChatModel(model, provider=provider), model_settings={"max_tokens": MOST})


def text(key):
    return agent(key, MODEL).run_sync(QUESTION).output


def tool(key):
    one = agent(key, CALLER)

    @one.tool_plain
    def add(a: int) -> int:
        """Adds."""
        asked.append(a)
        return a + 1

    assert one.run_sync(QUESTION).output == "it is 2"
    return "add", {"a": asked[0]}


def stream(key):
    async def parts():
        async with agent(key, MODEL).run_stream(QUESTION) as said:
            return [part async for part in said.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(parts())


run(text, tool, stream)
