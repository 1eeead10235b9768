"""The problems of a training run: word problems without end, or sets by name, joined into one.

`elastic_agent.training.data.load` says what a file of one's own must hold. Repeated problems, and problems
that stand in an evaluation set, are removed from all sets together, and every count is logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from elastic_agent.errors import ConfigError, DataError

from ..config.data import DataConfig
from ..config.fields import named
from . import Deduplicated, Problem, decontaminate, deduplicate, to_rows
from .files import read_rows
from .gym import GYM, gym_problems
from .load import load_logged
from .lookups import make_lookup_rows
from .rows import OWN_FILE
from .sources import SOURCES as SETS
from .word_problems import make_problems

ROWS = "rows"
"""Names a file of the user's own whose rows an agent gets as they are."""
Row = dict[str, Any]
"""One problem: "prompt" (a conversation) and whatever columns the reward reads; an agent's row has any."""
Log = Callable[[str], None]
Source = Callable[[DataConfig, int, int, Log], Sequence[Row]]
"""(config, needed, seed, log) -> problems: `needed` of them from an endless source, all of them from a
set."""


def fresh_word_problems(config: DataConfig, needed: int, seed: int, log: Log) -> list[Row]:
    """Fresh word problems of the train split."""
    problems = make_problems(seed + 1_000_003, needed, split="train")
    return [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in problems]


def fresh_lookups(config: DataConfig, needed: int, seed: int, log: Log) -> list[Row]:
    """Fresh word problems of the train split whose lines must be looked up, for the environment lookups."""
    return make_lookup_rows(seed + 1_000_003, needed, split="train")


def fresh_gym(config: DataConfig, needed: int, seed: int, log: Log) -> list[Row]:
    """Fresh problems of reasoning-gym's families, in turn, of the train split.

    Raises:
        DataError: as `gym_problems` does.
    """
    each = -(-needed // len(config.gym))
    problems = gym_problems(config.gym, each, split="train", seed=seed)
    return to_rows(problems[:needed], config.instruction)


def own_rows(config: DataConfig, needed: int, seed: int, log: Log) -> list[Row]:
    """The rows of a file of one's own as they stand there, for an agent.

    Raises:
        DataError: no path, a file that can't be read, or one without rows.
    """
    if ROWS not in config.path:
        raise DataError("data.source rows: data.path says which file")
    rows = [dict(row) for _, row in islice(read_rows(config.path[ROWS], config.split), config.limit)]
    if not rows:
        raise DataError(f"{config.path[ROWS]} holds no rows")
    log(f"{len(rows)} rows with {', '.join(rows[0])}")
    return rows


def named_sets(config: DataConfig, needed: int, seed: int, log: Log) -> list[Row]:
    """The problems of the sets that a config names, joined in its order.

    Raises:
        DataError: a set that can't be had or read, lacks a column, is empty, or mostly repeats itself.
    """
    problems = [problem for name in config.source for problem in _load(name, config, log)]
    found = Deduplicated(problems, [])
    if config.deduplicate:
        found = deduplicate(problems)
    if config.decontaminate:
        test = [
            problem
            for name in config.decontaminate
            for problem in load_logged(name, log, path=config.path.get(name), allow_duplicates=True)
        ]
        found = decontaminate(found, test)
    if config.deduplicate or config.decontaminate:
        log(str(found))
    if not found.kept:
        raise DataError("data: nothing is left of the problems, they all stand in data.decontaminate's sets")
    kept = Counter(problem.source for problem in found.kept)
    log("problems: " + ", ".join(f"{count} of {name}" for name, count in kept.items()))
    return [
        row
        for problem, row in zip(found.kept, to_rows(found.kept, config.instruction), strict=True)
        for _ in range(config.times.get(problem.source, 1))
    ]


def _load(name: str, config: DataConfig, log: Log) -> list[Problem]:
    if name == OWN_FILE and name not in config.path:
        raise DataError("data.source own: data.path says which file")
    return load_logged(
        name,
        log,
        path=config.path.get(name),
        split=config.split,
        limit=config.limit,
        allow_duplicates=config.deduplicate,
    )


SOURCES: dict[str, Source] = {
    "word-problems": fresh_word_problems,
    "lookups": fresh_lookups,
    GYM: fresh_gym,
    ROWS: own_rows,
    **dict.fromkeys((OWN_FILE, *SETS), named_sets),
}
"""What `data.source` in a config stands for; a new source is an entry here, a new set one in `sources`."""


def source_of(names: Sequence[str]) -> Source:
    """What makes the problems of `data.source`.

    Raises:
        ConfigError: a name that there is not, or sources that can't be joined.
    """
    makers = list(dict.fromkeys(named(SOURCES, name, "data.source") for name in names))
    if len(makers) > 1:
        raise ConfigError(f"data.source: {', '.join(names)} can't be joined: only sets by name, and own, can")
    return makers[0]
