"""`elastic-agent bench --replay run.jsonl`: whether a recorded run replays, and its regret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_agent.scheduler.analysis.regret import Regret
from elastic_agent.scheduler.analysis.replay import Replayed


def as_dict(found: Replayed, tasks: Sequence[Regret]) -> dict[str, Any]:
    """The check as a dict for JSON."""
    difference = None if found.difference is None else asdict(found.difference)
    return {
        "identical": found.difference is None,
        "decisions": found.decisions,
        "events": len(found.events),
        "cut": found.cut,
        "difference": difference,
        "tasks": [asdict(task) for task in tasks],
    }


def render_check(path: str | Path, found: Replayed, tasks: Sequence[Regret]) -> RenderableType:
    """The check as a table."""
    parts: list[RenderableType] = [_verdict(path, found)]
    compared = [task for task in tasks if task.unit is not None]
    if compared:
        parts.append(_table(compared))
    parts += [Text(note, style="dim") for note in map(_note, tasks) if note]
    if any(task.guessed for task in compared):
        note = "* has calls of kinds without a measured curve, which count by a guess"
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def _verdict(path: str | Path, found: Replayed) -> Text:
    cut = "; the last line was cut short and is left out" if found.cut else ""
    if found.difference is None:
        return Text(f"{path} replays: {found.decisions} decisions, all identical{cut}", style="green")
    text = Text(
        f"{path} does not replay: {found.decisions} decisions are identical, then {found.difference}{cut}"
    )
    text.stylize("red")
    for name, line in (("recorded", found.difference.recorded), ("replayed", found.difference.replayed)):
        text.append(f"\n  {name}: {line or 'nothing'}", style="dim")
    return text


def _table(tasks: Sequence[Regret]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("task", "calls", "spent of cap", "all right", "best", "regret", "right", "best", "judged"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for task in tasks:
        table.add_row(
            task.task + ("*" if task.guessed else ""),
            str(task.calls),
            _spent_of_cap(task),
            f"{task.chance:.3f}",
            f"{task.best_chance:.3f}",
            f"{task.best_chance - task.chance:+.3f}",
            f"{task.right:.2f}",
            f"{task.best_right:.2f}",
            f"{task.judged_correct}/{task.judged}" if task.judged else "",
        )
    return table


def _note(task: Regret) -> str:
    """What the table has no room for; "" for nothing."""
    if task.unit is None:
        return f"{task.task}: {task.why_not}"
    parts, lost = [], task.lost
    if lost is not None:
        inside = "" if lost.task == task.task else f"{lost.task}, "
        where = f"{inside}call {lost.call} ({lost.kind})"
        parts.append(f"most is lost at {where}: thinking {lost.granted}, best {lost.best}")
    if task.refused:
        parts.append(f"{task.refused} refused calls are left out")
    return f"{task.task}: {'; '.join(parts)}" if parts else ""


def _spent_of_cap(task: Regret) -> str:
    if task.unit == "tokens":
        return f"{task.spent:,.0f} of {task.cap:,.0f}"
    return f"${task.spent:.3g} of ${task.cap:.3g}"
