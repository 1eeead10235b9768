"""Traces: what a model that thinks would have said, one row each.

    {"question": "What is 2 + 2?", "thinking": "Two and two more: 4.", "solution": "4", "answer": 4}

`question` is text or a conversation that ends with the user; `thinking` may be empty; `answer` is optional,
and read by the check at the end. Every row is checked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastic_agent.errors import DataError

from ..data.answers import Unusable, text_of
from ..data.files import Row, read_rows
from ..data.rows import conversation_of

COLUMNS = ("question", "thinking", "solution")


@dataclass(frozen=True, slots=True)
class Trace:
    """One row.

    Attributes:
        where: the file and line, for messages.
        question: the conversation; its last message is the user's.
        thinking: "" where the answer needs none.
        answer: the reference, None where the row has none.
    """

    where: str
    question: tuple[Mapping[str, str], ...]
    thinking: str
    solution: str
    answer: Any = None

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """The question as a key: rows that ask the same are kept apart together."""
        return tuple((message["role"], message["content"]) for message in self.question)


def read_traces(path: Path, log: Callable[[str], None]) -> list[Trace]:
    """The traces of a file (JSON lines, JSON, CSV or parquet); `log` gets what should be known about them.

    Raises:
        DataError: a file that can't be read or is empty, a row without one of the columns or with something
            else than text in it, or no row with thinking. The message names file and line.
    """
    traces = [_trace(where, row) for where, row in read_rows(path)]
    if not traces:
        raise DataError(f"{path} holds no rows")
    if not any(trace.thinking for trace in traces):
        raise DataError(
            f"{path}: no row has thinking, so nothing in it teaches a model to think; the column `thinking` "
            f"is what the model shall write before it answers"
        )
    _tell(path, traces, log)
    return traces


def _trace(where: str, row: Row) -> Trace:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        there = ", ".join(map(str, row)) or "none"
        raise DataError(f"{where}: no column {', '.join(missing)}. Columns: {there}")
    try:
        question = row["question"]
        messages: Sequence[Mapping[str, str]]
        if isinstance(question, list):
            messages = conversation_of(question)
        else:
            messages = ({"role": "user", "content": text_of(question, "its question")},)
        thinking = text_of(row["thinking"], "its thinking")
        solution = text_of(row["solution"], "its solution")
    except Unusable as why:
        raise DataError(f"{where}: {why}") from None
    for name, text in (("question", messages[-1]["content"]), ("solution", solution)):
        if not text:
            raise DataError(f"{where}: its {name} is empty")
    return Trace(where, tuple(messages), thinking, solution, row.get("answer"))


def _tell(path: Path, traces: Sequence[Trace], log: Callable[[str], None]) -> None:
    empty = sum(not trace.thinking for trace in traces)
    repeats = len(traces) - len({(trace.asked, trace.thinking, trace.solution) for trace in traces})
    said = f"{path}: {len(traces)} traces"
    if empty:
        said += f", {empty} of them without thinking"
    if repeats:
        said += f"; {repeats} repeat an earlier one word for word, and are kept"
    log(said)
