"""The demo's screen: what is left of each cap, each call's granted and used tokens, and the results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from elastic_agent.integrations.demo.problems import Day

THINKING, SOLUTION, UNUSED, HELD, BAD = "magenta", "green", "bright_black", "yellow", "red"
_ENDS = {
    "natural": ("closed itself", UNUSED),
    "budget": ("cut at its limit", THINKING),
    "deadline": ("cut for the deadline", HELD),
    "preempted": ("cut by the scheduler", HELD),
    "end_of_text": ("broke off", UNUSED),
    "never_opened": ("did not think", UNUSED),
}


@dataclass(slots=True)
class CallRow:
    """A call on the screen; `used` fields are 0 until it has ended."""

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
    """One cap: how much is spent and held of it, in its own unit."""

    name: str
    cap: float
    spent: float
    held: float
    unit: str

    def render(self, width: int = 30) -> tuple[str, Text, Text]:
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
    title: str, bars: Sequence[Bar], calls: Sequence[CallRow], total: int, rows: int = 14
) -> RenderableType:
    """The running view: caps above, the latest calls below."""
    caps = Table.grid(padding=(0, 2))
    for bar in bars:
        caps.add_row(*bar.render())
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for name, options in (
        ("call", {"min_width": 20}),
        ("used of granted thinking", {"min_width": 24}),
        ("solution", {"justify": "right", "min_width": 8}),
        ("thinking ended", {"min_width": 20}),
        ("refund", {"justify": "right"}),
        ("answer", {"justify": "right"}),
    ):
        table.add_column(name, no_wrap=True, **options)
    most = max((row.granted_thinking or 0 for row in calls), default=1) or 1
    running = [row for row in calls if not row.done and row.granted_thinking is not None]
    waiting = sum(1 for row in calls if not row.done and row.granted_thinking is None)
    ended = [row for row in calls if row.done]
    room = max(rows - min(len(running), rows // 2), 1)
    for row in [*ended[-room:], *running[: rows - min(room, len(ended))]]:
        table.add_row(*_cells(row, most))
    foot = f"{len(ended)} of {total} calls answered, {len(running)} running, {waiting} waiting for tokens"
    return Panel(Group(caps, table, Text(foot, style="bold")), title=title, box=box.ROUNDED, padding=(1, 2))


def _cells(row: CallRow, most: int, width: int = 13) -> tuple[RenderableType, ...]:
    granted = row.granted_thinking or 0
    full = round(width * granted / most)
    used = min(full, round(width * min(row.used_thinking, granted) / most))
    numbers = f"{' ' * (width - full)} {row.used_thinking if row.done else '…':>3} of {granted:<3}"
    bar = Text.assemble(("█" * used, THINKING), ("░" * (full - used), UNUSED), numbers)
    if not row.done:
        return row.label, bar, f"… of {row.granted_solution}", Text("running", style="italic"), "", ""
    text, style = _ENDS.get(row.ended or "", (row.ended or "", UNUSED))
    if granted == 0:
        text = "none was granted"
    answer = Text("none", style=BAD) if row.answer is None else Text(str(row.answer))
    solution = f"{row.used_solution} of {row.granted_solution}"
    return row.label, bar, solution, Text(text, style=style), f"+{row.refund}", answer


def results(
    days: Sequence[Day],
    ours: Sequence[Sequence[int | None]],
    theirs: Sequence[Sequence[int | None]],
) -> RenderableType:
    """Answers against truth, a row a day: under the scheduler and under the practice it replaces.

    `ours` and `theirs` have a row a day: the chains' answers, then the total.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        title="answers against truth  (chains, then the day's total)",
        title_justify="left",
    )
    for name in ("day", "truth", "elastic agent", "fixed max_tokens"):
        table.add_column(name, no_wrap=True)
    for day, mine, fixed in zip(days, ours, theirs, strict=True):
        truth = [*(chain.answers[-1] for chain in day.chains), day.answer]
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
    """The two ways side by side: (what, elastic agent, fixed max_tokens)."""
    table = Table(box=box.SIMPLE_HEAD, title="the same problems, model and caps", title_justify="left")
    table.add_column("")
    table.add_column("elastic agent", justify="right", style="bold")
    table.add_column("fixed max_tokens", justify="right")
    for row in rows:
        table.add_row(*row)
    return table
