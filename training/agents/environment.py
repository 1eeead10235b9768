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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elastic_agent.tool_calls import HERMES, ToolFormat, split

Row = Mapping[str, Any]
Tool = Callable[..., Any]
"""Called with a call's arguments; returns text, something that json can write, or an awaitable of either."""


class MalformedCallError(ValueError):
    """A solution tries to call a tool and does not manage to; the model then reads what is wrong."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: the tool's name, and its arguments by name."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Parse = Callable[[str], Sequence[ToolCall]]
"""The tool calls of a solution; none makes it the final answer. Raises MalformedCallError."""


def parse_tool_calls(
    solution: str, format: ToolFormat = HERMES, schemas: Sequence[Mapping[str, Any]] = ()
) -> list[ToolCall]:
    """The calls in a solution, as they are read when the model is served (`elastic_agent.tool_calls`).

    Args:
        solution: the answer's text.
        format: how the model writes calls.
        schemas: of the tools, for formats that write arguments as text.

    Raises:
        MalformedCallError: a block that is not closed, or that is no call.
    """
    calls = []
    for call in split(solution, format, schemas)[1]:
        if not call.closed:
            raise MalformedCallError("a {} without {}".format(*format.opens[0]))
        if call.name is None or call.arguments is None:
            raise MalformedCallError(f"a tool call can't be read: {call.wrong}")
        calls.append(ToolCall(call.name, call.arguments))
    return calls


@dataclass(frozen=True, slots=True)
class Episode:
    """One task, from its first message to its final answer. Made anew for every sample: tools may keep state.

    Attributes:
        tools: by name.
        parse: reads the calls out of a solution; None: as the model's chat template has them written.
        schemas: of the tools, as the chat template takes them (`tools=`); empty writes none into the prompt.
        score: what a final answer is worth, for the reward "episode"; None: another reward is used.
        role: in which results go back to the model.
    """

    tools: Mapping[str, Tool]
    parse: Parse | None = None
    schemas: Sequence[Mapping[str, Any]] = ()
    score: Callable[[str], float] | None = None
    role: str = "tool"


Environment = Callable[[Row], Episode]
"""A fresh episode for a row of the data."""
