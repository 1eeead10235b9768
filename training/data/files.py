"""Rows out of files: JSON, JSON lines, CSV and parquet, one file or a folder of them.

Every row comes with words that say where it stood, so that an error about it can name file and line.
Encodings are UTF-8, with or without a byte-order mark; Windows line ends are fine; blank lines are skipped.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from elastic_agent.errors import DataError

Row = Mapping[str, Any]
Placed = tuple[str, Row]
"""Where a row stood ("mine.jsonl, line 3") and the row."""


SPLITS = {"train", "test", "dev", "val", "validation"}


def read_rows(path: str | Path, split: str | None = None) -> Iterator[Placed]:
    """The rows of a file, or of the files of a folder in order of their names.

    A folder whose files are named after splits (train-00000.parquet, test.jsonl) gives those of `split` only,
    and is an error when it has files of other splits alone: nobody should train on a test set by accident.
    Raises DataError for what can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    for file in _files(path, split) if path.is_dir() else [path]:
        reader = READERS.get(file.suffix.lower())
        if reader is None:
            raise DataError(f"{file} is not one of {', '.join(READERS)}")
        try:
            yield from reader(file)
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 text: byte {error.start} is {error.reason}") from error
        except OSError as error:
            raise DataError(f"{file} can't be read: {error}") from error


def _files(folder: Path, split: str | None) -> list[Path]:
    """Data files below a folder; what the hub's tools write beside them (dataset_info.json) is not data."""
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in READERS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.stem not in ("dataset_info", "dataset_infos", "dataset_dict", "state")
    ]
    if not found:
        raise DataError(f"{folder} holds no data file ({', '.join(READERS)})")
    words = {file: set(re.split(r"[^a-z]+", file.stem.lower())) for file in found}
    named = [file for file in found if split in words[file]]
    if split and not named and (others := SPLITS.intersection(set().union(*words.values()))):
        raise DataError(f"{folder} holds files of the split {min(others)} and none of {split}; pass split=")
    return named or found


def _json(file: Path) -> Iterator[Placed]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Many sets call JSON lines ".json". One that starts with a list was meant as a list.
        if text.lstrip().startswith("{") and isinstance(error, json.JSONDecodeError) and error.lineno > 1:
            yield from _lines(file, io.StringIO(text))
            return
        raise DataError(f"{file} is not valid JSON: {error}") from error
    if isinstance(items, Mapping):
        wrapped = next((items[key] for key in ("data", "rows", "problems") if key in items), None)
        items = wrapped if isinstance(wrapped, list) else [items]
    if not isinstance(items, list):
        raise DataError(f"{file} must hold a list of objects, not {_type(items)}")
    for number, item in enumerate(items, 1):
        yield _checked(f"{file}, item {number}", item)


def _jsonl(file: Path) -> Iterator[Placed]:
    with file.open(encoding="utf-8-sig") as lines:
        yield from _lines(file, lines)


def _lines(file: Path, lines: Iterable[str]) -> Iterator[Placed]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number} is not valid JSON: {error}") from error
            yield _checked(f"{file}, line {number}", item)


def _csv(file: Path) -> Iterator[Placed]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        try:
            for row in reader:
                if None in row:
                    raise DataError(f"{file}, line {reader.line_num}: more values than columns")
                yield f"{file}, line {reader.line_num}", row
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num}: {error}; JSON lines has no limits") from error


def _parquet(file: Path) -> Iterator[Placed]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{file}: parquet needs pyarrow (pip install 'elastic-agent[train]')") from error
    try:
        number = 0
        # Small batches: one row of a code set may hold tens of megabytes of tests.
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except arrow.ArrowException as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error


def _checked(where: str, item: Any) -> Placed:
    if not isinstance(item, Mapping):
        raise DataError(f"{where} must be an object with columns, not {_type(item)}")
    return where, item


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
