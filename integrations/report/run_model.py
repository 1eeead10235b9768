"""A recorded run as data: its tasks as trees, their calls, every decision on a call, and sums.

Text, JSON and HTML are views of it. All amounts are what the log says: tokens, and dollars as floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elastic_agent.scheduler.runlog.events import GRANTS

VERSION = 1
"""Of `run_json.as_dict`: the number grows when a field changes its meaning or goes."""
Budgets = tuple[int, int]
"""Thinking and solution tokens."""


@dataclass(slots=True)
class Decision:
    """A grant, or its change.

    Attributes:
        at: seconds since the outermost task was opened.
        what: the event: "grant", "extended", "extension_dropped", "reduced" or "refused".
        granted: what the call may use from here on; None: it was refused.
        hold: what is held for the call, by unit.
        left: what the task had left before, by unit; empty where the log does not say.
        reserved: of that, what is kept for the final answer, by unit.
        success: how likely the kind's curve calls a right answer; None: not known.
        reason: in words.
    """

    at: float
    what: str
    granted: Budgets | None
    hold: Mapping[str, float]
    left: Mapping[str, float]
    reserved: Mapping[str, float]
    success: float | None
    reason: str


@dataclass(slots=True)
class Call:
    """A call.

    Attributes:
        begun: seconds at which the first grant came, or the call was asked.
        ended: seconds at which the call was settled or refused; None: it is not.
        outcome: "answered", "stopped", "refused", "withdrawn" or "running".
        used: thinking and solution tokens; None: not known.
        charged: by unit.
    """

    number: int
    kind: str
    label: str | None
    model: str | None
    begun: float
    ended: float | None = None
    outcome: str = "running"
    thinking_end: str | None = None
    used: Budgets | None = None
    charged: Mapping[str, float] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The label, else the kind."""
        return self.label or self.kind

    @property
    def granted(self) -> Budgets | None:
        """The last limits."""
        return self.limits[-1] if self.limits else None

    @property
    def limits(self) -> list[Budgets]:
        """The limits, one after another; the same ones once."""
        found: list[Budgets] = []
        for one in self.decisions:
            if one.granted is not None and found[-1:] != [one.granted]:
                found.append(one.granted)
        return found


@dataclass(slots=True)
class Sums:
    """Of several calls."""

    calls: int = 0
    thinking: int = 0
    solution: int = 0
    tokens: float = 0
    usd: float = 0.0

    def add(self, call: Call) -> None:
        """One more call; a refused one counts for nothing."""
        if call.outcome in ("refused", "withdrawn"):
            return
        self.calls += 1
        if call.used is not None:
            self.thinking += call.used[0]
            self.solution += call.used[1]
        self.tokens += call.charged.get("tokens", 0)
        self.usd += call.charged.get("usd", 0.0)


@dataclass(slots=True)
class Task:
    """A task and its sub-tasks.

    Attributes:
        id: of the task in this run.
        opened, closed: seconds; closed is None where the log ends before.
        caps: by unit.
        spent: by unit, sub-tasks included.
        refusal: why the task was not opened; None: it was.
    """

    id: int
    name: str
    agent: str | None
    opened: float
    caps: Mapping[str, float]
    started: str | None = None
    closed: float | None = None
    spent: dict[str, float] = field(default_factory=dict)
    refusal: str | None = None
    calls: dict[int, Call] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)

    @property
    def left(self) -> dict[str, float]:
        """What is left of the caps on tokens and money."""
        return {
            unit: max(0, round(cap - self.spent.get(unit, 0), 9))
            for unit, cap in self.caps.items()
            if unit != "seconds"
        }

    def end(self, at: float, spent: Mapping[str, float]) -> None:
        """The task was closed."""
        self.closed, self.spent = at, dict(spent)

    def walk(self) -> Iterator[Task]:
        """The task, then all below it."""
        yield self
        for task in self.tasks:
            yield from task.walk()


@dataclass(slots=True)
class Run:
    """A recorded run: its outermost tasks, in the order of their opening."""

    tasks: list[Task]

    def walk(self) -> Iterator[Task]:
        """All tasks."""
        for task in self.tasks:
            yield from task.walk()

    def sums(self, by: str) -> dict[str, Sums]:
        """Sums by "kind", or by "agent" for the tasks that name one; the most spent first."""
        found: dict[str, Sums] = {}
        for task in self.walk():
            for call in task.calls.values():
                name = call.kind if by == "kind" else task.agent
                if name is not None:
                    found.setdefault(name, Sums()).add(call)
        return dict(sorted(found.items(), key=lambda item: (-item[1].usd, -item[1].tokens, item[0])))


def run_of(events: Sequence[Mapping[str, Any]]) -> Run:
    """The run that a log's events tell of."""
    run, tasks = Run([]), dict[int, Task]()
    for event in events:
        kind = event["event"]
        if kind in ("task_opened", "task_refused"):
            _open(event, run, tasks)
        elif (task := tasks.get(event.get("id", -1))) is not None:
            if kind == "task_closed":
                task.end(event["at"], event["spent"])
            elif "call" in event:
                _note(event, task)
    for task in reversed(list(run.walk())):
        if task.closed is None:
            _add_up(task)
    return run


def _open(event: Mapping[str, Any], run: Run, tasks: dict[int, Task]) -> None:
    task = Task(
        event.get("id", -1),
        event.get("task", "?"),
        event.get("agent"),
        event.get("at", 0.0),
        event.get("caps", {}),
        event.get("started"),
        refusal=str(event.get("reason", "")) if event["event"] == "task_refused" else None,
    )
    above = tasks.get(event.get("parent_id") or -1)
    (run.tasks if above is None else above.tasks).append(task)
    if task.refusal is None:
        tasks[task.id] = task


def _note(event: Mapping[str, Any], task: Task) -> None:
    """An event of a call."""
    kind, number, at = event["event"], event["call"], event["at"]
    call = task.calls.get(number)
    if call is None:
        call = Call(number, event.get("kind", "call"), event.get("label"), event.get("model"), at)
        task.calls[number] = call
    call.label = call.label or event.get("label")
    if kind in GRANTS or kind == "refused":
        if kind == "grant":
            call.begun = at
        call.decisions.append(_decision(event))
    if kind in ("refused", "withdrawn"):
        call.outcome, call.ended = kind, at
    elif kind == "settled":
        used = event.get("used") or {}
        call.ended, call.charged = at, event.get("charged", {})
        call.outcome = "answered" if event.get("answered", True) else "stopped"
        call.thinking_end = used.get("thinking_end")
        if "thinking" in used:
            call.used = used["thinking"], used.get("solution", 0)


def _decision(event: Mapping[str, Any]) -> Decision:
    # Other changes repeat the numbers of the grant that they change, which are of an earlier time
    own = event["event"] in ("grant", "extended")
    why, granted = (event.get("why") or {}) if own else {}, event.get("granted")
    return Decision(
        event["at"],
        event["event"],
        None if granted is None else (granted["thinking"], granted["solution"]),
        event.get("hold") or {},
        why.get("left") or {},
        why.get("reserve") or {},
        why.get("success"),
        str(event.get("reason", "")),
    )


def _add_up(task: Task) -> None:
    """What a task that is not closed has spent, by its calls and sub-tasks."""
    for unit in ("tokens", "usd"):
        calls = sum(call.charged.get(unit, 0) for call in task.calls.values())
        task.spent[unit] = calls + sum(one.spent.get(unit, 0) for one in task.tasks)
