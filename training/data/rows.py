"""One row of a set, whatever its columns are called, read into a `Problem`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from elastic_agent.errors import DataError

from .answers import Unusable, text_of
from .cases import COLUMNS, has_cases, read_cases
from .files import Row
from .schema import Case, Problem
from .sources import ANSWER, QUESTION, Source

OWN_FILE = "own"
"""Names a file of the user's own where a set is named."""
OWN = Source(OWN_FILE, "math", "train", hub="")
ID = ("id", "ID", "unique_id", "task_id", "question_id", "problem_id", "idx")
# Kept in Problem.meta; the rest of a published set (solutions, model outputs) is not carried along.
KEPT = (
    *("unit", "error", "answer_type", "is_multiple_answer", "subfield", "subject", "level", "type", "domain"),
    *("url", "platform", "contest_id", "contest_date", "contest_start", "rating", "index", "tags"),
    *("time_limit", "memory_limit", "generated_checker", "official_tests_complete"),
)
ROLES = ("system", "user", "assistant")
READ = {*QUESTION, *ANSWER, *COLUMNS, *ID, "starter_code", "entry_point", "solution", "private_test_cases"}

# Columns of a row that are made here; what else an own file has stays beside them.
TAKEN = {
    *READ,
    *("messages", "prompt", "kind", "source", "alternatives", "tests", "difficulty", "year", "meta"),
}


def problem_of(where: str, row: Row, source: Source, split: str, number: int) -> Problem:
    """The problem of a row.

    Args:
        where: the file and line, for errors.
        number: of the row, from 0; its id where the row has none.

    Raises:
        Unusable: this row holds no problem; says why.
        DataError: a column is missing, which then is missing in every row.
    """
    asked = source.question(row) if source.question else None
    if asked is None:
        asking = (*QUESTION, "messages") if source is OWN else QUESTION
        asked = row[_column(where, row, asking, "question")]
    conversation: tuple[dict[str, str], ...] = ()
    if source is OWN and isinstance(asked, list):
        conversation = conversation_of(asked)
        asked = conversation[-1]["content"]
    if asked is None or not (question := text_of(asked, "the question")):
        raise Unusable("its question is empty")
    code = source.kind == "code" or (source is OWN and has_cases(row))
    answer: str | None = None
    alternatives: tuple[str, ...] = ()
    tests: tuple[Case, ...] = ()
    entry: str | None = None
    if code:
        _column(where, row, COLUMNS, "tests")
        tests, entry = read_cases(row)
    else:
        # "tests" is named too, where it might have been meant.
        names = (*ANSWER, "tests") if source is OWN else ANSWER
        answer, alternatives = source.answers(row, row[_column(where, row, names, "answer")])
        if answer is None:
            raise Unusable("it has no answer or tests that can be checked")
    name = next((row[key] for key in ID if row.get(key) not in (None, "")), number)
    return Problem(
        id=f"{source.name}/{text_of(str(name), 'the id')}",
        question=question,
        kind="code" if code else "math",
        source=source.name,
        split=split,
        answer=answer,
        alternatives=alternatives,
        tests=tests,
        entry_point=entry,
        starter_code=_starter(row),
        difficulty=_number(row, "difficulty", "level", "rating"),
        year=_year(row),
        meta=_meta(row, source),
        conversation=conversation,
        own={name: row[name] for name in row if name not in TAKEN} if source is OWN else {},
    )


def conversation_of(messages: list[Any]) -> tuple[dict[str, str], ...]:
    """Messages of {"role", "content"}, the last one the user's. Raises Unusable for others."""
    found = []
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise Unusable(
                f'its conversation must hold {{"role": one of {", ".join(ROLES)}, "content": text}}'
            )
        content = text_of(message.get("content"), f"the {message['role']}'s message")
        found.append({"role": str(message["role"]), "content": content})
    if not found or found[-1]["role"] != "user":
        raise Unusable("its conversation must end with a message of the user")
    return tuple(found)


def _column(where: str, row: Row, names: Sequence[str], what: str) -> str:
    """The first of `names` that the row has. Raises DataError that names the nearest column there is."""
    for name in names:
        if name in row:
            return name
    near = [
        (difflib.SequenceMatcher(None, str(key).lower(), name).ratio(), key) for key in row for name in names
    ]
    nearest = max(near, default=(0.0, ""), key=lambda pair: pair[0])
    hint = f'; the nearest is "{nearest[1]}"' if nearest[0] > 0.6 else ""
    listed = ", ".join(dict.fromkeys(name.lower() for name in names[:4]))
    there = ", ".join(map(str, islice(row, 20))) or "none"
    raise DataError(f"{where}: no column for the {what} ({listed}){hint}. Columns: {there}")


def _starter(row: Row) -> str:
    # HumanEval's prompt is the code to complete: the signature and its docstring.
    code = row.get("starter_code") or (row.get("prompt") if "canonical_solution" in row else "")
    if not isinstance(code, str):
        return ""
    text_of(code, "the starter code")
    return code


def _number(row: Row, *names: str) -> float | None:
    for name in names:
        try:
            value = float(row[name])
        except (KeyError, TypeError, ValueError):
            continue
        # -1 is the authors' "unknown".
        if math.isfinite(value) and value >= 0:
            return value
    return None


def _year(row: Row) -> int | None:
    for name in ("year", "Year", "contest_start_year", "contest_date", "url"):
        pattern = r"/((?:19|20)\d\d)_" if name == "url" else r"^((?:19|20)\d\d)(?!\d)"
        if found := re.search(pattern, str(row.get(name) or "")):
            return int(found[1])
    return None


def _meta(row: Row, source: Source) -> Mapping[str, Any]:
    names = [name for name in row if name not in READ] if source is OWN else KEPT
    kept = {name: row[name] for name in names if row.get(name) not in (None, "", [])}
    if isinstance(row.get("difficulty"), str):
        kept["difficulty"] = row["difficulty"]
    return kept
