"""OpenAI's SDK: responses."""

import json

import openai
from _report import CALLER, MODEL, MOST, PARAMETERS, QUESTION, URL, run


def client(key):
    return openai.OpenAI(base_url=URL, api_key=key)


def text(key):
    said = client(key).responses.create(model=MODEL, input=QUESTION, max_output_tokens=MOST)
    assert said.usage.output_tokens <= MOST
    return said.output_text


def tool(key):
    tools = [{"type": "function", "name": "add", "parameters": PARAMETERS, "strict": False}]
    said = client(key).responses.create(model=CALLER, input=QUESTION, tools=tools)
    called = next(item for item in said.output if item.type == "function_call")
    return called.name, json.loads(called.arguments)


def stream(key):
    events = client(key).responses.create(model=MODEL, input=QUESTION, max_output_tokens=MOST, stream=True)
    return [event.delta for event in events if event.type == "response.output_text.delta"]


run(text, tool, stream)
