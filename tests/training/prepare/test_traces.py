"""Traces are checked before anything is loaded; what is wrong is told with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import DataError
from elastic_agent.training.prepare.traces import read_traces
from tests.training.prepare.bases import rows, write

GOOD = {"question": "q", "thinking": "t", "solution": "s"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "solution": "s"}, r"line 2: no column thinking\. Columns: question, solution"),
        (GOOD | {"thinking": None}, "line 2: its thinking must be text, not NoneType"),
        (GOOD | {"solution": 4}, "line 2: its solution must be text, not int"),
        (GOOD | {"solution": " \n"}, "line 2: its solution is empty"),
        (GOOD | {"question": ""}, "line 2: its question is empty"),
        (GOOD | {"question": [{"role": "assistant", "content": "x"}]}, "line 2: .* must end with a message"),
        (GOOD | {"question": [{"role": "user"}]}, "line 2: the user's message must be text"),
        (GOOD | {"thinking": "\ud800"}, "line 2: its thinking holds half a character"),
        ([1], "line 2 must be an object"),
    ],
)
def test_a_bad_row_is_named(row: Any, said: str, tmp_path: Path) -> None:
    """Bad input: the sentence names the file, the line and the column."""
    path = write(tmp_path / "t.jsonl", [GOOD, row])
    with pytest.raises(DataError, match=f"t.jsonl, {said}"):
        read_traces(path, print)


def test_a_bad_file(tmp_path: Path) -> None:
    """No rows, no thinking anywhere, no JSON."""
    with pytest.raises(DataError, match="holds no rows"):
        read_traces(write(tmp_path / "empty.jsonl", []), print)
    with pytest.raises(DataError, match="no row has thinking"):
        read_traces(write(tmp_path / "blank.jsonl", [GOOD | {"thinking": " "}]), print)
    (tmp_path / "broken.jsonl").write_text('{"question": ')
    with pytest.raises(DataError, match="line 1 is not valid JSON"):
        read_traces(tmp_path / "broken.jsonl", print)


def test_what_is_told(tmp_path: Path) -> None:
    """Rows without thinking and rows that repeat are counted; conversations keep their messages."""
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " q "}]
    said: list[str] = []
    lines = [*rows(5), rows(5)[1], GOOD | {"question": asked, "other": 3}]
    traces = read_traces(write(tmp_path / "t.jsonl", lines), said.append)
    assert said == [
        f"{tmp_path / 't.jsonl'}: 7 traces, 2 of them without thinking; 1 repeat an earlier one word for "
        f"word, and are kept"
    ]
    assert [m["content"] for m in traces[-1].question] == ["be brief", "q"]
    assert traces[1].answer == 3
    assert traces[-1].answer is None
