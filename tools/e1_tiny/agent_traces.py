"""Episodes that demonstrate an agent's look-ups, for a supervised stage in front of GRPO on episodes.

The task is `elastic_agent.training.data.lookups`; the styles are those of `traces`. Most
episodes think more than they need to. Some stop thinking in the middle, and then work on in the solution, or
guess.
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


def _think(problem: WordProblem, known: int, read: int, style: Style) -> tuple[list[str], list[int]]:
    """What a style thinks in one turn: the lines that were read and not worked out yet, and where each is."""
    totals = problem.totals
    part = WordProblem(problem.text, totals[known], problem.steps[known:read], problem.pronoun)
    if known == read:
        return words("" if style == "concise" else f"we have {totals[known]} ."), []
    thoughts, ends = think(part, style, first=known)
    return thoughts, ends


def _work(problem: WordProblem, known: int, read: int) -> list[str]:
    """The equations that thinking has left undone, in the solution."""
    totals = problem.totals
    return [
        word
        for i in range(known, read)
        for word in words(f"{equations(problem.steps[i], totals[i], totals[i + 1])} .")
    ]
