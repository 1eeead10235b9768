"""Inspect's `openai-api` provider."""

import asyncio

from _report import CALLER, MODEL, MOST, QUESTION, URL, run
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.tool import ToolInfo, ToolParams
from inspect_ai.util import JSONSchema

ADD = ToolInfo(
    name="add",
    description="Adds.",
    parameters=ToolParams(properties={"a": JSONSchema(type="integer")}, required=["a"]),
)


def ask(key, model=MODEL, tools=()):
    config = GenerateConfig(max_tokens=MOST, max_retries=2)
    one = get_model(f"openai-api/elastic/{model}", base_url=URL, api_key=key, config=config, memoize=False)
    return asyncio.run(one.generate(QUESTION, tools=list(tools)))


def text(key):
    return ask(key).completion


def tool(key):
    (call,) = ask(key, CALLER, [ADD]).message.tool_calls
    return call.function, call.arguments


run(text, tool, None)
