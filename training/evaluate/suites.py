"""What is asked and how it is graded: a suite is problems, a grader, and the words that probe for an answer.

The stock problems come with their own grader. A file of the user's own (JSON, or JSON lines, with a question
and an answer in each row) is graded by comparing final answers, unless a grader is named: any function of
(problem, solution text, finished) that says whether it is right.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from elastic_agent.training.evaluate.cues import Cues
from elastic_agent.training.rewards import solution_reward
from elastic_agent.training.stock_problems import DIFFICULTIES, Split, make_problems, parse_answer

SEEDS: dict[Split, int] = {"train": 11, "dev": 22, "test": 44}
"""Which problems of a split are measured on. Weights are chosen on dev. The test problems were drawn anew
(seed 33 before) ahead of measuring the shipped weights: some points of earlier weights had been looked at."""
BOXED = "Let's think step by step and output the final answer within \\boxed{}."
"""What DeepScaleR, L1 and E1 put behind a question."""
QUESTIONS = ("question", "problem", "prompt")
ANSWERS = ("answer", "reference", "solution")


@dataclass(frozen=True, slots=True)
class Item:
    """A problem as an evaluation sees it.

    Attributes:
        id: stays the same from run to run; results are kept under it.
        prompt: the user's message.
        reference: what the grader compares with.
        kind: problems that are alike, for curves and tables.
        row: whatever else the source said (tests of a code problem, say).
    """

    id: str
    prompt: str
    reference: Any
    kind: str = ""
    row: Mapping[str, Any] = field(default_factory=dict, compare=False)


Grader = Callable[[Item, str, bool], bool]
"""(problem, the solution's text, whether it ended by itself within its limit) -> right."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems, how they are graded, and what to say to a model about them.

    Attributes:
        name: of the set; part of what makes a results file this run's.
        items: the problems; ids must differ.
        grade: the grader.
        cues: what strategies say.
        grader: the grader's name, for the results file.
    """

    name: str
    items: Sequence[Item]
    grade: Grader
    cues: Cues = field(default_factory=Cues)
    grader: str = ""

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError(f"{self.name}: there are no problems to evaluate")
        if len({item.id for item in self.items}) < len(self.items):
            raise ValueError(f"{self.name}: two problems have the same id")


def stock_suite(split: Split, count: int, *, each_kind: bool = False) -> Suite:
    """`count` stock problems of a split, or so many of each difficulty."""
    kinds: Sequence[int | None] = DIFFICULTIES if each_kind else (None,)
    if count < 1:
        raise ValueError(f"there are no problems to evaluate: asked for {count}")
    problems = [p for steps in kinds for p in make_problems(SEEDS[split], count, split=split, steps=steps)]
    items = [Item(digest(p.text), p.text, p.answer, p.kind) for p in problems]
    # In e1-tiny's own words: it has no boxes, and answers "Answer : 12 ."
    cues = Cues("wait ,", "Answer :", probe_closes=True, probe_tokens=4, read=_stock_answer)
    return Suite(f"stock {split}", items, stock_grade, cues, "stock")


def stock_grade(item: Item, solution: str, finished: bool) -> bool:
    return solution_reward(solution, finished, item.reference) > 0


def _stock_answer(text: str) -> str | None:
    answer = parse_answer(f"Answer : {text}")
    return None if answer is None else str(answer)


def file_suite(
    path: Path, *, count: int | None = None, instruction: str = BOXED, grader: str | None = None
) -> Suite:
    """Problems from a file; rows that repeat an earlier one are left out.

    Raises:
        ValueError: not JSON, no question or answer in a row, an empty file, or no such grader.
    """
    rows = _rows(path)
    items: dict[str, Item] = {}
    for number, row in enumerate(rows, 1):
        question, answer = _named(row, QUESTIONS), _named(row, ANSWERS)
        if question is None or answer is None:
            has = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise ValueError(
                f"{path}: row {number} needs a question ({', '.join(QUESTIONS)}) and an answer "
                f"({', '.join(ANSWERS)}); it has {has or 'nothing'}"
            )
        prompt = f"{question} {instruction}".strip()
        key = digest(prompt, answer)
        items.setdefault(key, Item(key, prompt, answer, str(row.get("kind") or row.get("level") or ""), row))
    chosen = list(items.values())[:count]
    if not chosen:
        raise ValueError(f"{path}: there are no problems to evaluate")
    grade = load_grader(grader) if grader else exact_grade
    return Suite(path.stem, chosen, grade, grader=grader or "exact")


def load_grader(name: str) -> Grader:
    """A grader by its dotted name, `package.module:function`.

    Raises:
        ValueError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no grader {name!r}; expected package.module:function ({error})") from None
    return found  # type: ignore[no-any-return]


def exact_grade(item: Item, solution: str, finished: bool) -> bool:
    """The final answers are the same, as text or as numbers. Stricter than a mathematician."""
    answer = final_answer(solution)
    return finished and answer is not None and _plain(answer) == _plain(str(item.reference))


def final_answer(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`, or behind the last "Answer:"."""
    at = text.rfind("\\boxed{")
    if at >= 0:
        depth = 0
        for i in range(at, len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0 and text[i] == "}":
                return text[at + 7 : i]
        return None
    found = re.findall(r"answer(?: is)?\s*:\s*([^\n]+)", text, re.IGNORECASE)
    return found[-1] if found else None


def _plain(answer: str) -> str:
    final = final_answer(answer) if "\\boxed{" in answer else answer.split("####")[-1]
    text = re.sub(r"[\s$,]|\\[,;!]|\.$", "", (final or "").strip().rstrip("."))
    try:
        return str(float(text))
    except ValueError:
        return text


def digest(*parts: object) -> str:
    """A short name for what was asked: the same text, the same name."""
    text = "\x00".join(map(str, parts))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _rows(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON list, or one JSON object a line: {error}") from None


def _named(row: Any, names: Sequence[str]) -> Any:
    found = (row.get(name) for name in names) if isinstance(row, dict) else ()
    return next((value for value in found if value not in (None, "")), None)
