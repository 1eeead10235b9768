"""`elastic-agent report run.jsonl`: a recorded run in 80 columns, with the reasons of grants when asked."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .amounts import amount, amounts
from .run_model import Call, Decision, Run, Sums, Task

COLUMNS = (("thinking", 13), ("solution", 9), ("ended", 9), ("cost", 10))


def render_run(title: str, run: Run, *, why: bool = False) -> RenderableType:
    """A run, task by task: caps, what is left, calls and sums; then sums by kind and by agent.

    Args:
        title: above the run.
        why: add the reason and the numbers of each grant.
    """
    parts: list[RenderableType] = [Text(title, style="bold")]
    for task in run.tasks:
        parts += ["", *_task(task, why)]
    for by in ("kind", "agent"):
        if sums := run.sums(by):
            parts += ["", _sums(by, sums)]
    return Group(*parts)


def _task(task: Task, why: bool) -> Iterator[RenderableType]:
    """An outermost task with all of its sub-tasks."""
    yield from _head(task)
    if task.refusal is not None:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, width=80)
    table.add_column("at", justify="right", width=8)
    table.add_column("call", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, width in COLUMNS:
        table.add_column(name, justify="left" if name == "ended" else "right", width=width, no_wrap=True)
    rows = [(call, one) for one in task.walk() for call in one.calls.values()]
    for call, of in sorted(rows, key=lambda row: (row[0].ended is None, row[0].ended or row[0].begun)):
        table.add_row(*_row(call, "" if of is task else f"{of.name}: "))
    yield table
    if why:
        for one in task.walk():
            for call in one.calls.values():
                name = f"{'' if one is task else f'{one.name}: '}{call.number} {call.name}"
                for decision in call.decisions:
                    yield Text.assemble((f"{name}, {decision.what}  ", "bold"), _why(decision))


def _head(task: Task) -> list[RenderableType]:
    """A task's name, caps, sums, and what is left, in a line each."""
    sums, counts = Sums(), dict[str, int]()
    for one in task.walk():
        for call in one.calls.values():
            sums.add(call)
            counts[call.outcome] = counts.get(call.outcome, 0) + 1
    state = "" if task.closed is not None else " (not closed)"
    lines = [Text.assemble((task.name, "bold"), f"{state}   caps: {amounts(task.caps) or 'none'}")]
    if task.refusal is not None:
        return [*lines, Text(f"refused: {task.refusal}", "red")]
    calls = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "none"
    tokens = f"{sums.thinking:,} thinking and {sums.solution:,} solution tokens"
    lines.append(Text(f"calls: {calls}; {tokens}"))
    left = ", ".join(amount(unit, value) for unit, value in task.left.items())  # that nothing is left, too
    left = f"; left: {left}" if left else ""
    return [*lines, Text(f"spent: {amounts(task.spent) or 'nothing'}{left}")]


def _row(call: Call, prefix: str) -> list[str | Text]:
    at = "" if call.ended is None else f"{call.ended:.2f} s"
    name = f"{prefix}{call.number} {call.name}"
    if call.outcome in ("refused", "withdrawn"):
        return [at, name, "", "", Text(call.outcome, "red"), ""]
    cells = [_of(call, i) for i in (0, 1)]
    ended = call.thinking_end or ("no answer" if call.ended is not None else call.outcome)
    usd = call.charged.get("usd")
    cost = amount("usd", usd) if usd else f"{call.charged.get('tokens', 0):,} tok"
    return [at, name, *cells, ended, cost if call.ended is not None else ""]


def _of(call: Call, segment: int) -> str:
    """Used of granted; `96 -> 17` where the limit was lowered."""
    limits = [one[segment] for one in call.limits]
    used = "?" if call.used is None else str(call.used[segment])
    if not limits:
        return f"{used}/?"
    lowered = f"{max(limits)} -> " if max(limits) > limits[-1] else ""
    return f"{used}/{lowered}{limits[-1]}"


def _sums(by: str, sums: dict[str, Sums]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, width=80)
    table.add_column(f"by {by}", ratio=1, no_wrap=True, overflow="ellipsis")
    for name, width in (("calls", 7), ("thinking", 10), ("solution", 10), ("tokens", 10), ("cost", 11)):
        table.add_column(name, justify="right", width=width, no_wrap=True)
    for name, one in sums.items():
        numbers = (one.calls, one.thinking, one.solution, one.tokens)
        table.add_row(name, *(f"{number:,.0f}" for number in numbers), amount("usd", one.usd))
    return table


def _why(decision: Decision) -> str:
    """The reason of a grant or of its change, with what was left, held and reserved."""
    parts = []
    if decision.success is not None:
        parts.append(f"success {decision.success:.2f} by its curve")
    if decision.left:
        parts.append(f"{amounts(decision.left)} left before")
    if held := amounts(decision.hold):
        parts.append(f"holds {held}")
    if kept := amounts(decision.reserved):
        parts.append(f"{kept} kept for the final answer")
    return f"{decision.reason}. {'; '.join(parts)}" if parts else decision.reason
