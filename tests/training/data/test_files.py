"""Files as people have them: every format, every way in which one can be broken, and words that help."""

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import DataError
from elastic_agent.training.data import load
from elastic_agent.training.data.files import read_rows

ROWS = [{"question": "1 + 1 = ?", "answer": "2"}, {"question": "¿Qué es 2²? 数\u2028x", "answer": "4"}]


def rows_of(path: Path, split: str | None = None) -> list[Any]:
    return [row for _, row in read_rows(path, split)]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "b.json").write_text("\n".join(lines), encoding="utf-8")  # JSON lines called .json
    (tmp_path / "c.json").write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8")
    (tmp_path / "d.jsonl").write_bytes(("\ufeff" + "\r\n\r\n".join(lines) + "\r\n").encode())
    (tmp_path / "e.JSONL").write_text("\n".join(lines), encoding="utf-8")
    text = "question,answer\r\n" + "\r\n".join(f'"{r["question"]}",{r["answer"]}' for r in ROWS)
    (tmp_path / "f.csv").write_bytes(("\ufeff" + text).encode())
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "g.parquet")
    for file in sorted(tmp_path.iterdir()):
        assert rows_of(file) == ROWS, file.name
        assert [p.answer for p in load(path=file)] == ["2", "4"]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"question": "?", "tests": ["assert f() == 1"]}))
    assert len(rows_of(tmp_path / "one.json")) == 1


def test_places_are_named_as_an_editor_counts(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert [where.rsplit(", ", 1)[1] for where, _ in read_rows(tmp_path / "x.jsonl")] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b'{"question": "?"}\n{"question": \n', "line 2 is not valid JSON"),
        ("x.jsonl", b"[1, 2]\n", "line 1 must be an object with columns, not a list"),
        ("x.jsonl", b'{"a": ' + b"1" * 5000 + b"}", "line 1 is not valid JSON"),
        ("x.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("x.jsonl", b'{"question": "\xff"}', "is not UTF-8 text: byte 14"),
        ("x.json", b'[{"a": 1},', "is not valid JSON"),
        ("x.json", b'{"a": 1}\n{"a": }', "line 2 is not valid JSON"),
        ("x.json", b"", "is not valid JSON"),
        ("x.json", b"3", "must hold a list of objects, not a int"),
        ("x.json", b'["text"]', "item 1 must be an object with columns, not text"),
        ("x.csv", b"a,b\n1,2,3\n", "line 2: more values than columns"),
        ("x.csv", b"a\n" + b"1" * 140_000, "field larger than field limit"),
        ("x.parquet", b"PAR1 and no more", "is not a readable parquet file"),
        ("x.txt", b"hello", "is not one of .json, .jsonl, .csv, .parquet"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{said}"):
        rows_of(tmp_path / name)


def test_a_huge_question_is_just_a_question(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"question": "word " * 1_000_000, "answer": 1}))
    assert len(load(path=tmp_path / "x.jsonl")[0].question) == 4_999_999


def test_a_folder_gives_the_files_of_its_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for name in ("data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000", ".cache/train"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"name": name}))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "README.md").write_text("no data")
    assert [row["name"][-5:] for row in rows_of(folder, "train")] == ["00002", "00002"]
    assert [row["name"] for row in rows_of(folder, "test")] == ["data/test-00000"]
    assert len(rows_of(folder)) == 3
    with pytest.raises(DataError, match="holds files of the split test and none of dev"):
        rows_of(folder, "dev")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        rows_of(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="holds no data file"):
        rows_of(tmp_path)
