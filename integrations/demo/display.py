"""The demo's screen and tables: what is left of each cap, granted and used tokens, the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .problems import Day

THINKING, SOLUTION, UNUSED, HELD, BAD = "magenta", "green", "bright_black", "yellow", "red"
_ENDS = {
    "natural": ("closed itself", UNUSED),
    "budget": ("cut at limit", THINKING),
    "deadline": ("cut: deadline", HELD),
    "preempted": ("cut: preempted", HELD),
    "end_of_text": ("broke off", UNUSED),
    "never_opened": ("did not think", UNUSED),
}


@dataclass(slots=True)
class CallRow:
    """A call on the screen; its `used` fields are 0 until it has ended."""

    label: str
    granted_thinking: int | None = None
    granted_solution: int = 0
    used_thinking: int = 0
    used_solution: int = 0
    ended: str | None = None
    done: bool = False
    refund: int = 0
    answer: int | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One cap: how much of it is spent and held, in its own unit."""

    name: str
    cap: float
    spent: float
    held: float
    unit: str

    def render(self, width: int) -> tuple[str, Text, Text]:
        """Name, bar and numbers."""
        spent = min(width, round(width * self.spent / self.cap))
        held = min(width - spent, round(width * self.held / self.cap))
        rest = width - spent - held
        bar = Text.assemble(("█" * spent, "cyan"), ("▒" * held, HELD), ("·" * rest, UNUSED))
        left = max(0.0, self.cap - self.spent - self.held)
        numbers = Text.assemble(
            (f"{self._show(self.spent)} spent", "cyan"),
            (f"  {self._show(self.held)} held", HELD),
            f"  {self._show(left)} left of {self._show(self.cap)}",
        )
        return self.name, bar, numbers

    def _show(self, value: float) -> str:
        if self.unit == "usd":
            digits = max(2, 3 - math.floor(math.log10(self.cap)))  # three or four figures of the cap
            return f"${value:.{digits}f}"
        return f"{value:.1f} s" if self.unit == "s" else f"{value:,.0f}"


def screen(
    title: str,
    bars: Sequence[Bar],
    calls: Sequence[CallRow],
    total: int,
    *,
    width: int = 104,
    height: int = 40,
) -> RenderableType:
    """The view while it runs, for a terminal of this size: caps above, the latest calls below."""
    narrow = width < 112
    caps = Table.grid(padding=(0, 2))
    for bar in bars:
        caps.add_row(*bar.render(10 if narrow else 30))
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, collapse_padding=True)
    table.add_column("call", no_wrap=True, min_width=18, max_width=18 if width < 96 else None)
    table.add_column("thinking used", no_wrap=True, min_width=17 if narrow else 23)
    for name, least in (("solution", 10), ("refund", 6), ("answer", 6)):
        if not (narrow and name == "refund"):
            table.add_column(name, no_wrap=True, min_width=least, justify="right")
    table.add_column("thinking ended", no_wrap=True, min_width=14)
    most = max((row.granted_thinking or 0 for row in calls), default=1) or 1
    running = [row for row in calls if not row.done and row.granted_thinking is not None]
    waiting = sum(1 for row in calls if not row.done and row.granted_thinking is None)
    ended = [row for row in calls if row.done]
    rows = min(14, max(3, height - 9 - len(bars)))
    room = max(rows - min(len(running), rows // 2), 1)
    for row in [*ended[-room:], *running[: rows - min(room, len(ended))]]:
        label, thinking, solution, refund, answer, how = _cells(row, most, 6 if narrow else 12)
        table.add_row(label, thinking, solution, *([] if narrow else [refund]), answer, how)
    answered = sum(row.answer is not None for row in ended)
    parts = [f"{answered} of {total} calls answered"]
    for count, what in ((len(running), "running"), (waiting, "waiting for tokens")):
        if count:
            parts.append(f"{count} {what}")
    if refused := sum(row.ended == "refused" for row in ended):
        parts.append(f"{refused} refused")
    foot = Text(", ".join(parts), style="bold")
    return Panel(Group(caps, table, foot), title=title, box=box.ROUNDED, padding=(0, 1))


def _cells(row: CallRow, most: int, width: int) -> tuple[RenderableType, ...]:
    """Label, thinking, solution, refund, answer, how thinking ended."""
    if row.ended == "refused":
        return row.label, "", "", "", "", Text("refused", style=BAD)
    granted = row.granted_thinking or 0
    full = round(width * granted / most)
    used = min(full, round(width * min(row.used_thinking, granted) / most))
    numbers = f"{' ' * (width - full)} {row.used_thinking if row.done else '…':>3} of {granted:<3}"
    bar = Text.assemble(("█" * used, THINKING), ("░" * (full - used), UNUSED), numbers)
    if not row.done:
        return row.label, bar, f"… of {row.granted_solution}", "", "", Text("running", style="italic")
    text, style = _ENDS.get(row.ended or "", (row.ended or "", UNUSED))
    if granted == 0:
        text = "none granted"
    answer = Text("none", style=BAD) if row.answer is None else Text(str(row.answer))
    solution = f"{row.used_solution} of {row.granted_solution}"
    return row.label, bar, solution, f"+{row.refund}", answer, Text(text, style=style)


def results(
    days: Sequence[Day],
    ours: Sequence[Sequence[int | None]],
    theirs: Sequence[Sequence[int | None]],
) -> RenderableType:
    """Answers against the truth: under the scheduler (`ours`) and under the baseline (`theirs`).

    Each has one row a day: the chains' answers, then the total.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title="answers against truth  (chains, then the day's total)",
        title_justify="left",
    )
    for name in ("day", "truth", "elastic agent", "fixed max_tokens"):
        table.add_column(name, no_wrap=True)
    for day, mine, fixed in zip(days, ours, theirs, strict=True):
        truth = day.truth
        table.add_row(day.name, _numbers(truth, truth), _numbers(mine, truth), _numbers(fixed, truth))
    return table


def _numbers(found: Sequence[int | None], truth: Sequence[int]) -> Text:
    text = Text()
    for i, (got, want) in enumerate(zip(found, truth, strict=True)):
        text += Text(f"{'= ' if i == len(truth) - 1 else ''}", style=UNUSED)
        shown = "--" if got is None else str(got)
        style = SOLUTION if got == want else BAD
        text += Text(f"{shown:>2} ", style="default" if truth is found else style)
    return text


def comparison(rows: Sequence[tuple[str, str, str]]) -> RenderableType:
    """Figures side by side; a row is (what, elastic agent, fixed max_tokens)."""
    table = Table(box=box.SIMPLE_HEAD, title="the same problems, model and caps", title_justify="left")
    table.add_column("")
    table.add_column("elastic agent", justify="right", style="bold")
    table.add_column("fixed max_tokens", justify="right")
    for row in rows:
        table.add_row(*row)
    return table
