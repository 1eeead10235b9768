"""The OpenAI Agents SDK: an agent with a function tool, on the Responses API, as it is by default."""

import asyncio

import openai
from _report import CALLER, MODEL, MOST, QUESTION, URL, run
from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)
asked = []


@function_tool(strict_mode=False)
def add(a: int) -> int:
    """Adds."""
    asked.append(a)
    return a + 1


def agent(key, model, tools=()):
    client = openai.AsyncOpenAI(base_url=URL, api_key=key)
    return Agent(
        name="one",
        model=OpenAIResponsesModel(model, client),
        tools=list(tools),
        model_settings=ModelSettings(max_tokens=MOST),
    )


def text(key):
    return Runner.run_sync(agent(key, MODEL), QUESTION).final_output


def tool(key):
    """Two turns: the second brings the first one's items back."""
    assert Runner.run_sync(agent(key, CALLER, [add]), QUESTION).final_output == "it is 2"
    return "add", {"a": asked[0]}


def stream(key):
    async def parts():
        events = Runner.run_streamed(agent(key, MODEL), QUESTION).stream_events()
        raw = [event.data async for event in events if event.type == "raw_response_event"]
        return [data.delta for data in raw if data.type == "response.output_text.delta"]

    return asyncio.run(parts())


run(text, tool, stream)
