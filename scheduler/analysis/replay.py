"""Replay a recorded run: a fresh dispatcher gets the inputs in `run.jsonl`, and must write the same lines.

    found = replay("run.jsonl")
    found.difference        # None, or the first line that came out differently, and how

Every event that tells the dispatcher something (a task opens, a call asks, a pass runs, a call is over) is
fed to it again, at the same exact time. What the dispatcher then writes is compared, as text, with the lines
that follow. The speed of an endpoint is read from the log, at the place where it was read. So a replay needs
no model, no clock and no store, and takes about as long as the decisions took.

A replay is exact with the same version of this package, and a C library whose `log` and `exp` round alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..estimates.online_curves import Curves
from ..policies import POLICIES
from ..policies.protocol import AllocationPolicy
from ..runlog.events import GRANTS, Event, unknown_schema
from .replayed_dispatcher import ReplayError
from .replayer import Difference, Replayer

__all__ = ["Difference", "ReplayError", "Replayed", "replay"]

DECISIONS = (*GRANTS, "waiting", "refused", "task_refused")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found.

    Attributes:
        events: the log's events, in order.
        decisions: how many decisions came out the same.
        difference: the first line that differs; None: all are identical, byte for byte.
        cut: the last line was cut short, as a killed run leaves it; `events` leaves it out.
        curves: by model, as they were at the end.
    """

    events: list[Event]
    decisions: int
    difference: Difference | None
    cut: bool
    curves: Mapping[str, Curves]


def replay(
    path: str | Path, *, policies: Mapping[str, Callable[..., AllocationPolicy]] | None = None
) -> Replayed:
    """Replay a `run.jsonl` that `BudgetScheduler(log=)` wrote.

    Args:
        policies: your own policies, by the name of their class; called with the fields in the log.

    Raises:
        ReplayError: the file is no log of a whole scheduler, is of another version, or rests on something
            that it doesn't hold.
    """
    lines, cut = _lines(Path(path))
    events = [_parsed(line, number, path) for number, line in enumerate(lines, 1)]
    if events[0]["event"] != "scheduler_opened":
        raise ReplayError(
            f"{path} does not begin with scheduler_opened. Only a file that BudgetScheduler(log=) writes can "
            f"be replayed: one task's own (task(log=)) lacks what its decisions shared with other tasks"
        )
    if (problem := unknown_schema(events[0])) is not None:
        raise ReplayError(f"{path} {problem}")
    known = {getattr(policy, "__name__", name): policy for name, policy in POLICIES.items()}
    run = Replayer(lines, events, {**known, **(policies or {})})
    run.run()
    decisions = sum(event["event"] in DECISIONS for event in events[: run.at])
    return Replayed(events, decisions, run.difference, cut, run.replayed.curves)


def _lines(path: Path) -> tuple[list[str], bool]:
    """The whole lines of a file, and whether a part of a line follows them."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise ReplayError(f"can't read {path}: {error}") from error
    *lines, rest = text.split("\n")
    if not lines:
        raise ReplayError(f"{path} holds no events: is it a run.jsonl?")
    return lines, bool(rest)


def _parsed(line: str, number: int, path: str | Path) -> Event:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise ReplayError(f"{path} is not a run.jsonl: line {number} is no event ({error})") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ReplayError(f"{path} is not a run.jsonl: line {number} is no event")
    return event
