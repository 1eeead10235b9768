"""The results file: one JSON line a sample, written as it comes, so that a run can be taken up again.

The first line says which run it is (problems, grader, sampling, seed). A file of another run is refused.
Samples are known by model, strategy, t, s, problem and number; what is there is not drawn again, so a grid
may grow. A process that was killed leaves at most one torn line at the end, which is dropped. While a run
writes, the file is locked.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from elastic_agent.errors import ElasticError

HEADER = "elastic_eval"


class ResultsFileError(ElasticError):
    """A results file that can't be gone on with; says why, and what to do."""


class Key(NamedTuple):
    """What a sample is known by; `t` None is unconstrained."""

    model: str
    strategy: str
    t: int | None
    s: int
    problem: str
    sample: int


@dataclass(frozen=True, slots=True)
class Record:
    """One graded sample. Token counts are those of `elastic_agent.usage.Usage`.

    Attributes:
        right: the grader's word. finished: the solution ended by itself. cut: the close was forced.
        tokens: all that was sampled, kept or not.
        forced: inserted by the strategy (a close, "Wait"); not sampled.
        discarded: sampled, and in no segment; `probes` of them were probes.
        input: prompt tokens of all passes.
        why: the grader's word on what is not right ("wrong answer: test 3: time limit").
        error: how the grader failed, if it did.
    """

    model: str
    strategy: str
    t: int | None
    s: int
    problem: str
    sample: int
    kind: str
    right: bool
    finished: bool
    cut: bool
    tokens: int
    thinking_tokens: int
    solution_tokens: int
    forced: int
    discarded: int
    probes: int
    input: int
    passes: int
    thinking: str
    solution: str
    why: str = ""
    error: str = ""

    @property
    def key(self) -> Key:
        return Key(self.model, self.strategy, self.t, self.s, self.problem, self.sample)


FIELDS = {f.name for f in fields(Record)}


class Results:
    """A results file, open for going on.

    Attributes:
        records: what is there, by key, in the order in which it came.
        dropped: bytes of a torn end that were cut off.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        """Open or begin the file.

        Raises:
            ResultsFileError: it belongs to another run, is damaged, or another process is writing it.
        """
        self.path = Path(path)
        self.records: dict[Key, Record] = {}
        self.models: dict[str, str] = {}
        self.dropped = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ResultsFileError(f"{self.path}: another run is writing this file") from None
            self._read(json.loads(json.dumps(dict(header))))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, record: Record) -> None:
        """Write one sample down; it survives this process being killed."""
        if self.records.setdefault(record.key, record) is record:
            self._write(asdict(record))

    def note_model(self, name: str, files: str) -> None:
        """Which weights stand behind a model's name.

        Raises:
            ResultsFileError: other weights than before.
        """
        if self.models.get(name, files) != files:
            raise ResultsFileError(
                f"{self.path}: {name} had other weights when this file was begun; use another --output"
            )
        if name not in self.models:
            self.models[name] = files
            self._write({"model": name, "files": files})

    def close(self) -> None:
        """Onto the disk, and let go of the lock."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def _read(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        text = self._file.read()
        begins = f'{{"{HEADER}"'.encode()
        if not (text.startswith(begins) or begins.startswith(text)):  # the first line may be torn, too
            raise ResultsFileError(f"{self.path} is not a results file; use another --output")
        rows, good = [], 0
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("torn")
                rows.append(json.loads(line))
            except ValueError:
                if good + len(line) < len(text):
                    raise ResultsFileError(
                        f"{self.path}: line {number} is damaged; repair it or use another --output"
                    ) from None
                break
            good += len(line)
        self.dropped = len(text) - good
        if self.dropped:
            self._file.truncate(good)
        if not rows:
            self._write({HEADER: 1, **header})
            return
        self._check(rows[0], header)
        for number, row in enumerate(rows[1:], 2):
            self._take(row, number)

    def _check(self, found: dict[str, Any], header: dict[str, Any]) -> None:
        for name, value in header.items():
            if found.get(name) != value:
                raise ResultsFileError(
                    f"{self.path} holds another run: its {name} is {found.get(name)!r}, this one's is "
                    f"{value!r}; use another --output"
                )

    def _take(self, row: Any, number: int) -> None:
        if isinstance(row, dict) and row.keys() == {"model", "files"}:
            self.models[row["model"]] = row["files"]
            return
        if not isinstance(row, dict) or row.keys() != FIELDS:
            raise ResultsFileError(f"{self.path}: line {number} is no sample of this version")
        record = Record(**row)
        self.records.setdefault(record.key, record)
