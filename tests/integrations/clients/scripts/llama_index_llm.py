"""LlamaIndex's `OpenAILike`."""

from _report import CALLER, MODEL, MOST, QUESTION, URL, run
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def llm(key, model=MODEL):
    return OpenAILike(
        model=model,
        api_base=URL,
        api_key=key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=1024,
        max_tokens=MOST,
    )


def text(key):
    return llm(key).complete(QUESTION).text


def add(a: int) -> int:
    """Adds."""
    return a + 1


def tool(key):
    one = llm(key, CALLER)
    said = one.chat_with_tools([FunctionTool.from_defaults(add)], QUESTION)
    (call,) = one.get_tool_calls_from_response(said)
    return call.tool_name, call.tool_kwargs


def stream(key):
    return [part.delta for part in llm(key).stream_complete(QUESTION) if part.delta]


run(text, tool, stream)
