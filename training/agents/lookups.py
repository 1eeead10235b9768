"""A small task for agents: stock problems whose lines are not in the prompt and must be looked up.

    user       A shop has 37 apples . #1 to #2 . How many apples are left ?
    assistant  what is #1 ?
    user       #1 It sells 12 .
    assistant  what is #2 ?
    user       #2 It gets 3 boxes of 8 .
    assistant  Answer : 49 .

The words are those of e1-tiny's vocabulary: a call is a question, and its result comes as a user's message.
`demonstrate` draws whole episodes for a supervised stage, in the styles of `elastic_agent.training.traces`:
most of them think more than they need to, some stop in the middle and work on in the solution, or guess.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.stock_problems import Problem, Split, make_problem
from ..tokenizer import CLOSE, END, START, THINK
from ..traces import STYLE_SHARES, Style, equations, think, words
from .environment import Episode, MalformedCallError, ToolCall

STEPS = (1, 2, 3)
"""Lines of a problem, in turn."""
EARLY_STOP_SHARE, GUESS_SHARE = 0.35, 0.3
"""How often thinking stops early, and how often the work left over is then left undone."""

_LINE = re.compile(r"#\d+ [^#]*?\.")
_ASKED = re.compile(r"what is (#\d+)\s*\?")


def lines_of(problem: Problem) -> list[str]:
    """The lines of a problem, each with its label."""
    return _LINE.findall(problem.text)


def question(problem: Problem) -> str:
    """The problem without its lines: only how many there are."""
    lines = lines_of(problem)
    before, after = problem.text.split(lines[0])[0], problem.text.split(lines[-1])[1]
    return f"{before}#1 to #{len(lines)} .{after}"


def make_lookups(
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


def look_up(row: Mapping[str, Any]) -> Episode:
    """The environment "lookups": one tool, which says a line by its label."""
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


def demonstrate(problem: Problem, rng: random.Random) -> tuple[list[str], list[bool]]:
    """One whole episode as words of the tokenizer, and which of them the model says (the loss)."""
    style = rng.choices(list(STYLE_SHARES), weights=list(STYLE_SHARES.values()))[0]
    said: list[str] = [START, "user", *words(question(problem)), END, START, "assistant", THINK]
    learnt = [False] * len(said)
    known, lines = 0, lines_of(problem)  # known: lines whose total stands somewhere in the episode
    for read in range(len(lines) + 1):
        thinking, ends = _think(problem, known, read, style)
        solution: list[str] = []
        if rng.random() < EARLY_STOP_SHARE:
            cut = rng.randrange(len(thinking) + 1)
            known, thinking = known + sum(end <= cut for end in ends), thinking[:cut]
            if rng.random() >= GUESS_SHARE:
                solution = _work(problem, known, read)
                known = read
        else:
            known = read
        if read < len(lines):
            solution += words(f"what is #{read + 1} ?")
        else:
            solution += words(f"Answer : {problem.totals[known]} .")
        turn = [*thinking, CLOSE, *solution, END]
        said += turn
        learnt += [True] * len(turn)
        if read < len(lines):
            reply = [START, "user", *words(lines[read]), END, START, "assistant", THINK]
            said += reply
            learnt += [False] * len(reply)
    return said, learnt


def _think(problem: Problem, known: int, read: int, style: Style) -> tuple[list[str], list[int]]:
    """What a style thinks in one turn: the lines that were read and not worked out yet, and where each is."""
    totals = problem.totals
    part = Problem(problem.text, totals[known], problem.steps[known:read], problem.pronoun)
    if known == read:
        return words("" if style == "concise" else f"we have {totals[known]} ."), []
    thoughts, ends = think(part, style, first=known)
    return thoughts, ends


def _work(problem: Problem, known: int, read: int) -> list[str]:
    """The equations that thinking has left undone, in the solution."""
    totals = problem.totals
    return [
        word
        for i in range(known, read)
        for word in words(f"{equations(problem.steps[i], totals[i], totals[i + 1])} .")
    ]
