"""The environment "lookups": word problems whose lines are not in the prompt and must be looked up.

    user       A shop has 37 apples . #1 to #2 . How many apples are left ?
    assistant  what is #1 ?
    user       #1 It sells 12 .
    assistant  what is #2 ?
    user       #2 It gets 3 boxes of 8 .
    assistant  Answer : 49 .

All words are in e1-tiny's vocabulary, so a tool call is a question, and its result is a message of the user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .environment import Episode, MalformedCallError, ToolCall

_ASKED = re.compile(r"what is (#\d+)\s*\?")


def lookup_environment(row: Mapping[str, Any]) -> Episode:
    """The episode of a row: one tool, `line`, which returns a line by its label."""
    lines = {line.split()[0]: line for line in row["lines"]}
    return Episode({"line": lambda label: lines[label]}, parse=parse_questions, role="user")


def parse_questions(solution: str) -> list[ToolCall]:
    """The lines that a solution asks for.

    Raises:
        MalformedCallError: it asks for something else.
    """
    asked = [ToolCall("line", {"label": label}) for label in _ASKED.findall(solution)]
    if not asked and "what" in solution.split():
        raise MalformedCallError("ask like this: what is #1 ?")
    return asked
