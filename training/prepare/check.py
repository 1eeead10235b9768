"""What a prepared model does: unseen questions, answered by the two-phase machine at a few budgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.result import Generation

from ..rewards.functions import make_grader
from ..rewards.grades import Sample, grade_finished
from .examples import Example

_TIMES = 2
"""Thinking is uncut up to twice the longest of the traces: a model that does not close would go on until its
context is full."""
_ROOM = 16  # tokens that a limit leaves free for the close


@dataclass(frozen=True, slots=True)
class Limits:
    """The budgets of a check: thinking at 0 or more cuts, then uncut up to `uncut`."""

    cuts: tuple[int, ...]
    uncut: int
    solution: int

    @property
    def all(self) -> tuple[int, ...]:
        return (*self.cuts, self.uncut)


@dataclass(frozen=True, slots=True)
class Cell:
    """What came of all questions at one budget.

    Attributes:
        thinking: the cut in tokens; None: uncut.
        limit: tokens of thinking after which the close was forced.
        closed: share that closed its thinking by itself.
        answered: share whose solution said something and ended by itself.
        right: share of right answers among questions with a reference; None: none has one.
    """

    thinking: int | None
    limit: int
    n: int
    closed: float
    answered: float
    thinking_tokens: float
    solution_tokens: float
    right: float | None = None


def limits_of(examples: Sequence[Example], context: int) -> Limits:
    """Budgets that fit traces: cuts at a quarter and half of the median thinking."""
    lengths = [one.thinking for one in examples if one.trace.thinking]
    prompt, solution = max(one.prompt for one in examples), max(one.solution for one in examples)
    room = max(2, context - prompt - _ROOM)
    solution = min(_TIMES * solution, room // 2)
    uncut = max(1, min(_TIMES * max(lengths), room - solution))
    middle = median(lengths)
    cuts = sorted({max(1, int(middle / 4)), max(1, int(middle / 2))})
    return Limits(tuple(cut for cut in cuts if cut < uncut), uncut, solution)


def check(
    backend: Backend,
    questions: Sequence[Example],
    limits: Limits,
    *,
    seed: int,
    grader: str,
    log: Callable[[str], None],
) -> list[Cell]:
    """Ask every question at every budget, and close the backend.

    Args:
        grader: "math" or "word-problems", for questions with an answer.
        log: gets a line for each budget when it is done.
    """

    async def ask_all() -> list[Cell]:
        cells = []
        try:
            for limit in limits.all:
                began = time.perf_counter()
                jobs = (
                    generate(
                        backend,
                        [dict(message) for message in one.trace.question],
                        Budget(limit, limits.solution),
                        sampling=Sampling(seed=seed + number),
                    )
                    for number, one in enumerate(questions)
                )
                said = await asyncio.gather(*jobs)
                right = await asyncio.to_thread(_right, questions, said, grader)
                cells.append(_cell(None if limit == limits.uncut else limit, limit, said, right))
                spent = time.perf_counter() - began
                log(f"asked with up to {limit} tokens of thinking: {len(said)} answers in {spent:.0f} s")
        finally:
            await backend.aclose()  # after Ctrl-C, too: else its thread decodes on while the program ends
        return cells

    return asyncio.run(ask_all())


def _cell(thinking: int | None, limit: int, said: Sequence[Generation], right: float | None) -> Cell:
    return Cell(
        thinking,
        limit,
        len(said),
        closed=fmean(one.thinking_end is ThinkingEnd.NATURAL for one in said),
        answered=fmean(_ended(one) and one.solution != "" for one in said),
        thinking_tokens=fmean(one.usage.thinking for one in said),
        solution_tokens=fmean(one.usage.solution for one in said),
        right=right,
    )


def _ended(one: Generation) -> bool:
    return one.solution_end is SolutionEnd.EOS


def _right(questions: Sequence[Example], said: Sequence[Generation], kind: str) -> float | None:
    samples = [
        Sample(one.solution, answer=question.trace.answer, finished=_ended(one))
        for question, one in zip(questions, said, strict=True)
        if question.trace.answer not in (None, "")
    ]
    if not samples:
        return None
    grader = make_grader(kind)
    try:
        return fmean(grade.score for grade in grade_finished(grader, samples))
    finally:
        grader.close()


def as_json(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [asdict(cell) for cell in cells]


def table(parts: Sequence[tuple[str, Sequence[Any]]]) -> str:
    """The cells of several models (name, cells as `as_json` has them), one line each."""
    head = ("", "thinking", "closes by itself", "answers", "right", "tokens: thinking", "solution")
    rows = [head]
    for name, cells in parts:
        for cell in cells:
            shown = f"<= {cell['limit']}" if cell["thinking"] is not None else f"uncut (<= {cell['limit']})"
            right = "-" if cell["right"] is None else f"{cell['right']:.0%}"
            tokens = (f"{cell['thinking_tokens']:.0f}", f"{cell['solution_tokens']:.0f}")
            rows.append((name, shown, f"{cell['closed']:.0%}", f"{cell['answered']:.0%}", right, *tokens))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )
