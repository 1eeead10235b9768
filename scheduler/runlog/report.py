"""What a task did: every call with its grant, its use, its refund, and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


_COLUMNS = ("call", "kind", "outcome", "thinking", "solution", "refund", "usd", "seconds", "why")


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task and its sub-tasks; `str()` is a plain table, rich prints a nicer one."""

    name: str
    caps: CapAmounts
    spent: CapAmounts
    calls: Sequence[CallReport]

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
        return f"{self.name}: {len(self.calls)} calls, spent " + ", ".join(parts)

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table; thinking and solution as used/granted."""
        found: list[tuple[str, ...]] = []
        for call in self.calls:
            budget, used = (call.grant.budget if call.grant else None), call.usage
            name = str(call.number) if call.task == self.name else f"{call.task}#{call.number}"
            found.append(
                (
                    name,
                    call.label or call.kind,
                    call.outcome,
                    f"{used.thinking}/{budget.thinking}" if budget else "-",
                    f"{used.solution}/{budget.solution}" if budget else "-",
                    str(call.refund),
                    "-" if call.cost is None else f"{call.cost:.6f}",
                    f"{call.seconds:.2f}",
                    call.reason,
                )
            )
        return found

    def __str__(self) -> str:
        rows = [_COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS) - 1)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows
        ]
        return "\n".join([self.title, *lines])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self.title)
        for name in _COLUMNS:
            number = name in ("thinking", "solution", "refund", "usd", "seconds")
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in self.rows():
            table.add_row(*row)
        return table


def _number(unit: str, value: float) -> str:
    return f"{value:,.0f}" if unit == "tokens" else f"{value:.6f}" if unit == "usd" else f"{value:.2f}"
