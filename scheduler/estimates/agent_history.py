"""What tasks of one agent were like: the calls that they made, and how long their final answers were.

    async with scheduler.task(Caps(tokens=8000), agent="researcher") as task: ...

A task that was finished leaves its calls, by kind and in order. A later one of the same agent, which has made
n calls by now, is compared with those of the latest `RUNS` that made at least n. Their upper quartile says
how many are still to come, and their kinds and proportions of which kinds these are. (A quantile for each
kind by itself would add up to more calls than any of them made.) With fewer than `ENOUGH` runs, or where none
was as long, nobody knows.

Tasks that ended in an error, were cancelled or had a call refused teach nothing: where they stopped says
nothing about where such tasks stop. Sub-tasks count in the tasks around them.

`Histories` are those of all agents of a scheduler. They may be kept in a file from one process to the next.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..latency.prefill import quantile_of

RUNS, ENOUGH = 64, 3

CALLS, FINAL_ANSWER = 0.75, 0.9
"""Quantiles: of calls that runs still made, and of the tokens of final answers. To plan for the longest run
leaves most others with too little thinking; a final answer that doesn't fit is lost."""


class History:
    """One agent's finished tasks.

    Attributes:
        final: solution tokens that nine of ten final answers kept to; None: nobody knows.
    """

    def __init__(self) -> None:
        self.runs: deque[tuple[str, ...]] = deque(maxlen=RUNS)
        self.finals: deque[int] = deque(maxlen=RUNS)
        self.final: int | None = None
        self._after: dict[int, Mapping[str, int] | None] = {}

    def learn(self, calls: Sequence[str], final: int | None) -> None:
        """A task is finished.

        Args:
            calls: the kinds of its calls, in the order in which they started; none teaches nothing.
            final: solution tokens of its final answer; None: it had none.
        """
        if not calls:
            return
        self.runs.append(tuple(calls))
        self._after.clear()
        if final is not None:
            self.answered([final])

    def after(self, made: int) -> Mapping[str, int] | None:
        """Calls still to come, by kind, once so many were made; None: nobody knows."""
        if made not in self._after:
            self._after[made] = self._look(made)
        return self._after[made]

    def answered(self, finals: Iterable[int]) -> None:
        """Final answers had so many solution tokens."""
        self.finals.extend(finals)
        self.final = quantile_of(self.finals, FINAL_ANSWER) if len(self.finals) >= ENOUGH else None

    def to_dict(self) -> dict[str, Any]:
        """For a file or a log."""
        return {"runs": list(self.runs), "finals": list(self.finals)}

    def read(self, found: Any) -> None:
        """Take up what `to_dict` gave.

        Raises:
            ValueError, TypeError, KeyError: it is nothing of the sort.
        """
        self.runs.extend(tuple(map(_text, run)) for run in found["runs"])
        self.answered(_numbers(found["finals"]))

    def _look(self, made: int) -> Mapping[str, int] | None:
        if len(self.runs) < ENOUGH:
            return None
        rest = [run[made:] for run in self.runs if len(run) >= made]
        if not rest:
            return None
        return shared_out(
            quantile_of([len(run) for run in rest], CALLS), Counter(k for run in rest for k in run)
        )


def shared_out(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """So many calls among kinds in these proportions; the largest remainders are rounded up."""
    everything = sum(weights.values())
    if not everything:
        return {}
    found = {kind: total * weight // everything for kind, weight in weights.items()}
    by_rest = sorted(weights, key=lambda kind: (-(total * weights[kind] % everything), kind))
    for kind in by_rest[: total - sum(found.values())]:
        found[kind] += 1
    return {kind: count for kind, count in found.items() if count}


class Histories(dict[str, History]):
    """By agent; a name that is new has an empty one.

    Args:
        path: a file that is read now, and written by `save`; None: this process's memory.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        super().__init__()
        self._path = None if path is None else Path(path)
        if self._path is not None and self._path.exists():
            try:
                self._read(json.loads(self._path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
                self.clear()
                warnings.warn(f"{self._path}: not a history of agents, begun anew: {error}", stacklevel=3)

    def __missing__(self, agent: str) -> History:
        return self.setdefault(agent, History())

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: it can't be written.
        """
        if self._path is None:
            return
        agents = {name: one.to_dict() for name, one in self.items()}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        beside.write_text(json.dumps({"version": 1, "agents": agents}), encoding="utf-8")
        beside.replace(self._path)

    def _read(self, found: Any) -> None:
        if found["version"] != 1:
            raise ValueError(f"version {found['version']!r}, not 1")
        for name, one in found["agents"].items():
            self[name].read(one)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a kind of call is text, not {value!r}")
    return value


def _numbers(values: Iterable[Any]) -> Iterable[int]:
    for value in values:
        if type(value) is not int or value < 0:
            raise ValueError(f"a final answer has a whole number of tokens, not {value!r}")
        yield value
