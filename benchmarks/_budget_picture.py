"""Accuracy by thinking budget: one line stands out, another is what it is compared with, the rest is grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape

from elastic_agent.training.plots.svg import COLOURS, document, share_grid, text

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 56, 84, 64, 270, 760
LABEL_BELOW = 18
"""Pixels between a point and the label under it."""


class Role(StrEnum):
    """How a line is drawn: as a path's further attributes."""

    OURS = f'stroke="{COLOURS[0]}" style="stroke-width:3"'
    KIN = f'stroke="{COLOURS[0]}" style="stroke-width:1;stroke-opacity:.6"'
    BEFORE = 'stroke="#8a8f98" style="stroke-width:3"'
    TOLD = 'stroke="#8a8f98" style="stroke-width:1.5" stroke-dasharray="5 4"'
    OTHER = 'stroke="#8a8f98" style="stroke-width:1;stroke-opacity:.6"'


@dataclass(frozen=True, slots=True)
class Line:
    """A model.

    Attributes:
        points: budget (None: not cut) -> accuracy, and its interval's low and high end.
        name: shown when the line is pointed at.
        label: stands at the line's end, or under its point at the budget `at`; "" for none.
    """

    points: Mapping[int | None, tuple[float, float, float]]
    name: str
    role: Role
    label: str = ""
    at: int | None = None


def picture(lines: Sequence[Line], title: str, below: Sequence[str], top: float) -> str:
    """The SVG; later lines lie above earlier ones.

    Args:
        below: what the horizontal axis is, then notes, a line each.
        top: the share at the top.
    """
    budgets = list(lines[0].points)
    bottom = TOP + HEIGHT

    def x(t: int | None) -> float:
        return LEFT + 24 + budgets.index(t) * (WIDTH - LEFT - RIGHT - 48) / (len(budgets) - 1)

    def y(share: float) -> float:
        return bottom - share / top * HEIGHT

    parts = [text(LEFT, 26, title, "title"), text(LEFT, 46, "right answers of unseen problems", "quiet")]
    parts += share_grid(LEFT, WIDTH - RIGHT, y, top, 0.1 if top < 1 else 0.2)
    for t in budgets:
        parts.append(text(x(t), bottom + 19, "not cut" if t is None else str(t), "quiet middle"))
    for number, words in enumerate(below):
        parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 39 + 18 * number, words, "quiet middle"))
    for line in lines:
        parts.append(f"<g><title>{escape(line.name)}</title>")
        if line.role in (Role.OURS, Role.BEFORE):
            for t, (_, low, high) in line.points.items():
                parts.append(f'<path class="bar" {line.role} d="M{x(t):.1f} {y(low):.1f}V{y(high):.1f}"/>')
        path = "L".join(f"{x(t):.1f} {y(accuracy):.1f}" for t, (accuracy, *_) in line.points.items())
        parts.append(f'<path class="line" {line.role} d="M{path}"/>')
        right, down = (12, 4) if line.at is None else (8, LABEL_BELOW)
        if line.label:
            parts.append(text(x(line.at) + right, y(line.points[line.at][0]) + down, line.label))
        parts.append("</g>")
    return document(WIDTH, bottom + 36 + 18 * len(below), parts, label=title)
