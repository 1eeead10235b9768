"""Reasoning traces for the supervised base: a model that overthinks, in mixed styles.

Styles differ in how many thinking tokens one line of a problem costs: concise (an equation), plain (a
clause and an equation), verbose (and a comment), overthinking (and a check of each line, then all lines
again). A share of the traces stops thinking early, at any token, also inside a number; then the solution
either guesses the total reached so far, or starts again from the first line, or goes on from the first
unfinished line. The last is the seed of what E1 reinforces; a base that does it only sometimes is what
E1 is compared with.

Solutions explain in whole sentences, about 21 tokens a line: a short solution limit alone cannot solve a
long problem, so thinking tokens are worth something.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

from elastic_agent.training.data.word_problems import Step, WordProblem

Style = Literal["overthinking", "verbose", "plain", "concise"]

STYLE_SHARES: dict[Style, float] = {"overthinking": 0.40, "verbose": 0.25, "plain": 0.20, "concise": 0.15}
EARLY_STOP_SHARE = 0.14
EARLY_AT_ZERO_SHARE = 0.15
GUESS_SHARE, RESTART_SHARE = 0.50, 0.15
RESTATE_SHARE = 0.60

TOKEN = r"#\d+|\d|[A-Za-z]+|[^\sA-Za-z\d]"
"""A token of e1-tiny, as a pattern: a line's name, a digit, a word, or one other character."""
_TOKEN = re.compile(TOKEN)


def words(text: str) -> list[str]:
    """Split as the tokenizer does: labels and words whole, digits and signs one by one."""
    return _TOKEN.findall(text)


@dataclass(frozen=True, slots=True)
class Trace:
    """What the assistant says, as tokenizer words. `early` marks thinking that stopped before its end."""

    thinking: tuple[str, ...]
    solution: tuple[str, ...]
    style: Style
    early: bool


def render_trace(
    problem: WordProblem, rng: random.Random, *, style: Style | None = None, early: bool | None = None
) -> Trace:
    """Draw one trace of a problem; style and early stop are drawn by their shares unless given."""
    chosen = style or rng.choices(list(STYLE_SHARES), weights=list(STYLE_SHARES.values()))[0]
    thinking, ends = think(problem, chosen)
    stops = rng.random() < EARLY_STOP_SHARE if early is None else early
    if not stops:
        restated = 0
        if rng.random() < RESTATE_SHARE:
            restated = rng.randint(1, min(4, len(problem.steps)))
        return Trace(tuple(thinking), solve(problem, len(problem.steps) - restated), chosen, False)
    cut = 0 if rng.random() < EARLY_AT_ZERO_SHARE else rng.randrange(ends[-1])
    done = sum(end <= cut for end in ends)
    draw = rng.random()
    if draw < GUESS_SHARE:
        solution = tuple(words(f"Answer : {problem.totals[done]} ."))
    elif draw < GUESS_SHARE + RESTART_SHARE:
        solution = solve(problem, 0)
    else:
        solution = solve(problem, done)
    return Trace(tuple(thinking[:cut]), solution, chosen, True)


def think(problem: WordProblem, style: Style, first: int = 0) -> tuple[list[str], list[int]]:
    """The thinking words of a style, and for each line the position at which its total is known.

    `first` counts lines that came before this problem's: its own are labelled from the next number on.
    """
    totals = problem.totals
    spoken: list[str] = []
    ends: list[int] = []
    if style in ("overthinking", "verbose"):
        spoken += words(f"Okay , let me think . the start is {problem.start} .")
    elif style == "plain":
        spoken += words(f"start {problem.start} .")
    for i, step in enumerate(problem.steps):
        before, after = totals[i], totals[i + 1]
        if style == "concise":
            spoken += words(f"#{first + i + 1} {equations(step, before, after)} .")
        else:
            spoken += words(
                f"#{first + i + 1} : {_clause(problem, step)} , {equations(step, before, after)} ."
            )
        ends.append(len(spoken))
        if style == "verbose":
            spoken += words(f"so now we have {after} .")
        elif style == "overthinking":
            undo = "-" if step.sign > 0 else "+"
            spoken += words(f"wait , is that right ? {after} {undo} {step.amount} = {before} , yes .")
    if style == "overthinking":
        spoken += words("let me check all again .")
        for i, step in enumerate(problem.steps):
            spoken += words(f"#{first + i + 1} {equations(step, totals[i], totals[i + 1])} .")
    if style != "concise":
        spoken += words(f"so it is {problem.answer} .")
    return spoken, ends


def solve(problem: WordProblem, first: int) -> tuple[str, ...]:
    """A solution that goes on from line index `first` (len(steps): the answer alone)."""
    totals = problem.totals
    said: list[str] = []
    for i in range(first, len(problem.steps)):
        step = problem.steps[i]
        product = f"{step.count} * {step.size} = {step.amount} , " if step.count is not None else ""
        total = _sum(step, totals[i], totals[i + 1])
        said += words(f"#{i + 1} : {_clause(problem, step)} , {product}so we have {total} .")
    return tuple(said + words(f"Answer : {problem.answer} ."))


def _clause(problem: WordProblem, step: Step) -> str:
    return f"{problem.pronoun} {step.verb} {step.quantity}"


def _sum(step: Step, before: int, after: int) -> str:
    return f"{before} {'+' if step.sign > 0 else '-'} {step.amount} = {after}"


def equations(step: Step, before: int, after: int) -> str:
    """The arithmetic of a line: "3 * 8 = 24 , 25 + 24 = 49"."""
    product = f"{step.count} * {step.size} = {step.amount} , " if step.count is not None else ""
    return product + _sum(step, before, after)
