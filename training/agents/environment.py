"""What a user writes to train an agent: for each problem an `Episode`, with its tools.

    def shop(row):                                    # a row of the data: "prompt", and columns of your own
        def price(item: str) -> str:                  # sync or async; may raise, may hang
            return str(row["prices"][item])
        return Episode({"price": price}, schemas=[PRICE])

The model's first messages are the row's "prompt". After each turn the episode reads the tool calls out of the
solution, never out of the thinking. A solution without any is the final answer, and ends the episode.
What a tool returns goes back as text: control strings in it (`</think>`, `<|im_end|>`) stay text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
Tool = Callable[..., Any]
"""Called with a call's arguments; returns text, something that json can write, or an awaitable of either."""


class MalformedCallError(ValueError):
    """A solution tries to call a tool and does not manage to; the model is told what is wrong."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: the tool's name, and its arguments by name."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Parse = Callable[[str], Sequence[ToolCall]]
"""The tool calls of a solution; none makes it the final answer. Raises MalformedCallError."""

_CALL = re.compile(r"<tool_call>(.*?)(</tool_call>|$)", re.DOTALL)


def parse_tool_calls(solution: str) -> list[ToolCall]:
    """Calls as Qwen and Hermes models write them: <tool_call>{"name": ..., "arguments": {...}}</tool_call>.

    Raises:
        MalformedCallError: a block that is not closed, no JSON, or without a name and an object of arguments.
    """
    calls = []
    for block in _CALL.finditer(solution):
        if not block[2]:
            raise MalformedCallError("a <tool_call> without </tool_call>")
        try:
            said = json.loads(block[1])
        except ValueError as error:
            raise MalformedCallError(f"a tool call is not JSON: {error}") from None
        if not isinstance(said, dict) or not isinstance(said.get("name"), str):
            raise MalformedCallError('a tool call is an object with "name" and "arguments"')
        arguments = said.get("arguments", {})
        if not isinstance(arguments, dict):
            raise MalformedCallError(f"the arguments of {said['name']} are an object, by name")
        calls.append(ToolCall(said["name"], arguments))
    return calls


@dataclass(frozen=True, slots=True)
class Episode:
    """One task, from its first message to its final answer. Made anew for every sample: tools may keep state.

    Attributes:
        tools: by name.
        parse: reads the calls out of a solution.
        schemas: of the tools, as the chat template takes them (`tools=`); empty writes none into the prompt.
        score: what a final answer is worth, for the reward "episode"; None: another reward is used.
        role: in which results go back to the model.
    """

    tools: Mapping[str, Tool]
    parse: Parse = parse_tool_calls
    schemas: Sequence[Mapping[str, Any]] = ()
    score: Callable[[str], float] | None = None
    role: str = "tool"


Environment = Callable[[Row], Episode]
"""A fresh episode for a row of the data."""
