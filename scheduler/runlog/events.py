"""The schema of `run.jsonl`, and where events go: JSON-ready dicts, to a file or to functions.

One object a line, flushed at once: a killed run leaves a log that is complete up to then. Times (`at`,
`deadline`) are seconds since the outermost task of the tree was opened. Every listener gets

    task_opened        task, parent, agent, caps, started (wall clock), expect, final_solution, policy
    task_refused       as task_opened, and error, reason, needed, available
    asked              call, kind, prompt, fresh, thinking, solution, ...   a call arrives
    waiting            call, kind, reason, left                             once a call
    grant              call, kind, granted {thinking, solution}, hold, left, policy, last, deadline, why,
                       reason                                  a call may start
    limit_reached      call, kind, used                        its thinking has reached its limit
    extended           as grant, and used                      its limit is extended; hold: all that it holds
    extension_dropped  as grant                                a store had no room for the extension
    reduced            as grant, and before                    another call needs what it holds
    refused            call, kind, error, reason, needed, available
    withdrawn          call, kind                              its caller left before the grant
    settled            call, kind, used {...}, charged, refund, outcome, answered, seconds, left
    feedback           call, kind, correct                     from its user
    expected           task, kinds                             declared after the opening
    set_aside          task, amount [tokens, nano]             held for something other than a call
    part_settled       task, hold, actual [tokens, nano]       what was spent of such a part
    task_closing       task                                    it takes no more calls
    task_closed        task, spent, calls, error

A file of a `BudgetScheduler` also has what else its decisions rest on, for a replay (`analysis.replay`). The
events that tell the dispatcher something have the exact time, `now`.

    scheduler_opened   schema, version, timing, pool           the first line
    endpoint_opened    endpoint, model, max_running, max_waiting   a model is used for the first time
    curves             model, and the curves
    history            agent, runs, finals                     what is known when the agent's first task opens
    pass               root, account, now                      the dispatcher decides on waiting calls
    speed              endpoint, load, speed                   a reading that differs from the last one
    progress           solution {hold: tokens}                 of running calls, where it matters
    accounts           the caps in memory of a durable ledger's accounts

Training reads `granted` and `kind` of the last of `GRANTS` of each call: the budgets really handed out.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from elastic_agent.credentials import make_private

Event = dict[str, Any]
Sink = Callable[[Event], None]
Log = str | Path | Sink | Sequence[str | Path | Sink] | None
"""Where events go: a path (of a new file), a function, several of these, or nowhere. A function is called
while the ledger is locked: it must be quick, and must not ask for tokens."""

SCHEMA = 2
"""The schema of the events: the number grows when an older version couldn't read or replay a log any more."""
GRANTS = ("grant", "extended", "extension_dropped", "reduced")
"""Events that say what a call may use from here on."""


def unknown_schema(event: Event) -> str | None:
    """Why this version can't read a log that begins with this event; None: it can."""
    if event.get("event") != "scheduler_opened" or event.get("schema") == SCHEMA:
        return None
    return (
        f"has schema {event.get('schema')}, and this version knows {SCHEMA}: it was written by elastic-agent "
        f"{event.get('version')}; read it with that version"
    )


def as_line(event: Event) -> str:
    """The line of an event, without its end; equal events have equal lines."""
    return _ENCODER.encode(event)


class RunLog:
    """A `run.jsonl`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        make_private(self.path)  # a log has the names of keys, tasks and agents
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = self.path.open("wb")

    def __call__(self, event: Event) -> None:
        """Write an event; nothing after `close`."""
        line = (as_line(event) + "\n").encode()
        with self._lock:
            if self._file is not None:
                self._file.write(line)
                self._file.flush()

    def close(self) -> None:
        """Close the file; further events are dropped."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def sinks(log: Log) -> list[Sink]:
    """The functions that write to a log."""
    if log is None:
        return []
    several = [log] if isinstance(log, str | Path) or callable(log) else log
    return [one if callable(one) else RunLog(one) for one in several]


def close(sinks: Sequence[Sink]) -> None:
    """Close the files among them."""
    for one in sinks:
        if isinstance(one, RunLog):
            one.close()


class TaskLog:
    """Where the events of one task go: to its own log, and to the logs around it."""

    def __init__(self, log: Log, above: Sequence[Sink]) -> None:
        self._own = sinks(log)
        self.sinks: list[Sink] = [*above, *self._own]

    def __call__(self, event: Event) -> None:
        """Write an event to all of them."""
        for write in self.sinks:
            write(event)

    def close(self) -> None:
        """Close its own files."""
        close(self._own)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} in an event")


_ENCODER = json.JSONEncoder(default=_plain, ensure_ascii=False, allow_nan=False)
