"""Word problems about a stock: the task that e1-tiny is trained and measured on.

A problem starts from a stock and changes it line by line ("A shop has 37 apples . #1 It sells 12 .
#2 It gets 3 boxes of 8 pears . How many items are left ?"). Each line carries a single-token label
(#1 to #10), every running total stays within 1 to 99, and the number of lines is the difficulty. Items may
differ from line to line: everything counts, so the same format also adds up the results of other
problems, which is how an agent combines its branches, and a chain simply starts from the last answer.

Everything is drawn from a caller's ``random.Random``, so a seed fixes the data. Splits are disjoint by
construction: the hash of the text says which split a problem belongs to, and drawing for a split rejects
the others.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]

MAX_TOTAL = 99
MAX_STEPS = 10
DIFFICULTIES = (2, 3, 4, 5, 6, 7, 8)

NOUNS = (
    "apples",
    "pears",
    "plums",
    "eggs",
    "books",
    "pens",
    "cups",
    "cakes",
    "lamps",
    "toys",
    "hats",
    "bags",
)
SUBJECTS = (
    ("A shop", "It"),
    ("A store", "It"),
    ("A farm", "It"),
    ("A bakery", "It"),
    ("A market", "It"),
    ("A school", "It"),
    ("Anna", "She"),
    ("Mia", "She"),
    ("Ben", "He"),
    ("Omar", "He"),
)
VERBS_ADD = ("gets", "buys", "finds", "makes")
VERBS_TAKE = ("sells", "loses", "uses", "ships")
PACKS = ("boxes", "packs", "crates")


@dataclass(frozen=True, slots=True)
class Step:
    """One line: `sign` (+1 or -1) times `count` packs of `size`, or plainly `size` when count is None."""

    sign: int
    size: int
    count: int | None
    verb: str
    pack: str
    noun: str

    @property
    def amount(self) -> int:
        return self.size if self.count is None else self.size * self.count

    @property
    def quantity(self) -> str:
        return str(self.size) if self.count is None else f"{self.count} {self.pack} of {self.size}"


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A problem as text, and what a solver needs: its start, its steps and its answer."""

    text: str
    start: int
    steps: tuple[Step, ...]
    pronoun: str

    @property
    def totals(self) -> tuple[int, ...]:
        """The stock before the first line and after each line."""
        totals = [self.start]
        for step in self.steps:
            totals.append(totals[-1] + step.sign * step.amount)
        return tuple(totals)

    @property
    def answer(self) -> int:
        return self.totals[-1]

    @property
    def kind(self) -> str:
        """The kind of call, the key of curves.json: difficulty by number of lines."""
        return f"steps-{len(self.steps)}"


def split_of(text: str) -> Split:
    """Which split a problem text belongs to: 10% test, 10% dev, the rest train."""
    bucket = (
        int.from_bytes(hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8).digest(), "big") % 100
    )
    return "test" if bucket < 10 else "dev" if bucket < 20 else "train"


def make_problem(
    rng: random.Random,
    steps: int | None = None,
    *,
    split: Split | None = None,
    start: int | None = None,
) -> WordProblem:
    """Draw one problem of `steps` lines (None: 2 to 8), from `split` (None: any), starting at `start`."""
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps must be within 1 and {MAX_STEPS}, got {steps}")
    if start is not None and not 1 <= start <= MAX_TOTAL:
        raise ValueError(f"start must be within 1 and {MAX_TOTAL}, got {start}")
    while True:
        problem = _draw(rng, rng.choice(DIFFICULTIES) if steps is None else steps, start)
        if split is None or split_of(problem.text) == split:
            return problem


def make_problems(seed: int, count: int, *, split: Split, steps: int | None = None) -> list[WordProblem]:
    """`count` different problems of a split, the same for the same seed, difficulties in turn."""
    rng = random.Random(seed)
    seen: set[str] = set()
    problems: list[WordProblem] = []
    while len(problems) < count:
        lines = DIFFICULTIES[len(problems) % len(DIFFICULTIES)] if steps is None else steps
        problem = make_problem(rng, lines, split=split)
        if problem.text not in seen:
            seen.add(problem.text)
            problems.append(problem)
    return problems


def combine_problem(parts: Sequence[int], nouns: Sequence[str] = ()) -> WordProblem:
    """The problem that adds up `parts` (2 to 11 numbers whose sum is at most 99): an agent's last call."""
    if not 2 <= len(parts) <= MAX_STEPS + 1 or min(parts) < 1 or sum(parts) > MAX_TOTAL:
        raise ValueError(
            f"need 2 to {MAX_STEPS + 1} numbers of 1 or more with a sum of at most {MAX_TOTAL}: {parts}"
        )
    names = [nouns[i] if i < len(nouns) else NOUNS[i % len(NOUNS)] for i in range(len(parts))]
    steps = tuple(
        Step(1, size, None, "gets", "boxes", noun) for size, noun in zip(parts[1:], names[1:], strict=True)
    )
    return write_problem(parts[0], steps, noun=names[0])


def write_problem(start: int, steps: Sequence[Step], *, noun: str, subject: int = 0) -> WordProblem:
    """Put a start and steps into words. `subject` indexes SUBJECTS."""
    who, pronoun = SUBJECTS[subject]
    mixed = any(step.noun not in ("", noun) for step in steps)
    words = [f"{who} has {start} {noun} ."]
    for label, step in enumerate(steps, 1):
        words.append(
            f"#{label} {pronoun} {step.verb} {step.quantity}{' ' + step.noun if step.noun else ''} ."
        )
    words.append(f"How many {'items' if mixed else noun} are left ?")
    return WordProblem(" ".join(words), start, tuple(steps), pronoun.lower())


_START = re.compile(r"has (\d+) ([a-z]+)")
_LINE = re.compile(r"#\d+ (?:It|She|He) ([a-z]+) (?:(\d+) (boxes|packs|crates) of )?(\d+)(?: ([a-z]+))? ?\.")


def parse_problem(text: str) -> WordProblem:
    """Read a problem back from its text. Raises ValueError when it is not in this format."""
    start, lines = _START.search(text), _LINE.findall(text)
    if start is None or not lines:
        raise ValueError(f"not a word problem: {text!r}")
    steps = []
    for verb, count, pack, size, noun in lines:
        if verb not in VERBS_ADD + VERBS_TAKE:
            raise ValueError(f"unknown verb {verb!r} in {text!r}")
        sign = 1 if verb in VERBS_ADD else -1
        steps.append(Step(sign, int(size), int(count) if count else None, verb, pack or "boxes", noun))
    pronoun = "she" if " She " in text else "he" if " He " in text else "it"
    return WordProblem(text, int(start.group(1)), tuple(steps), pronoun)


_ANSWER = re.compile(r"Answer\s*:\s*(\d(?:\s?\d)*)\s*\.")


def parse_answer(solution: str) -> int | None:
    """The number in a solution's last "Answer : x ." (spaces optional); None when it never got there."""
    found = _ANSWER.findall(solution)
    return int(re.sub(r"\s", "", found[-1])) if found else None


def _draw(rng: random.Random, lines: int, start: int | None) -> WordProblem:
    subject = rng.randrange(len(SUBJECTS))
    noun = rng.choice(NOUNS)
    mixed = rng.random() < 0.4
    total = begin = rng.randint(2, 70) if start is None else start
    steps: list[Step] = []
    while len(steps) < lines:
        step = _draw_step(rng, total, noun, mixed)
        if step is not None:
            steps.append(step)
            total += step.sign * step.amount
    return write_problem(begin, steps, noun=noun, subject=subject)


def _draw_step(rng: random.Random, total: int, noun: str, mixed: bool) -> Step | None:
    """One line that keeps the total within bounds, or None when this draw does not."""
    sign = 1 if rng.random() < (0.65 if total < 35 else 0.4) else -1
    count = rng.randint(2, 6) if rng.random() < 0.3 else None
    if count is not None:
        size = rng.randint(2, 9)
    else:
        size = rng.randint(1, 29) if rng.random() < 0.8 else rng.randint(10, 80)
    after = total + sign * (size if count is None else size * count)
    if not 1 <= after <= MAX_TOTAL:
        return None
    verb = rng.choice(VERBS_ADD if sign > 0 else VERBS_TAKE)
    named = rng.random()
    item = rng.choice(NOUNS) if mixed and named < 0.8 else noun if named < 0.5 else ""
    return Step(sign, size, count, verb, rng.choice(PACKS), item)
