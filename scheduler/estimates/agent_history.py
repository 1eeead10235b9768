"""What earlier tasks of an agent were like: their calls, and how long their final answers were.

    async with scheduler.task(Caps(tokens=8000), agent="researcher") as task: ...

A finished task leaves the kinds of its calls, in order. A later task of the same agent that has made n calls
is compared with those of the latest `RUNS` tasks that made at least n. Their upper quartile says how many
calls are still to come, and the proportions of their kinds say which. (A quantile for each kind by itself
would add up to more calls than any of the tasks made.) With fewer than `ENOUGH` tasks, or where no task was
as long, nothing is known.

A task that ended in an error, was cancelled or had a call refused teaches nothing, since such tasks don't
stop where others would. The calls of sub-tasks count in the tasks around them.

`Histories` holds the histories of all agents of a scheduler. A file may keep them from one process to the
next.
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
"""Quantiles: of the calls that runs still made, and of the tokens of final answers. A plan for the longest
run would leave most runs with too little thinking; a final answer that doesn't fit is lost."""


class History:
    """One agent's finished tasks.

    Attributes:
        final: solution tokens that nine of ten final answers kept to; None: unknown.
    """

    def __init__(self) -> None:
        self.runs: deque[tuple[str, ...]] = deque(maxlen=RUNS)
        self.finals: deque[int] = deque(maxlen=RUNS)
        self.final: int | None = None
        self._to_come: dict[int, Mapping[str, int] | None] = {}

    def record(self, calls: Sequence[str], final: int | None) -> None:
        """A task is finished.

        Args:
            calls: the kinds of its calls, in the order in which they started; without any, nothing is learnt.
            final: solution tokens of its final answer; None: it had none.
        """
        if not calls:
            return
        self.runs.append(tuple(calls))
        self._to_come.clear()
        if final is not None:
            self._add_finals([final])

    def to_come(self, made: int) -> Mapping[str, int] | None:
        """Calls still to come, by kind, of a task that has made so many; None: unknown."""
        if made not in self._to_come:
            rest = [run[made:] for run in self.runs if len(run) >= made]
            known = len(self.runs) >= ENOUGH and rest
            self._to_come[made] = (
                proportional(
                    quantile_of([len(run) for run in rest], CALLS),
                    Counter(kind for run in rest for kind in run),
                )
                if known
                else None
            )
        return self._to_come[made]

    def to_dict(self) -> dict[str, Any]:
        """The runs and final answers, for a file or a log."""
        return {"runs": list(self.runs), "finals": list(self.finals)}

    def read(self, found: Any) -> None:
        """Add what `to_dict` gave.

        Raises:
            ValueError, TypeError, KeyError: `found` is something else.
        """
        self.runs.extend(tuple(map(_text, run)) for run in found["runs"])
        self._add_finals(_numbers(found["finals"]))

    def _add_finals(self, finals: Iterable[int]) -> None:
        self.finals.extend(finals)
        self.final = quantile_of(self.finals, FINAL_ANSWER) if len(self.finals) >= ENOUGH else None


def proportional(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Split `total` calls among kinds in these proportions; the largest remainders are rounded up."""
    everything = sum(weights.values())
    if not everything:
        return {}
    found = {kind: total * weight // everything for kind, weight in weights.items()}
    by_rest = sorted(weights, key=lambda kind: (-(total * weights[kind] % everything), kind))
    for kind in by_rest[: total - sum(found.values())]:
        found[kind] += 1
    return {kind: count for kind, count in found.items() if count}


class Histories(dict[str, History]):
    """Histories by agent; a new name gets an empty one.

    Args:
        path: a file that is read now, and written by `save`; None: no file.
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
            OSError: the file can't be written.
        """
        if self._path is None:
            return
        agents = {name: one.to_dict() for name, one in self.items()}
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        new.write_text(json.dumps({"version": 1, "agents": agents}), encoding="utf-8")
        new.replace(self._path)

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
