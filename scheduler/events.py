"""Every decision as an event: JSON-ready dicts, to a file (`run.jsonl`) or to whoever listens.

One object a line, flushed as it happens: a run that is killed leaves a log that is complete so far. Times
(`at`, `deadline`) are seconds since the outermost task of the tree was opened. The events:

    task_opened   task, parent, caps, started (wall clock, for people), expect, final_solution, policy
    task_refused  task, error, reason, needed, available                instead of task_opened
    waiting       call, kind, reason, left                              once a call
    grant         call, kind, granted {thinking, solution}, hold, left, policy, last, deadline, reason, why
    raised        as grant, and used                                    it thinks on; the hold is all it has
    dropped       as grant                                              a store had no room for that raise
    refused       call, kind, error, reason, needed, available
    withdrawn     call, kind                                            its caller went before it was granted
    settled       call, kind, used {...}, charged, refund, outcome, answered, seconds, left
    task_closed   task, spent, calls, error

Training reads `granted` and `kind` of the last of `GRANTS` of each call: the budgets really handed out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

Event = dict[str, Any]
Sink = Callable[[Event], None]
Log = str | Path | Sink | Sequence[str | Path | Sink] | None
"""Where events go: a path (the file is made anew), a function, several of these, or nowhere. A function is
called while the books are locked: it must be quick, and must not ask for tokens."""


GRANTS = ("grant", "raised", "dropped")
"""Events that say what a call may use from here on."""


class RunLog:
    """A `run.jsonl`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._file: IO[str] | None = self.path.open("w", encoding="utf-8")

    def __call__(self, event: Event) -> None:
        """Write one event; after `close` nothing."""
        line = json.dumps(event, default=_plain, ensure_ascii=False, allow_nan=False)
        with self._lock:
            if self._file is not None:
                self._file.write(line + "\n")
                self._file.flush()

    def close(self) -> None:
        """No more events."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def sinks(log: Log) -> list[Sink]:
    """A log as functions."""
    if log is None:
        return []
    several = [log] if isinstance(log, str | Path) or callable(log) else log
    return [one if callable(one) else RunLog(one) for one in several]


def close(sinks: Sequence[Sink]) -> None:
    """Close those that are files."""
    for one in sinks:
        if isinstance(one, RunLog):
            one.close()


class TaskLog:
    """Where the events of one task go: to its own log, and to those around it."""

    def __init__(self, log: Log, above: Sequence[Sink]) -> None:
        self._own = sinks(log)
        self.sinks: list[Sink] = [*above, *self._own]

    def __call__(self, event: Event) -> None:
        """Tell all of them."""
        for write in self.sinks:
            write(event)

    def close(self) -> None:
        """No more events in its own files."""
        close(self._own)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} in an event")
