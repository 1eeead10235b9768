"""Word problems whose lines are not in the prompt: each must be looked up, by a tool call of an agent.

The environment is `elastic_agent.training.agents.lookup_environment`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from .word_problems import Split, WordProblem, make_problem

STEPS = (1, 2, 3)
"""Lines of a problem, in turn."""

_LINE = re.compile(r"#\d+ [^#]*?\.")


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
