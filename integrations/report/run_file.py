"""A run log from its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from elastic_agent.scheduler.runlog.events import unknown_schema


class RunLogError(ValueError):
    """A run log can't be read; the message names the line."""


class RunFile(NamedTuple):
    """A run log.

    Attributes:
        events: in order.
        cut: a last line that a crash cut short was left out.
    """

    events: list[dict[str, Any]]
    cut: bool


def read_run(path: str | Path) -> RunFile:
    """The events of a run.

    Raises:
        RunLogError: no such file, nothing in it, another schema, or a line in the middle that is no event.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise RunLogError(f"can't read {path}: {error.strerror or error}") from error
    if raw.startswith(b"SQLite format 3"):
        raise RunLogError(
            f"{path} is a ledger, not a run log: `elastic-agent keys list --ledger {path}` shows its keys; a "
            f"run log is what BudgetScheduler(log='run.jsonl') or `serve --log FILE` writes"
        )
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RunLogError(f"{path} is not text, so it is no run.jsonl") from error
    events: list[dict[str, Any]] = []
    cut = False
    for i, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError("not an event")
        except ValueError as error:
            if i == len(lines):
                cut = True
                break
            raise RunLogError(f"{path} is not a run.jsonl: line {i} is no event ({error})") from error
        events.append(event)
    if not events:
        raise RunLogError(f"{path} holds no events: is it a run.jsonl?")
    if (problem := unknown_schema(events[0])) is not None:
        raise RunLogError(f"{path} {problem}")
    return RunFile(events, cut)
