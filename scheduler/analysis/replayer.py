"""Feeds a run log to a fresh dispatcher, and compares what that writes with the lines of the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..policies.protocol import AllocationPolicy
from ..runlog.events import Event, as_line
from .replayed_dispatcher import STEPS, ReplayedDispatcher, ReplayError

READINGS = ("speed", "progress")
"""Events that stand before the event of a step or among what it wrote; they are no steps of their own."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line that a replay wrote differently.

    Attributes:
        line: its number in the file, from 1.
        what: the first field that differs, with both values, or what went wrong.
        recorded, replayed: the lines; None where one of the two wrote nothing there.
    """

    line: int
    what: str
    recorded: str | None
    replayed: str | None

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


class Replayer:
    """One replay.

    Args:
        lines, events: the log, as text and decoded.
        policies: see `ReplayedDispatcher`.

    Attributes:
        at: the position of the line that the dispatcher has to write next.
        difference: the first difference; None: there is none so far.
        replayed: the dispatcher.
    """

    def __init__(
        self,
        lines: list[str],
        events: list[Event],
        policies: Mapping[str, Callable[..., AllocationPolicy]],
    ) -> None:
        self._lines, self._events = lines, events
        self.at = 0
        self.difference: Difference | None = None
        self.replayed = ReplayedDispatcher(self._compare, self._upcoming, policies)

    def run(self) -> None:
        """Feed every step to the dispatcher, up to the first difference.

        Raises:
            ReplayError: the log rests on something that it doesn't hold.
        """
        while self.difference is None:
            at = self.at
            while at < len(self._events) and self._events[at]["event"] in READINGS:
                if self._events[at]["event"] == "progress":
                    self.replayed.set_progress(self._events[at]["solution"])
                at += 1
            if at == len(self._events):
                return
            self._step(at)

    def _step(self, at: int) -> None:
        """Feed one event to the dispatcher, which writes this event and all that follows from it."""
        event = self._events[at]
        if event["event"] in STEPS:
            try:
                self.replayed.feed(event)
            except ReplayError:
                raise
            except Exception as error:
                self._differs(at, f"{event['event']} makes no sense here: {type(error).__name__}: {error}")
        if self.at <= at:
            self._differs(self.at, "nothing is written here")

    def _upcoming(self) -> Event | None:
        return self._events[self.at] if self.at < len(self._events) else None

    def _compare(self, event: Event) -> None:
        """The dispatcher writes an event."""
        if self.difference is not None or self.at == len(self._lines):
            return  # a killed run wrote no more
        line, recorded = as_line(event), self._lines[self.at]
        if line == recorded:
            self.at += 1
        else:
            self._differs(self.at, _what(self._events[self.at], json.loads(line)), line)

    def _differs(self, at: int, what: str, replayed: str | None = None) -> None:
        if self.difference is None:
            self.difference = Difference(at + 1, what, self._lines[at], replayed)


def _what(recorded: Any, replayed: Any, where: str = "") -> str:
    """The first difference of two decoded lines, in words."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        for key in {**recorded, **replayed}:
            if recorded.get(key) != replayed.get(key) or (key in recorded) != (key in replayed):
                return _what(recorded.get(key), replayed.get(key), f"{where}.{key}" if where else key)
    return f"{where or 'the line'} is {recorded!r}, the replay has {replayed!r}"
