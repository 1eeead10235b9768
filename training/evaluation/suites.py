"""What is asked and how it is graded: a suite is problems, a grader, and the words that probe for an answer.

Problems are word problems, or those of `elastic_agent.training.data`: a set by name, or one's own file.
The graders are those of training (`elastic_agent.training.rewards`), so what is rewarded is what is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from elastic_agent.errors import DataError

from ..data import Problem, prompt_of, source_named, tests_json
from ..data.gym import Parameters, gym_problems
from ..data.load import load_logged
from ..data.rows import OWN_FILE
from ..data.word_problems import DIFFICULTIES, Split, make_problems, parse_answer
from ..rewards.grades import Grader
from .runners.custom_graders import grader_of, load_grader
from .strategies.cues import Cues

SEEDS: dict[Split, int] = {"train": 11, "dev": 22, "test": 44}
"""Which problems of a split are measured on. Weights are chosen on dev. The test problems were drawn anew
(seed 33 before) ahead of measuring the shipped weights: some points of earlier weights had been looked at."""


@dataclass(frozen=True, slots=True)
class Item:
    """A problem as an evaluation sees it.

    Attributes:
        id: stays the same from run to run; results are kept under it.
        prompt: the user's message.
        reference: what the grader compares with: an answer, a list of which any is right, or tests.
        kind: problems that are alike, for curves and tables.
        row: whatever else the source said.
        rating: its difficulty on the scale of Codeforces, where the set has it.
    """

    id: str
    prompt: str
    reference: Any
    kind: str = ""
    row: Mapping[str, Any] = field(default_factory=dict, compare=False)
    rating: float | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems, how they are graded, and what to say to a model about them.

    Attributes:
        name: of the set; part of what makes a results file this run's.
        items: the problems; ids must differ.
        grader: its name is part of it too.
        cues: what strategies say.
    """

    name: str
    items: Sequence[Item]
    grader: Grader
    cues: Cues = field(default_factory=Cues)

    def __post_init__(self) -> None:
        if not self.items:
            raise ValueError(f"{self.name}: there are no problems to evaluate")
        if len({item.id for item in self.items}) < len(self.items):
            raise ValueError(f"{self.name}: two problems have the same id")


def word_problem_suite(split: Split, count: int, *, each_kind: bool = False) -> Suite:
    """`count` word problems of a split, or so many of each difficulty."""
    kinds: Sequence[int | None] = DIFFICULTIES if each_kind else (None,)
    if split not in SEEDS:
        raise ValueError(f"word problems have no split {split!r}; there are {', '.join(SEEDS)}")
    if count < 1:
        raise ValueError(f"there are no problems to evaluate: asked for {count}")
    problems = [p for steps in kinds for p in make_problems(SEEDS[split], count, split=split, steps=steps)]
    items = [Item(digest(p.text), p.text, p.answer, p.kind) for p in problems]
    # In e1-tiny's own words: it has no boxes, and answers "Answer : 12 ."
    cues = Cues(
        "wait ,",
        "Answer :",
        probe_closes=True,
        probe_tokens=4,
        read=_word_problem_answer,
        wrap_up="so answer now .",
    )
    return Suite(f"word-problems {split}", items, grader_of("word-problems"), cues)


def _word_problem_answer(text: str) -> str | None:
    answer = parse_answer(f"Answer : {text}")
    return None if answer is None else str(answer)


def set_suite(
    name: str,
    *,
    path: Path | None = None,
    split: str | None = None,
    count: int | None = None,
    instruction: str | None = None,
    grader: str | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Suite:
    """A set by name, or "own" with a path; problems that repeat an earlier one are left out.

    Args:
        name: of the set.
        path: a copy of it, or the file of one's own.
        split: instead of its usual one.
        count: most problems.
        instruction: behind each question instead of the usual words.
        grader: `package.module:function` instead of math-verify or the tests.
        log: gets what there is to say about the set.

    Raises:
        DataError: no such set, it can't be had or read, or it mixes math and code.
        ValueError: no such grader.
        SandboxUnavailable: code, on a machine that can't contain it.
    """
    if name == OWN_FILE and path is None:
        raise DataError("problems of your own need their file: --path FILE")
    if count is not None and count < 1:
        raise ValueError(f"there are no problems to evaluate: asked for {count}")
    limit = count if path is None else None  # from the hub, no more than that is fetched
    problems = load_logged(name, log, path=path, split=split, limit=limit, allow_duplicates=True)
    kinds = sorted({problem.kind for problem in problems})
    if len(kinds) > 1 and not grader:
        raise DataError(f"{path} holds {' and '.join(kinds)} problems: evaluate them apart")
    items = {item.id: item for item in (_item(problem, instruction) for problem in problems)}
    called = path.stem if name == OWN_FILE and path else source_named(name).name
    return Suite(
        called if split is None else f"{called} {split}",
        list(islice(items.values(), count)),
        load_grader(grader) if grader else grader_of(kinds[0]),
    )


def gym_suite(
    families: Mapping[str, Parameters], each: int, *, split: Split = "test", instruction: str | None = None
) -> Suite:
    """`each` problems of each family of reasoning-gym; the kinds are the families.

    Raises:
        DataError: as `gym_problems` does.
    """
    items = [_item(problem, instruction) for problem in gym_problems(families, each, split=split)]
    return Suite(f"gym {split}", items, grader_of("gym"))


def _item(problem: Problem, instruction: str | None) -> Item:
    prompt = prompt_of(problem, instruction)
    reference: Any = tests_json(problem) or problem.answer
    if problem.alternatives:
        reference = [problem.answer, *problem.alternatives]
    meta = problem.meta
    kind = next((str(meta[name]) for name in ("kind", "level", "difficulty") if meta.get(name)), "")
    rating = meta.get("rating") if problem.kind == "code" else None
    return Item(
        digest(prompt, reference),
        prompt,
        reference,
        kind,
        {"id": problem.id, **meta},
        float(rating) if isinstance(rating, int | float) and rating > 0 else None,
    )


def digest(*parts: object) -> str:
    """A short name for what was asked: the same text, the same name."""
    text = "\x00".join(map(str, parts))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
