"""Calls that demonstrate an agent's look-ups, for a supervised stage in front of GRPO on episodes.

The task is `elastic_agent.training.data.lookups`; the styles are those of `traces`. Each example is one call
of an episode, as the agent makes it: e1-tiny's chat template leaves out the thinking of earlier answers, so a
call reads the lines that were looked up, and nothing that was worked out before. Only the last call needs to
think; the demonstrations think in all of them. Some stop thinking in the middle, and then work on in the
solution, or guess.
"""

from __future__ import annotations

import random

from elastic_agent.training.data.lookups import lines_of, question
from elastic_agent.training.data.word_problems import WordProblem

from .tokenizer import CLOSE, END, START, THINK
from .traces import STYLE_SHARES, Style, equations, think, words

EARLY_STOP_SHARE, GUESS_SHARE = 0.35, 0.3
"""How often thinking stops early, and how often the rest of the work is then left undone."""


def demonstrate(problem: WordProblem, rng: random.Random) -> tuple[list[str], list[bool]]:
    """One call as words of the tokenizer, and which of them the model says (the loss)."""
    style = rng.choices(list(STYLE_SHARES), weights=list(STYLE_SHARES.values()))[0]
    lines = lines_of(problem)
    read = rng.randrange(len(lines) + 1)
    read = len(lines) if rng.random() < 0.3 else read  # the last call is the hard one
    said: list[str] = [START, "user", *words(question(problem)), END]
    for at, line in enumerate(lines[:read], 1):
        said += [START, "assistant", *words(f"what is #{at} ?"), END, START, "user", *words(line), END]
    said += [START, "assistant", THINK]
    learnt = [False] * len(said)
    turn = [*_turn(problem, read, style, rng), END]
    return said + turn, learnt + [True] * len(turn)


def _turn(problem: WordProblem, read: int, style: Style, rng: random.Random) -> list[str]:
    """Thinking, the close and the solution, once so many lines are read."""
    thinking, ends = _think(problem, read, style)
    known, solution = read, list[str]()
    if rng.random() < EARLY_STOP_SHARE:
        cut = rng.randrange(len(thinking) + 1)
        known, thinking = sum(end <= cut for end in ends), thinking[:cut]
        if read == len(problem.steps) and rng.random() >= GUESS_SHARE:
            solution, known = _work(problem, known, read), read
    if read < len(problem.steps):
        return [*thinking, CLOSE, *words(f"what is #{read + 1} ?")]
    return [*thinking, CLOSE, *solution, *words(f"Answer : {problem.totals[known]} .")]


def _think(problem: WordProblem, read: int, style: Style) -> tuple[list[str], list[int]]:
    """What a style thinks when so many lines are read, and where each of them is worked out."""
    if not read:
        return words("" if style == "concise" else f"we have {problem.start} ."), []
    return think(WordProblem(problem.text, problem.start, problem.steps[:read], problem.pronoun), style)


def _work(problem: WordProblem, known: int, read: int) -> list[str]:
    """The equations that thinking has left undone, in the solution."""
    totals = problem.totals
    return [
        word
        for i in range(known, read)
        for word in words(f"{equations(problem.steps[i], totals[i], totals[i + 1])} .")
    ]
