"""What is still to come: how many calls of which kind.

A task that knows its plan declares it (`expect={"steps-3": 4, "final": 1}`); every call of a declared kind
takes one off. Nested tasks declare for themselves: each level counts, per kind, the larger of what it
declared and what the levels below it declared.

A task that declares nothing, but whose agent is known (`agent_history`), is expected to go on like earlier
tasks of that agent. Any other task is assumed to make at least three calls after its first, and later as many
more as it has finished, 32 at most. So a long run is never starved (the share of a call falls like 1/n, not
like 2^-n), and a short one leaves a part unspent. Calls that wait already count among the assumed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from elastic_agent.validation import integer, shown

from .agent_history import History

FINAL = "final"
"""The kind of a task's final answer; the reserve is kept for it."""

MIN_SOLUTION = 16
"""The fewest tokens that a solution is shrunk to (fewer only where fewer were asked for)."""

MOST_CALLS = 100_000
"""The most calls of a kind that a task can declare."""
FIRST_GUESS, LAST_GUESS = 3, 32


class CallsToCome(NamedTuple):
    """The counts of a `Forecast` at one moment, under the same names."""

    pending: Mapping[str, int]
    coming: Mapping[str, int]
    own: Mapping[str, int]
    waiting: int
    running: int
    finished: int
    declared: bool
    past: History | None

    def with_one_waiting_again(self, kind: str) -> CallsToCome:
        """The counts with one of the running calls, of this kind, as a waiting one."""
        pending = {**self.pending, kind: self.pending.get(kind, 0) + 1}
        return self._replace(pending=pending, waiting=self.waiting + 1, running=self.running - 1)

    def to_come(self, kind: str, final: bool = False) -> dict[str, int]:
        """Calls still to come, by kind: all but one waiting call of this kind.

        After a final answer only declared calls are expected.
        """
        found = dict(self.pending)
        found[kind] = found.get(kind, 0) - 1
        more: Mapping[str, int] | None = {}
        if self.declared:
            more = self.coming
        elif not final:
            made = self.finished + self.running + self.waiting
            more = None if self.past is None else self.past.to_come(made)
        if more is None:
            assumed = max(FIRST_GUESS - self.finished, min(self.finished, LAST_GUESS))
            more = {kind: max(0, assumed - sum(found.values()))}
        for name, count in more.items():
            found[name] = found.get(name, 0) + count
        if found[kind] <= 0:
            del found[kind]
        return found


@dataclass(slots=True, eq=False)
class Forecast:
    """The calls that one task still expects, and those that wait.

    Attributes:
        own: declared calls of the task itself, by kind; `below`: of the levels below it.
        coming: for each kind the larger of the two.
        pending: waiting calls, by kind; `waiting`: all of them.
        on_change: called when the counts have changed, or a call is over.
        past: earlier tasks of the same agent.
        made: the kinds of its calls and of its sub-tasks' calls, in the order in which they started.
        lineage: this level, and those above it.
    """

    parent: Forecast | None = None
    own: dict[str, int] = field(default_factory=dict)
    below: dict[str, int] = field(default_factory=dict)
    coming: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    running: int = 0
    finished: int = 0
    declared: bool = False
    on_change: Callable[[], object] | None = None
    past: History | None = None
    made: list[str] = field(default_factory=list)
    lineage: tuple[Forecast, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.lineage = (self, *(self.parent.lineage if self.parent is not None else ()))

    def expect(self, kinds: Mapping[str, int]) -> None:
        """Declare more calls to come, by kind.

        Raises:
            InvalidValueError: a count is not a whole number from 0 to `MOST_CALLS`.
        """
        declared = {
            kind: integer(f"expect[{shown(kind)}]", more, most=MOST_CALLS, of="calls")
            for kind, more in kinds.items()
        }
        for kind, more in declared.items():
            self._change(kind, own=more)
        for level in self.lineage if kinds else ():
            level.declared = True

    def arrived(self, kind: str) -> bool:
        """A call of this kind waits from now on. Returns whether its own task had declared it.

        A sub-task's final answer is not the final answer of the tasks around it.
        """
        declared = kind in self.own
        for level in self.lineage:
            if declared if level is self else kind in level.own and kind != FINAL:
                level._change(kind, own=-1)
            _add(level.pending, kind, 1)
            level.waiting += 1
            if level.on_change is not None:
                level.on_change()
        return declared

    def left(self, kind: str) -> None:
        """A waiting call was granted, refused or withdrawn."""
        for level in self.lineage:
            _add(level.pending, kind, -1)
            level.waiting -= 1
            if level.on_change is not None:
                level.on_change()

    def started(self, kind: str) -> None:
        """A call runs from now on."""
        for level in self.lineage:
            level.running += 1
            level.made.append(kind)

    def ended(self) -> None:
        """A running call is over."""
        for level in self.lineage:
            level.running -= 1
            level.finished += 1
            if level.on_change is not None:
                level.on_change()

    def close(self) -> None:
        """The task has ended: its declared calls will not come."""
        for kind in list(self.own):
            self._change(kind, own=-self.own[kind])

    def view(self) -> CallsToCome:
        """These counts as a value."""
        counts = dict(self.pending), dict(self.coming), dict(self.own)
        return CallsToCome(*counts, self.waiting, self.running, self.finished, self.declared, self.past)

    def _change(self, kind: str, *, own: int = 0, below: int = 0) -> None:
        mine = _add(self.own, kind, own) if own else self.own.get(kind, 0)
        theirs = _add(self.below, kind, below) if below else self.below.get(kind, 0)
        more = max(mine, theirs) - self.coming.get(kind, 0)
        if more:
            _add(self.coming, kind, more)
            if self.on_change is not None:
                self.on_change()
            if self.parent is not None:
                self.parent._change(kind, below=more)


def _add(counts: dict[str, int], kind: str, more: int) -> int:
    """Add so many of a kind, and return its count; a kind without any is left out."""
    counts[kind] = total = counts.get(kind, 0) + more
    if not total:
        del counts[kind]
    return total
