"""Finds the answer in a solution, and reads references: as text, before any mathematics.

A solution has one answer: the last ``\\boxed{...}``; without a box, the text behind the last "answer is" or
"Answer:"; else the last line with text. Earlier boxes don't count, so a solution can't hedge by boxing every
number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
SAID = re.compile(r"answer\s{0,3}(?:is\b\s{0,3}:?|:|=)", re.IGNORECASE)
LONGEST = 2000
"""Most characters of an answer; longer text counts as no answer, since it would only cost time."""


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{}`` of a text; None without a box, or if the box is never closed."""
    found = list(BOX.finditer(text))
    if not found:
        return None
    opened = found[-1]
    depth = 1
    for at in range(opened.end(), min(len(text), opened.end() + LONGEST)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[opened.end() : at].strip()
    return None


def final_answer(solution: str) -> str | None:
    """The answer of a solution, as LaTeX or text to be parsed; None if the solution states nothing."""
    inside = boxed(solution)
    if inside is not None:
        return f"$\\boxed{{{inside}}}$" if inside else None
    if BOX.search(solution):
        return None  # a box that was never closed: cut, or broken
    said = list(SAID.finditer(solution))
    if said:
        answer = solution[said[-1].end() :].lstrip().partition("\n")[0].strip()
    else:
        answer = solution.rstrip().rpartition("\n")[2].strip()
    return answer if 0 < len(answer) <= LONGEST else None


def references(answer: Any) -> list[str]:
    """The right answers that a data set gives; a solution needs to match one of them.

    A number, a text (with or without dollars), or a list of alternatives; GSM8K's worked solutions end in
    ``#### 72``. Raises ValueError when there is none: a sample without a reference can't be graded.
    """
    several: Iterable[Any] = answer if isinstance(answer, list | tuple) else [answer]
    found = [text for one in several if (text := _reference(one))]
    if not found:
        raise ValueError(f"no reference answer in {answer!r}")
    return found


def _reference(answer: Any) -> str:
    if answer is None or isinstance(answer, bool):
        return ""
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    text = str(answer).rsplit("####", 1)[-1].strip().replace("\\$", "")  # a price is a number
    inside = boxed(text)
    return inside if inside is not None else text.removesuffix(".")


def same_text(answer: str, reference: str) -> bool:
    """Whether two answers are the same text but for spaces, dollars and the box; no mathematics is done."""
    inside = boxed(answer)
    return _bare(inside if inside is not None else answer) == _bare(reference) != ""


def _bare(text: str) -> str:
    return re.sub(r"\s+|\$|\\[,!;:]|(?<=\d),(?=\d{3}(?!\d))", "", text).removesuffix(".")
