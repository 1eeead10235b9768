"""The agent "lookups", which ships: it answers word problems whose lines it has to look up.

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

from .result import EpisodeResult

_ASKED = re.compile(r"what is (#\d+)\s*\?")
_ANSWER = re.compile(r"Answer : (-?\d+) \.")


async def lookups(row: Mapping[str, Any], llm: Any, turns: int = 6) -> EpisodeResult:
    """Ask the model until it answers.

    Args:
        row: "prompt", the conversation so far; "lines", by which questions are answered; and "answer".
        turns: most calls; the last one must be the answer.
    """
    lines = {line.split()[0]: line for line in row["lines"]}
    messages = [(message["role"], message["content"]) for message in row["prompt"]]
    for turn in range(1, turns + 1):
        said = (await llm.ainvoke(messages, final=turn == turns)).text
        asked = _ASKED.findall(said)
        if not asked:
            break
        found = [lines.get(label, f"{label} is not there .") for label in asked]
        messages += [("assistant", said), *(("user", line) for line in found)]
    answers = _ANSWER.findall(said)
    return EpisodeResult(float(answers[-1:] == [str(row["answer"])]), metrics={"turns": turn})
