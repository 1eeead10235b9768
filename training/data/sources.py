"""The sets by name: where each lies on the hub, and which of its columns means what.

A field is looked for under several names, because a set's hub copy and the file that the Elastic Reasoning
authors ship differ (question and final_answer here, problem and answer there).

How far each format was checked is said in `Source.checked`, since no test can reach the hub:
    file    against the real file that the authors ship, in every row; the hub columns as for "use"
    card    against the schema on the hub's data card
    use     against the column names in other projects' loading code
Code comes from agentica-org's DeepCoder-Preview-Dataset, which E1-Code was trained on and which is parquet;
BAAI/TACO and livecodebench/code_generation_lite are loading scripts that `datasets` no longer runs. Their
files, and those of likaixin/TACO-verified and PrimeIntellect/verifiable-coding-problems, load by path.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from elastic_agent.errors import DataError

from .answers import Answers, after_hashes, all_of, any_of
from .files import Row
from .schema import Kind

QUESTION = ("problem", "question", "prompt", "Question", "question_content")
ANSWER = ("answer", "Answer", "final_answer")


def codeforces_question(row: Row) -> Any:
    """open-r1's Codeforces has the statement in parts; the examples belong to it."""
    if "description" not in row:
        return None
    if row.get("interaction_format") or row.get("input_mode") not in (None, "stdio"):
        return ""  # nothing here can grade a dialogue or a file
    parts = [str(row["description"] or "")]
    for title, name in (("Input", "input_format"), ("Output", "output_format"), ("Note", "note")):
        parts += [f"{title}\n{row[name]}"] if row.get(name) else []
    examples = row.get("examples")
    for example in examples if isinstance(examples, list) else []:
        if isinstance(example, Mapping):
            parts.append(f"Example input\n{example.get('input')}\nExample output\n{example.get('output')}")
    return "\n\n".join(parts)


def with_context(row: Row) -> Any:
    """OlympiadBench: some questions continue a text that stands in a column of its own."""
    asked = next((row[name] for name in QUESTION if name in row), None)
    context = row.get("context")
    return f"{context}\n\n{asked}" if context and isinstance(asked, str) else asked


@dataclass(frozen=True, slots=True)
class Source:
    """One set."""

    name: str
    kind: Kind
    use: Literal["train", "eval"]
    hub: str
    """Id on huggingface.co/datasets."""
    config: str | None = None
    split: str = "train"
    checked: Literal["file", "card", "use"] = "use"
    rows: int | None = None
    """Problems in the authors' file or on the data card, where that is known."""
    answers: Callable[[Row, Any], Answers] = any_of
    """How its answers are written."""
    question: Callable[[Row], Any] | None = None
    """For a question in several columns; None back means: look under the usual names."""
    where: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, hash=False)
    """Rows to take: column and the values that it may have. A column that a file lacks is not asked."""
    years: tuple[int, int] | None = None
    """First and last year to take."""


DEEPCODER = "agentica-org/DeepCoder-Preview-Dataset"

_ALL = (
    # Training, math. The AIME set's owner asks not to train on it; the paper's data holds the same problems.
    Source(
        "aime-train",
        "math",
        "train",
        "di-zhang-fdu/AIME_1983_2024",
        checked="file",
        rows=975,
        years=(1983, 2023),
    ),
    # No year in it: problems of 2022 and later are found by decontaminate() against "amc" and "aime24".
    Source(
        "amc-train",
        "math",
        "train",
        "AI-MO/NuminaMath-1.5",
        where={
            "source": ("amc_aime",),
            "question_type": ("math-word-problem",),
            "problem_is_valid": ("Yes",),
        },
        years=(1950, 2022),
    ),
    Source("omni-math", "math", "train", "KbsdJames/Omni-MATH", split="test", checked="card", rows=4428),
    Source("still", "math", "train", "RUC-AIBOX/STILL-3-Preview-RL-Data"),
    Source("deepscaler", "math", "train", "agentica-org/DeepScaleR-Preview-Dataset", rows=40315),
    # Training, code.
    Source("taco", "code", "train", DEEPCODER, "taco"),
    Source("synthetic-1", "code", "train", DEEPCODER, "primeintellect"),
    Source("livecodebench-train", "code", "train", DEEPCODER, "lcbv5"),
    # Evaluation, math.
    Source("aime24", "math", "eval", "HuggingFaceH4/aime_2024", checked="file", rows=30),
    Source("math500", "math", "eval", "HuggingFaceH4/MATH-500", split="test", checked="file", rows=500),
    Source("amc", "math", "eval", "AI-MO/aimo-validation-amc", checked="file", rows=83),
    Source(
        "olympiadbench",
        "math",
        "eval",
        "Hothan/OlympiadBench",
        "OE_TO_maths_en_COMP",
        checked="file",
        rows=675,
        answers=all_of,
        question=with_context,
    ),
    Source("minerva", "math", "eval", "math-ai/minervamath", split="test", checked="file", rows=272),
    Source(
        "gsm8k",
        "math",
        "eval",
        "openai/gsm8k",
        "main",
        "test",
        checked="file",
        rows=1319,
        answers=after_hashes,
    ),
    # Evaluation, code. "codeforces" is the authors' 408 problems; "codeforces-rated" has ratings, contests.
    Source("livecodebench", "code", "eval", DEEPCODER, "lcbv5", "test"),
    Source("codeforces", "code", "eval", DEEPCODER, "codeforces", "test", rows=408),
    Source(
        "codeforces-rated",
        "code",
        "eval",
        "open-r1/codeforces",
        "verifiable",
        "test",
        checked="card",
        question=codeforces_question,
    ),
    Source("humaneval+", "code", "eval", "evalplus/humanevalplus", split="test", checked="card", rows=164),
)
SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}


def source_named(name: str) -> Source:
    """The set of this name; spelling is forgiving ("AIME_24"). Raises DataError that names the nearest."""
    known = {re.sub(r"[^a-z0-9+]", "", key): key for key in SOURCES}
    wanted = re.sub(r"[^a-z0-9+]", "", name.lower())
    if wanted in known:
        return SOURCES[known[wanted]]
    near = difflib.get_close_matches(wanted, known, 1)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    raise DataError(f"no data set is called {name!r}; {hint}there are {', '.join(SOURCES)}")
