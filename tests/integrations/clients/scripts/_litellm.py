"""LiteLLM's SDK, as its users write it, whatever its provider."""

import json

import litellm
from _report import CALLER, MESSAGES, MODEL, MOST, TOOL, run


def try_provider(provider, base):
    """Runs the checks with the models of a provider of LiteLLM's, at a base URL."""

    def ask(key, model=MODEL, **fields):
        return litellm.completion(
            f"{provider}/{model}", MESSAGES, api_base=base, api_key=key, max_tokens=MOST, **fields
        )

    def text(key):
        return ask(key).choices[0].message.content

    def tool(key):
        called = ask(key, CALLER, tools=[TOOL]).choices[0].message.tool_calls[0].function
        return called.name, json.loads(called.arguments)

    def stream(key):
        chunks = ask(key, stream=True)
        return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]

    run(text, tool, stream)
