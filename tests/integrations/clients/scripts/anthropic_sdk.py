"""Anthropic's SDK: thinking, a tool whose result comes back, a stream, tokens counted."""

import anthropic
from _report import CALLER, MESSAGES, MODEL, MOST, PARAMETERS, ROOT, run

TOOLS = [{"name": "add", "description": "Adds.", "input_schema": PARAMETERS}]
THINKING = {"type": "enabled", "budget_tokens": 40}


def client(key):
    return anthropic.Anthropic(base_url=ROOT, api_key=key)


def text(key):
    said = client(key).messages.create(model=MODEL, max_tokens=MOST, messages=MESSAGES, thinking=THINKING)
    assert [block.type for block in said.content] == ["thinking", "text"]
    assert said.usage.output_tokens <= MOST
    counted = client(key).messages.count_tokens(model=MODEL, messages=MESSAGES)
    assert counted.input_tokens == said.usage.input_tokens + said.usage.cache_read_input_tokens
    return said.content[1].text


def tool(key):
    asked = {"model": CALLER, "max_tokens": MOST, "tools": TOOLS, "thinking": THINKING}
    first = client(key).messages.create(messages=MESSAGES, **asked)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "2"}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client(key).messages.create(messages=history, **asked)
    assert second.content[-1].text == "it is 2"
    return call.name, call.input


def stream(key):
    with client(key).messages.stream(
        model=MODEL, max_tokens=MOST, messages=MESSAGES, thinking=THINKING
    ) as events:
        parts = list(events.text_stream)
        final = events.get_final_message()
    assert final.content[-1].text == "".join(parts)
    assert final.content[0].signature
    return parts


run(text, tool, stream)
