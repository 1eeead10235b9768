"""The one schema: what a problem is, whichever set it comes from, and what TRL gets to see of it.

A math problem has a reference answer, a code problem has tests, a word problem is one of
`elastic_agent.training.data.word_problems`, one of reasoning-gym has an origin
(`elastic_agent.training.data.gym`). Rows for TRL hold the chat prompt and, beside it, what a reward
needs: every further column reaches the reward functions, one entry a sample. Tests travel as JSON text,
because Arrow wants one type a column and a hub set mixes several forms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from elastic_agent.errors import DataError

Kind = Literal["math", "code", "word-problems", "gym"]

# The instruction of DeepScaleR and of the Elastic Reasoning authors' data script.
MATH_INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."
STDIN_INSTRUCTION = (
    "Write a Python program that reads the input from standard input and prints the output to standard "
    "output. Give the whole program in one ```python block."
)
CALL_INSTRUCTION = (
    "Write Python code that defines `{name}` as described. Give the whole code in one ```python block."
)


class DataWarning(UserWarning):
    """A set was loaded, but something in it should be known: rows left out, duplicates."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a code problem.

    stdin: run the program with `input` on standard input; it must print `output`.
    call: call the problem's entry point with the arguments in `input` (a JSON list); it must return `output`
        (JSON). LeetCode-style problems define it as a method of a class `Solution`.
    assert: run the Python code in `input` after the solution; it must not raise. `output` is empty.
    """

    kind: Literal["stdin", "call", "assert"]
    input: str
    output: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of any set."""

    id: str
    """Unique within its set: "aime24/0"."""
    question: str
    """The problem as its set words it, without our instruction."""
    kind: Kind
    source: str
    """Name of the set."""
    split: str
    """Split of the set that it was read from: "train", "test"."""
    answer: str | None = None
    """Reference answer, None for code: LaTeX without its outer $ signs; several values joined by commas. An
    answer that mixes words and formulas keeps its $ signs."""
    alternatives: tuple[str, ...] = ()
    """Other spellings or roundings that the set accepts as well."""
    tests: tuple[Case, ...] = ()
    entry_point: str | None = None
    """Function that `call` tests call."""
    starter_code: str = ""
    """Code that the set hands out with the problem: a signature, a class to fill in."""
    difficulty: float | None = None
    """On the set's own scale, e.g. 1 to 5 (MATH) or a Codeforces rating; a named one is in `meta`."""
    year: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else the set says and a grader or a report may want: unit, tolerance, contest, level."""
    conversation: tuple[Mapping[str, str], ...] = field(default=(), hash=False)
    """The messages whose last one asks; () where the question stands alone."""
    own: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Columns of a file of the user's own that stay columns of the row."""


def prompt_of(problem: Problem, instruction: str | None = None) -> str:
    """The user message: question, starter code and an instruction ("" for none, None for the usual)."""
    if instruction is None:
        if problem.kind == "math":
            instruction = MATH_INSTRUCTION
        elif problem.kind == "code" and problem.entry_point:
            instruction = CALL_INSTRUCTION.format(name=problem.entry_point)
        else:
            instruction = STDIN_INSTRUCTION if problem.kind == "code" else ""
    parts = [problem.question]
    if (starter := problem.starter_code.strip()) and starter not in problem.question:
        parts.append(f"Start from this code:\n```python\n{problem.starter_code.rstrip()}\n```")
    # One line for a short formula, as the authors have it; a block for code.
    joint = " " if problem.kind == "math" else "\n\n"
    return joint.join(part for part in (*parts, instruction) if part)


def to_rows(problems: Iterable[Problem], instruction: str | None = None) -> list[dict[str, Any]]:
    """Rows for TRL: `prompt` as chat messages, and the columns that reach the reward functions.

    Every row has every column, of one type: id, kind, source, answer (None for code), alternatives (list),
    tests (JSON, see `tests_json`), entry_point, difficulty, year, meta (JSON). Files of the user's own keep
    their further columns; where a row lacks one, it is None.
    """
    problems = list(problems)
    further = dict.fromkeys(name for problem in problems for name in problem.own)
    return [
        {
            **{name: problem.own.get(name) for name in further},
            "prompt": _messages(problem, instruction),
            "id": problem.id,
            "kind": problem.kind,
            "source": problem.source,
            "answer": problem.answer,
            "alternatives": list(problem.alternatives),
            "tests": tests_json(problem),
            "entry_point": problem.entry_point,
            "difficulty": problem.difficulty,
            "year": problem.year,
            "meta": json.dumps(dict(problem.meta), default=str),
        }
        for problem in problems
    ]


def _messages(problem: Problem, instruction: str | None) -> list[dict[str, str]]:
    """The conversation, whose last message asks the question with its instruction."""
    asked = {"role": "user", "content": prompt_of(problem, instruction)}
    return [*(dict(message) for message in problem.conversation[:-1]), asked]


def tests_json(problem: Problem) -> str:
    """The tests of a problem as its grader reads them; "" where there are none.

    Those of code are for `CodeTests.read`; a problem of reasoning-gym has its `Origin`.

    Raises:
        DataError: tests of several kinds.
    """
    if problem.kind == "gym":
        return json.dumps(problem.meta["origin"])
    kinds = {case.kind for case in problem.tests}
    if len(kinds) > 1:
        raise DataError(f"{problem.id} mixes tests of several kinds: {', '.join(sorted(kinds))}")
    entry = problem.entry_point or ""
    if kinds == {"stdin"}:
        return json.dumps({"cases": [[case.input, case.output] for case in problem.tests]})
    if kinds == {"call"}:
        cases = [[json.loads(case.input), json.loads(case.output)] for case in problem.tests]
        return json.dumps({"function": entry, "cases": cases})
    # The grader calls HumanEval's check itself
    program = "\n\n".join(case.input.removesuffix(f"\n\ncheck({entry})\n") for case in problem.tests)
    return json.dumps({"program": program, "entry_point": entry}) if program else ""


def as_dataset(problems: Iterable[Problem], instruction: str | None = None) -> Any:
    """`dataset_of` the rows of problems."""
    return dataset_of(to_rows(problems, instruction))


def dataset_of(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A `datasets.Dataset` of rows; those of `to_rows` are typed alike for every set, so that sets join."""
    from datasets import Dataset, Features, Value

    # large_string: the tests of a code set run to more than the 2 GB that a plain string column can index.
    message = {"role": Value("string"), "content": Value("string")}
    features = Features(
        {
            "prompt": [message],
            "id": Value("string"),
            "kind": Value("string"),
            "source": Value("string"),
            "answer": Value("string"),
            "alternatives": [Value("string")],
            "tests": Value("large_string"),
            "entry_point": Value("string"),
            "difficulty": Value("float64"),
            "year": Value("int64"),
            "meta": Value("large_string"),
        }
    )
    ours = all(row.keys() == features.keys() for row in rows)
    return Dataset.from_list([dict(row) for row in rows], features=features if ours else None)
