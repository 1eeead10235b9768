"""smolagents' `OpenAIModel`. With `retry=False`: else it waits one minute, then two, after a 429."""

import json

from _report import CALLER, MODEL, MOST, QUESTION, URL, run
from smolagents import OpenAIModel
from smolagents import tool as as_tool

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]


@as_tool
def add(a: int) -> int:
    """Adds.

    Args:
        a: a number.
    """
    return a + 1


def model(key, name=MODEL):
    return OpenAIModel(name, api_base=URL, api_key=key, max_tokens=MOST, retry=False)


def text(key):
    return model(key).generate(MESSAGES).content


def tool(key):
    # smolagents forces a call by tool_choice="required"
    called = model(key, CALLER).generate(MESSAGES, tools_to_call_from=[add]).tool_calls[0].function
    given = called.arguments
    return called.name, json.loads(given) if isinstance(given, str) else given


def stream(key):
    return [part.content for part in model(key).generate_stream(MESSAGES) if part.content]


run(text, tool, stream)
