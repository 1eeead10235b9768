"""Tools may raise, hang, leave, or say too much: the model is lines, and the run goes on."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from elastic_agent.training.agents import MalformedCallError, ToolCall, parse_tool_calls
from elastic_agent.training.agents.tools import Result, run_tools


def one(tool: Callable[..., Any], seconds: float = 5.0, **arguments: Any) -> Result:
    return run_tools([({"tool": tool}, ToolCall("tool", arguments))], seconds=seconds, characters=60)[0]


async def slow(text: str) -> str:
    await asyncio.sleep(0)
    return text


def test_sync_and_async_tools_return_text_or_something_that_json_can_write() -> None:
    assert one(lambda text: text, text="hi") == Result("hi")
    assert one(slow, text="hi") == Result("hi")
    assert one(lambda: {"price": [1, 2]}) == Result('{"price": [1, 2]}')
    assert one(lambda: None) == Result("null")


def test_what_goes_wrong_is_told() -> None:
    async def fails() -> str:
        raise KeyError("no such line")

    assert one(lambda: 1 / 0) == Result("error: ZeroDivisionError: division by zero", failed=True)
    assert one(fails) == Result("error: KeyError: 'no such line'", failed=True)
    assert one(lambda: sys.exit(3)) == Result("error: SystemExit: 3", failed=True)
    assert one(lambda text: text, wrong="hi").text.startswith("error: TypeError: ")
    unknown = run_tools([({"b": slow, "a": slow}, ToolCall("c"))], seconds=5.0, characters=80)
    assert unknown == [Result("error: there is no tool 'c'; there are: a, b", failed=True)]


def test_a_long_result_is_cut_and_says_so() -> None:
    assert one(lambda: "x" * 100) == Result("x" * 60 + " ... cut after 60 characters")


def test_a_tool_that_hangs_holds_nobody_up() -> None:
    """Sync or async, its neighbours' results are there; an async one is cancelled."""
    go, cancelled = threading.Event(), threading.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    tools: dict[str, Callable[..., Any]] = {"sync": go.wait, "async": hangs, "quick": lambda: "here"}
    began = time.monotonic()
    done = run_tools([(tools, ToolCall(name)) for name in tools], seconds=0.1, characters=40)
    late = Result("error: no result within 0.1 s", failed=True)
    assert done == [late, late, Result("here")]
    assert time.monotonic() - began < 30
    go.set()
    assert cancelled.wait(30)


def test_calls_run_side_by_side_and_keep_their_order() -> None:
    meet = threading.Barrier(8)

    def tool(number: int) -> str:
        meet.wait(30)
        return str(number)

    calls = [({"tool": tool}, ToolCall("tool", {"number": n})) for n in range(8)]
    assert [r.text for r in run_tools(calls, seconds=30.0, characters=40)] == [str(n) for n in range(8)]


def test_calls_as_qwen_writes_them() -> None:
    text = 'Let me see. <tool_call>\n{"name": "price", "arguments": {"item": "tea"}}\n</tool_call>'
    assert parse_tool_calls(text) == [ToolCall("price", {"item": "tea"})]
    assert parse_tool_calls(text * 2) == [ToolCall("price", {"item": "tea"})] * 2
    assert parse_tool_calls('<tool_call>{"name": "now"}</tool_call>') == [ToolCall("now")]
    assert parse_tool_calls("It costs 3.") == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('<tool_call>{"name": "price"}', "without </tool_call>"),
        ("<tool_call>price(tea)</tool_call>", "not JSON"),
        ('<tool_call>["price"]</tool_call>', 'an object with "name"'),
        ('<tool_call>{"name": "price", "arguments": "tea"}</tool_call>', "by name"),
    ],
)
def test_a_malformed_call_says_what_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(MalformedCallError, match=wrong):
        parse_tool_calls(text)
