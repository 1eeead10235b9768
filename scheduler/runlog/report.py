"""What a task did: every call with its grant, its use, its refund, and the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from elastic_agent.budget import to_usd
from elastic_agent.usage import Usage

from ..allocation.grant import Grant
from ..ledger.amounts import INFINITY, Room


@dataclass(frozen=True, slots=True)
class CapAmounts:
    """An amount in each unit of `Caps`; None: the unit has no cap, or the amount is unknown."""

    tokens: int | None = None
    usd: Decimal | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, room: Room, now: float) -> CapAmounts:
        """The amounts of a room; at least 0."""
        return cls(
            None if room.tokens is None else max(0, room.tokens),
            None if room.nano is None else to_usd(max(0, room.nano)),
            None if room.deadline == INFINITY else max(0.0, room.deadline - now),
        )

    def to_dict(self) -> dict[str, float]:
        """The amounts by unit, for JSON; None is left out."""
        found = {"tokens": self.tokens, "usd": self.usd, "seconds": self.seconds}
        return {
            name: value if isinstance(value, int) else float(value)
            for name, value in found.items()
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class CallReport:
    """One call.

    Attributes:
        path: names of the tasks that the call is in, the outermost first.
        outcome: "answered", "stopped" (cancelled, failed or cut off), "refused", "withdrawn" (its caller left
            before the grant), "waiting" or "running".
        refund: tokens that came back from its hold.
    """

    task: str
    number: int
    kind: str
    model: str
    outcome: str
    label: str | None = None
    grant: Grant | None = None
    usage: Usage = field(default_factory=Usage)
    refund: int = 0
    cost: Decimal | None = None
    seconds: float = 0.0
    thinking_end: str | None = None
    solution_end: str | None = None
    reason: str = ""
    path: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        budget = self.grant.budget if self.grant else None
        return {
            "task": self.task,
            "call": self.number,
            "kind": self.kind,
            "label": self.label,
            "model": self.model,
            "outcome": self.outcome,
            "granted": {"thinking": budget.thinking, "solution": budget.solution} if budget else None,
            "used": self.usage.to_dict(),
            "refund": self.refund,
            "usd": None if self.cost is None else float(self.cost),
            "seconds": round(self.seconds, 6),
            "thinking_end": self.thinking_end,
            "solution_end": self.solution_end,
            "reason": self.reason,
        }


_COLUMNS = ("call", "outcome", "thinking", "solution", "cost", "seconds", "why")
_MOST_WHY = 60
"""Characters of a reason in the tree; `CallReport.reason` has all of them."""


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task and its sub-tasks; `str()` is a tree of plain text, rich prints a table.

    Attributes:
        depth: of the task, from 1 for an outermost one.
    """

    name: str
    caps: CapAmounts
    spent: CapAmounts
    calls: Sequence[CallReport]
    depth: int = 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "task": self.name,
            "caps": self.caps.to_dict(),
            "spent": self.spent.to_dict(),
            "calls": [call.to_dict() for call in self.calls],
        }

    @property
    def title(self) -> str:
        """One line with the totals."""
        caps: Mapping[str, float] = self.caps.to_dict()
        parts = []
        for unit, value in self.spent.to_dict().items():
            of = f" of {_number(unit, caps[unit])}" if unit in caps else ""
            parts.append(f"{_number(unit, value)}{of} {unit}")
        return f"{self.name}: {_count(self.calls)}, spent " + ", ".join(parts)

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the tree: calls with used/granted, and a line for each sub-task before its calls."""
        return [_COLUMNS, *_rows(self.calls, self.depth, 0)]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows if len(row) > 1) for i in range(len(_COLUMNS) - 1)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
            if len(row) > 1
            else row[0]
            for row in rows
        ]
        return "\n".join([self.title, *lines])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self.title)
        for name in _COLUMNS:
            number = name in ("thinking", "solution", "cost", "seconds")
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in self.rows()[1:]:
            table.add_row(*row)
        return table


def _rows(calls: Sequence[CallReport], depth: int, indent: int) -> Iterator[tuple[str, ...]]:
    """The calls of a task, then those of each of its sub-tasks, in the order of their first calls."""
    below: dict[str, list[CallReport]] = {}
    for call in calls:
        if len(call.path) > depth:
            below.setdefault(call.path[depth], []).append(call)
        else:
            yield _row(call, indent)
    for name, those in below.items():
        tokens = sum(call.usage.generated for call in those)
        cost = sum((call.cost for call in those if call.cost is not None), Decimal())
        yield (f"{'  ' * indent}{name}: {_count(those)}, {tokens:,} tokens, ${cost:.6f}",)
        yield from _rows(those, depth + 1, indent + 1)


def _row(call: CallReport, indent: int) -> tuple[str, ...]:
    budget, used = (call.grant.budget if call.grant else None), call.usage
    return (
        f"{'  ' * indent}{call.number} {call.label or call.kind}",
        call.outcome,
        f"{used.thinking}/{budget.thinking}" if budget else "-",
        f"{used.solution}/{budget.solution}" if budget else "-",
        "-" if call.cost is None else f"${call.cost:.6f}",
        f"{call.seconds:.2f}",
        _short(call.reason),
    )


def _short(reason: str) -> str:
    """A reason in a line; of a long one the last part, which says what happened last."""
    if len(reason) > _MOST_WHY:
        reason = reason.rpartition("; ")[2]
    return reason if len(reason) <= _MOST_WHY else f"{reason[: _MOST_WHY - 1].rstrip()}…"


def _count(calls: Sequence[CallReport]) -> str:
    return f"{len(calls)} call{'' if len(calls) == 1 else 's'}"


def _number(unit: str, value: float) -> str:
    return f"{value:,.0f}" if unit == "tokens" else f"{value:.6f}" if unit == "usd" else f"{value:.2f}"
