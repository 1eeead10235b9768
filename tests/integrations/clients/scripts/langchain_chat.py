"""LangChain's `ChatOpenAI`."""

from _report import CALLER, MODEL, MOST, QUESTION, TOOL, URL, run
from langchain_openai import ChatOpenAI


def model(key, name=MODEL):
    return ChatOpenAI(model=name, base_url=URL, api_key=key, max_tokens=MOST)


def text(key):
    said = model(key).invoke(QUESTION)
    assert said.usage_metadata["output_tokens"] <= MOST
    return said.text


def tool(key):
    (call,) = model(key, CALLER).bind_tools([TOOL]).invoke(QUESTION).tool_calls
    return call["name"], call["args"]


def stream(key):
    return [chunk.text for chunk in model(key).stream(QUESTION) if chunk.text]


run(text, tool, stream)
