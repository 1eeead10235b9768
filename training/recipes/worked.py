"""Worked solutions of families of reasoning-gym, from which a cold start learns to think.

A worked solution is written at one of three lengths, drawn by the problem: in words, in formulas, and as bare
results. A model that was taught all three can trade length for safety, which is what training under budgets
then decides. The three are one computation, so none of them is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from elastic_agent.errors import DataError, did_you_mean

from ..data.gym import Origin
from ..data.schema import Problem

Length = Literal["words", "formulas", "results"]
LENGTHS: Mapping[Length, float] = {"words": 0.5, "formulas": 0.3, "results": 0.2}
"""Shares of the lengths."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a computation at each length."""

    words: str
    formulas: str
    results: str


def trace_of(problem: Problem) -> dict[str, Any]:
    """A row for `elastic-agent prepare`: question, thinking, solution, answer, kind and length.

    Raises:
        DataError: a family that nobody has written worked solutions for.
    """
    origin = Origin(**problem.meta["origin"])
    steps = _family(origin.family)(origin.entry())
    draw = random.Random(problem.id)
    length: Length = draw.choices(list(LENGTHS), list(LENGTHS.values()))[0]
    return {
        "question": problem.question,
        "thinking": "\n".join(getattr(step, length) for step in steps),
        "solution": f"Answer: {problem.answer}",
        "answer": problem.answer,
        "kind": origin.family,
        "length": length,
    }


def check_worked(families: Sequence[str]) -> None:
    """Raise DataError for a family without worked solutions."""
    for family in families:
        _family(family)


def leg_counting(entry: Mapping[str, Any]) -> list[Step]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total, steps = 0, []
    for animal, count in entry["metadata"]["animals"].items():
        legs = ANIMALS[animal]
        total += count * legs
        steps.append(
            Step(
                f"There are {count} of the animal {animal} with {legs} legs each: {count} x {legs} = "
                f"{count * legs} legs. The total is now {total}.",
                f"{animal}: {count} x {legs} = {count * legs}, total {total}",
                f"{count * legs}, {total}",
            )
        )
    return steps


def letter_counting(entry: Mapping[str, Any]) -> list[Step]:
    letter, total, steps = entry["metadata"]["target_letter"], 0, []
    for word in entry["metadata"]["span"]:
        count = word.lower().count(letter)
        total += count
        spelled = " ".join(word)
        steps.append(
            Step(
                f'The word "{word}" is spelled {spelled}, so "{letter}" is in it {count} times. The total is '
                f"now {total}.",
                f"{spelled}: {count}, total {total}",
                f"{word} {count}, {total}",
            )
        )
    return steps


def chain_sum(entry: Mapping[str, Any]) -> list[Step]:
    first, *rest = entry["metadata"]["expression"].split()
    total, steps = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        before, total = total, total + int(term) * (1 if sign == "+" else -1)
        steps.append(
            Step(
                f"The next step is {before} {sign} {term} = {total}, so the result is now {total}.",
                f"{before} {sign} {term} = {total}",
                f"{total}",
            )
        )
    return steps


def word_sequence_reversal(entry: Mapping[str, Any]) -> list[Step]:
    words = list(reversed(entry["metadata"]["words"]))
    return [
        Step(
            f'Going backwards, word {at} of the answer is "{word}".',
            f"{at}: {word}",
            word,
        )
        for at, word in enumerate(words, 1)
    ]


WORKED: Mapping[str, Callable[[Mapping[str, Any]], list[Step]]] = {
    "chain_sum": chain_sum,
    "leg_counting": leg_counting,
    "letter_counting": letter_counting,
    "word_sequence_reversal": word_sequence_reversal,
}


def _family(name: str) -> Callable[[Mapping[str, Any]], list[Step]]:
    if name not in WORKED:
        hint = did_you_mean(name, WORKED)
        raise DataError(
            f"no worked solutions of {name}: {hint}there are {', '.join(WORKED)}; for others, give a file of "
            f"traces to elastic-agent prepare"
        )
    return WORKED[name]
