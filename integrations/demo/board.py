"""What the demo's screen shows, kept up to date by the scheduler's events and the agent's answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from elastic_agent.budget import Caps
from elastic_agent.scheduler.runlog.events import GRANTS, RunLog

from .display import Bar, CallRow


@dataclass(slots=True)
class Board:
    """The screen's content.

    Attributes:
        caps: of the whole run.
        total: number of calls that are planned.
        log: where the run is recorded.
        rows: calls by label.
        left: what is left of each cap.
        held: what each running call holds, by label.
        ended: labels of ended calls, in that order.
        granted: number of calls that got a grant.
    """

    caps: Caps
    total: int
    log: RunLog
    rows: dict[str, CallRow] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    held: dict[str, dict[str, float]] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    granted: int = 0

    def event(self, event: dict[str, Any]) -> None:
        """Take in one event of the scheduler."""
        label = event.get("label")
        self.left = event.get("left", self.left)
        if label is None:
            return
        row = self.rows.setdefault(label, CallRow(label))
        if event["event"] in GRANTS:
            self.granted += event["event"] == "grant"
            row.granted_thinking = event["granted"]["thinking"]
            row.granted_solution = event["granted"]["solution"]
            self.held[label] = event["hold"]
        elif event["event"] == "refused":
            row.ended, row.done = "refused", True
            self.ended.append(label)
        elif event["event"] == "settled":
            used = event["used"]
            row.used_thinking, row.used_solution = used.get("thinking", 0), used.get("solution", 0)
            row.ended, row.refund, row.done = used.get("thinking_end"), event["refund"]["tokens"], True
            self.held.pop(label, None)
            self.ended.append(label)

    def bars(self, elapsed: float) -> list[Bar]:
        """What is spent, held and left of each cap."""
        found = []
        for unit, cap in (("usd", self.caps.usd), ("tokens", self.caps.tokens)):
            if cap is not None:
                held = sum(hold[unit] for hold in self.held.values())
                spent = float(cap) - self.left.get(unit, float(cap)) - held
                found.append(Bar({"usd": "money"}.get(unit, unit), float(cap), spent, held, unit))
        if self.caps.seconds is not None:
            found.insert(1, Bar("time", self.caps.seconds, min(elapsed, self.caps.seconds), 0.0, "s"))
        return found

    def order(self) -> list[CallRow]:
        """Ended calls in the order in which they ended, then the others."""
        ended = set(self.ended)
        rest = [row for label, row in list(self.rows.items()) if label not in ended]
        return [*(self.rows[label] for label in list(self.ended)), *rest]
