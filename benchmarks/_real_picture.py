"""Accuracy by thinking budget: a model before training in grey, and after it, each with its 95% interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elastic_agent.training.plots.svg import COLOURS, document, share_grid, text

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 56, 84, 64, 260, 760
GREY = "#8a8f98"
MOST = 0.7
"""The share at the top."""


def picture(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], title: str, below: str) -> str:
    """The SVG.

    Args:
        rows: see `benchmarks/real_model.py`; those of all families are drawn.
        names: model -> its label; the last stands out.
        below: what the horizontal axis is.
    """
    budgets = list(dict.fromkeys(row["t"] for row in rows))
    bottom = TOP + HEIGHT

    def x(t: int | None) -> float:
        return LEFT + 24 + budgets.index(t) * (WIDTH - LEFT - RIGHT - 48) / (len(budgets) - 1)

    def y(share: float) -> float:
        return bottom - share / MOST * HEIGHT

    parts = [text(LEFT, 26, title, "title"), text(LEFT, 46, "right answers of unseen problems", "quiet")]
    parts += share_grid(LEFT, WIDTH - RIGHT, y, MOST, 0.1)
    for t in budgets:
        parts.append(text(x(t), bottom + 19, "not cut" if t is None else str(t), "quiet middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 39, below, "quiet middle"))
    for model, label in names.items():
        colour = COLOURS[0] if model == list(names)[-1] else GREY
        points = [row for row in rows if row["model"] == model and row["family"] == "all"]
        for row in points:
            bar = f"M{x(row['t']):.1f} {y(row['low']):.1f}V{y(row['high']):.1f}"
            parts.append(f'<path class="bar" stroke="{colour}" d="{bar}"/>')
        line = "L".join(f"{x(row['t']):.1f} {y(row['accuracy']):.1f}" for row in points)
        parts.append(f'<path class="line" stroke="{colour}" d="M{line}"/>')
        end = points[-1]
        parts.append(text(x(end["t"]) + 12, y(end["accuracy"]) + 4, label))
    return document(WIDTH, bottom + 54, parts, label=title)
