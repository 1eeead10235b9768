"""Tool calls in a solution as pieces of a message, in the shape that LangChain and OpenAI's wire share.

They are looked for in the solution only, and only when the call has tools: a model that thinks about calling
a tool has not called it. What is no call becomes an invalid tool call that holds the text as written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, TypedDict
from uuid import uuid4

from elastic_agent.tool_calls import WrittenCall


class ToolCallPiece(TypedDict):
    """A tool call; of the very shape of LangChain's `ToolCallChunk`.

    `name` is None, and `args` the text as written, where the model wrote no call.
    """

    name: str | None
    args: str | None
    id: str | None
    index: int | None
    type: Literal["tool_call_chunk"]


def pieces_of(calls: Sequence[WrittenCall], first: int) -> list[ToolCallPiece]:
    """Calls as pieces, numbered from `first`."""
    return [
        {
            "name": call.name,
            # LangChain's lenient parser must not complete what is no JSON into a call that the model never
            # made: with its tag in front nothing can
            "args": call.text if call.arguments is None else json.dumps(call.arguments),
            "id": call.id or f"call_{uuid4().hex}",
            "index": index,
            "type": "tool_call_chunk",
        }
        for index, call in enumerate(calls, first)
    ]
