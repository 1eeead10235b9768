"""Load a set: by name from the hub, by name from a file in the same format, or your own file.

Your own file is JSON lines (or a JSON list, CSV, parquet) in UTF-8 with, in every row,
    question   also called problem or prompt: text
    and either
    answer     text or a number; a list means that each entry is right
    or
    tests      [{"input": "1 2\\n", "output": "3\\n"}, ...] for a program on standard input; with entry_point
               (the function's name) input is the list of its arguments; or ["assert f(1) == 2", ...]
and, where you have them, id, starter_code, difficulty, year. Further columns are kept in `Problem.meta`.

In your own file every row must be right: an error names file, line and column. Of a published set, rows that
have no answer or no tests for Python are left out, and a DataWarning says how many and why.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from elastic_agent.errors import DataError

from .answers import Unusable
from .dedup import normalise
from .files import Placed, read_rows
from .rows import OWN, OWN_FILE, problem_of
from .schema import DataWarning, Problem
from .sources import Source, source_named
from .word_problems import Split, make_problems


def load(
    name: str | None = None,
    *,
    path: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    allow_duplicates: bool = False,
) -> list[Problem]:
    """The problems of a set in order.

    Args:
        name: a name of `SOURCES`; None with `path` for your own file.
        path: a file or folder instead of the hub, in the format of either.
        split: instead of the set's usual one.
        limit: stop after this many problems (read from the hub as a stream, so nothing else is fetched).
        allow_duplicates: accept a set of which more than half repeats itself.

    Raises:
        DataError: unknown name, unreadable file, missing column, a set that is empty or mostly duplicates.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, not {limit}")
    if name is None and path is None:
        raise DataError("load() needs the name of a set, or path= for your own file")
    source = OWN if name is None else source_named(name)
    split = split or source.split
    rows = _from_hub(source, split, limit) if path is None else read_rows(path, split)
    at = str(path) if path is not None else f"{source.hub} ({split})"
    left_out: Counter[str] = Counter()
    problems = list(islice(_problems(rows, source, split, left_out), limit))
    if not problems:
        why = f": {_counts(left_out)}" if left_out else ", it has no rows"
        raise DataError(f"{at} gives no problem{why}")
    if left_out:
        warnings.warn(DataWarning(f"{at}: left out {_counts(left_out)}"), stacklevel=2)
    _check_duplicates(problems, at, allow_duplicates)
    return problems


def load_logged(
    name: str,
    log: Callable[[str], None],
    *,
    path: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    allow_duplicates: bool = False,
) -> list[Problem]:
    """`load` for a run: `name` may be `OWN_FILE`, and what `load` warns of goes to `log`, a line each.

    Raises:
        DataError: as `load` does.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        problems = load(
            None if name == OWN_FILE else name,
            path=path,
            split=split,
            limit=limit,
            allow_duplicates=allow_duplicates,
        )
    for warning in caught:
        if issubclass(warning.category, DataWarning):
            log(str(warning.message))
    return problems


def generate(count: int, *, split: Split = "train", seed: int = 0, steps: int | None = None) -> list[Problem]:
    """`count` word problems (the task of e1-tiny), made from `seed`, in the same schema; `steps` is their
    difficulty."""
    return [
        Problem(
            id=f"word-problems/{split}/{seed}/{number}",
            question=problem.text,
            kind="word-problems",
            source="word-problems",
            split=split,
            answer=str(problem.answer),
            difficulty=float(len(problem.steps)),
        )
        for number, problem in enumerate(make_problems(seed, count, split=split, steps=steps))
    ]


def _from_hub(source: Source, split: str, limit: int | None) -> Iterator[Placed]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError("the hub needs `datasets`: pip install 'elastic-agent[train]'") from error
    try:
        rows = load_dataset(source.hub, source.config, split=split, streaming=limit is not None)
        for number, row in enumerate(rows, 1):
            yield f"{source.hub}, row {number}", row
    # Offline, gated, renamed, without this split, cut off: the library has no common base for its errors.
    except Exception as error:
        raise DataError(
            f"{source.name} ({source.hub}, split {split}) can't be had from the hub: "
            f"{type(error).__name__}: {error}. With a copy of it: path=FILE_OR_FOLDER "
            "(data.path in a training config, --path of eval)"
        ) from error


def _problems(
    rows: Iterator[Placed], source: Source, split: str, left_out: Counter[str]
) -> Iterator[Problem]:
    seen: Counter[str] = Counter()
    for number, (where, row) in enumerate(rows):
        if any(key in row and row[key] not in wanted for key, wanted in source.where.items()):
            continue
        try:
            problem = problem_of(where, row, source, split, number)
        except Unusable as why:
            if source is OWN:
                raise DataError(f"{where}: {why}") from None
            left_out[str(why)] += 1
            continue
        if source.years and problem.year and not source.years[0] <= problem.year <= source.years[1]:
            continue
        # Two files of a folder may both count from 0.
        seen[problem.id] += 1
        yield replace(problem, id=f"{problem.id}#{seen[problem.id]}") if seen[problem.id] > 1 else problem


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} rows because {why}" for why, count in left_out.most_common(5))


def _check_duplicates(problems: list[Problem], at: str, allowed: bool) -> None:
    """More than half of a set repeated is a mistake (a file written twice, samples instead of problems)."""
    repeats = len(problems) - len({(normalise(p.question), p.starter_code) for p in problems})
    if repeats * 2 > len(problems) and not allowed:
        raise DataError(
            f"{at}: {repeats} of {len(problems)} problems repeat an earlier one. If that is meant, "
            "pass allow_duplicates=True; deduplicate() removes them (data.deduplicate in a training config)"
        )
    if repeats:
        warnings.warn(
            DataWarning(f"{at}: {repeats} of {len(problems)} problems repeat an earlier one (deduplicate())"),
            stacklevel=3,
        )
