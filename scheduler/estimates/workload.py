"""What is still to come: how many calls of which kind, and what each will need besides thinking.

A task that knows its plan says so (`expect={"steps-3": 4, "final": 1}`); every call of a kind that is still
expected takes one off. Nested tasks declare for themselves: a level counts what it declared or what the
levels below it did, whichever is more, per kind.

A task that says nothing, but whose agent is known (`agent_history`), is expected to go on like those of
that agent before it. Any other is assumed to make at least three calls after its first, and later as many
more as it has finished, 32 at most. So a long run is never starved (what is left shrinks like 1/n, not like
2^-n), and a short one leaves a part unspent. Calls that wait already are counted among the assumed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from elastic_agent.validation import integer, shown

from .agent_history import History

FINAL = "final"
"""The kind of a task's final answer; its floor is the reserve."""

MIN_SOLUTION = 16
"""A solution is never shrunk below this many tokens (or what was asked for, if that is less)."""

MOST_CALLS = 100_000
"""The most calls of a kind that a task can declare."""
FIRST_GUESS, LAST_GUESS = 3, 32


class CallsToCome(NamedTuple):
    """The counts of a `Forecast` at one moment; its fields have the same names."""

    pending: Mapping[str, int]
    coming: Mapping[str, int]
    own: Mapping[str, int]
    waiting: int
    running: int
    finished: int
    declared: bool
    past: History | None

    def with_one_waiting_again(self, kind: str) -> CallsToCome:
        """The same as if one of the running calls, of this kind, still waited."""
        pending = {**self.pending, kind: self.pending.get(kind, 0) + 1}
        return self._replace(pending=pending, waiting=self.waiting + 1, running=self.running - 1)

    def to_come(self, kind: str, final: bool = False) -> dict[str, int]:
        """Calls still to come besides one waiting call of this kind, the other waiting ones included.

        After the final answer nothing is assumed to come that was not declared.
        """
        found = dict(self.pending)
        found[kind] = found.get(kind, 0) - 1
        if self.declared:
            for name, more in self.coming.items():
                found[name] = found.get(name, 0) + more
        elif final:
            pass
        elif self.past is not None and (rest := self._by_history(self.past)) is not None:
            for name, more in rest.items():
                found[name] = found.get(name, 0) + more
        else:
            assumed = max(FIRST_GUESS - self.finished, min(self.finished, LAST_GUESS))
            found[kind] += max(0, assumed - sum(found.values()))
        if found[kind] <= 0:
            del found[kind]
        return found

    def _by_history(self, past: History) -> Mapping[str, int] | None:
        """What its agent's tasks still did from here on; None: nobody knows."""
        return past.after(self.finished + self.running + self.waiting)


@dataclass(slots=True, eq=False)
class Forecast:
    """The calls that one task still expects, and those that wait.

    Attributes:
        past: the tasks of the same agent before it.
        made: the kinds of its calls and those of its sub-tasks, in the order in which they started.
        on_change: called when any of that has changed, or a call is over.
    """

    parent: Forecast | None = None
    own: dict[str, int] = field(default_factory=dict)
    below: dict[str, int] = field(default_factory=dict)
    coming: dict[str, int] = field(default_factory=dict)  # by kind, the larger of the two
    pending: dict[str, int] = field(default_factory=dict)
    waiting: int = 0  # all that are pending
    running: int = 0
    finished: int = 0
    declared: bool = False
    on_change: Callable[[], object] | None = None
    past: History | None = None
    made: list[str] = field(default_factory=list)

    def expect(self, kinds: Mapping[str, int]) -> None:
        """More calls to come, by kind.

        Raises:
            InvalidValueError: a count is not a whole number from 0 to `MOST_CALLS`.
        """
        declared = {
            kind: integer(f"expect[{shown(kind)}]", more, most=MOST_CALLS, of="calls")
            for kind, more in kinds.items()
        }
        for kind, more in declared.items():
            self._change(kind, own=more)
        level: Forecast | None = self if kinds else None
        while level is not None:
            level.declared = True
            level = level.parent

    def arrived(self, kind: str) -> bool:
        """A call of this kind is here and waits. Returns whether its own task had declared it.

        A sub-task's final answer is not that of the tasks around it.
        """
        declared = kind in self.own
        level: Forecast | None = self
        while level is not None:
            if declared if level is self else kind in level.own and kind != FINAL:
                level._change(kind, own=-1)
            level.pending[kind] = level.pending.get(kind, 0) + 1
            level.waiting += 1
            if level.on_change is not None:
                level.on_change()
            level = level.parent
        return declared

    def left(self, kind: str) -> None:
        """A waiting call was granted, refused or withdrawn."""
        level: Forecast | None = self
        while level is not None:
            _add(level.pending, kind, -1)
            level.waiting -= 1
            if level.on_change is not None:
                level.on_change()
            level = level.parent

    def started(self, kind: str) -> None:
        """A call runs."""
        level: Forecast | None = self
        while level is not None:
            level.running += 1
            level.made.append(kind)
            level = level.parent

    def ended(self) -> None:
        """A call is over."""
        level: Forecast | None = self
        while level is not None:
            level.running -= 1
            level.finished += 1
            if level.on_change is not None:
                level.on_change()
            level = level.parent

    def close(self) -> None:
        """The task has ended: what it still expected will not come."""
        for kind in list(self.own):
            self._change(kind, own=-self.own[kind])

    def view(self) -> CallsToCome:
        """These counts as a value."""
        return CallsToCome(
            dict(self.pending),
            dict(self.coming),
            dict(self.own),
            self.waiting,
            self.running,
            self.finished,
            self.declared,
            self.past,
        )

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
    """So many more of a kind; a kind of which there are none is left out."""
    counts[kind] = total = counts.get(kind, 0) + more
    if not total:
        del counts[kind]
    return total
