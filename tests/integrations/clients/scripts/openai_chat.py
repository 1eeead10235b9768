"""OpenAI's SDK: chat completions."""

import json

import openai
from _report import CALLER, MESSAGES, MODEL, MOST, TOOL, URL, run


def client(key):
    return openai.OpenAI(base_url=URL, api_key=key)


def text(key):
    said = client(key).chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=MOST)
    assert said.usage.completion_tokens <= MOST
    return said.choices[0].message.content


def tool(key):
    said = client(key).chat.completions.create(model=CALLER, messages=MESSAGES, tools=[TOOL])
    called = said.choices[0].message.tool_calls[0].function
    return called.name, json.loads(called.arguments)


def stream(key):
    chunks = client(key).chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=MOST, stream=True
    )
    return [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]


run(text, tool, stream)
