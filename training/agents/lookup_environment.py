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

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.word_problems import Split, WordProblem, make_problem
from .environment import Episode, MalformedCallError, ToolCall

STEPS = (1, 2, 3)
"""Lines of a problem, in turn."""

_LINE = re.compile(r"#\d+ [^#]*?\.")
_ASKED = re.compile(r"what is (#\d+)\s*\?")


def lines_of(problem: WordProblem) -> list[str]:
    """The lines of a problem, each with its label."""
    return _LINE.findall(problem.text)


def question(problem: WordProblem) -> str:
    """The problem without its lines: only how many there are."""
    lines = lines_of(problem)
    before, after = problem.text.split(lines[0])[0], problem.text.split(lines[-1])[1]
    return f"{before}#1 to #{len(lines)} .{after}"


def make_lookup_rows(
    seed: int, count: int, *, split: Split, steps: Sequence[int] = STEPS
) -> list[dict[str, Any]]:
    """Rows for training: a prompt, the hidden lines and the answer; the same for the same seed."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        problem = make_problem(rng, steps[number % len(steps)], split=split)
        prompt = [{"role": "user", "content": question(problem)}]
        rows.append({"prompt": prompt, "lines": lines_of(problem), "answer": problem.answer})
    return rows


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
