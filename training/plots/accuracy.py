"""Accuracy against mean tokens: a line a model and strategy, with intervals.

The horizontal axis is logarithmic, since budgets are doubled, not added. All lines are as wide. Rows that lie
on each other are both seen: the marks of the first are drawn larger, beneath the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Protocol

from ..budgets.distributions import budget_name
from .svg import COLOURS, document, mark, share_grid, text, wide

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 56, 18, 44, 330, 720
Scale = Callable[[float], float]


class Point(Protocol):
    """What is drawn of a cell (`elastic_agent.training.evaluation.reports.stats.Summary`); `low` to `high`:
    95%."""

    @property
    def model(self) -> str: ...
    @property
    def strategy(self) -> str: ...
    @property
    def t(self) -> int | None: ...
    @property
    def s(self) -> int: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def tokens(self) -> float: ...


def plot(cells: Sequence[Point], *, title: str = "Accuracy by tokens") -> str:
    """The picture. The unconstrained point of a row is an open mark, and no line leads to it.

    Raises:
        ValueError: no cells.
    """
    if not cells:
        raise ValueError("nothing to plot")
    several = len({c.s for c in cells}) > 1
    rows: dict[str, list[Point]] = {}
    for cell in cells:
        name = f"{cell.model} · {cell.strategy}" + (f" · s={cell.s}" if several else "")
        rows.setdefault(name, []).append(cell)
    ticks = _token_ticks([c.tokens for c in cells])
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    top = _percent_top(max(c.high for c in cells))

    def x(tokens: float) -> float:
        return LEFT + (math.log(max(tokens, ticks[0])) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + HEIGHT * (1 - share / top)

    legend = _legend(list(rows))
    height = TOP + HEIGHT + 56 + 20 * (1 + max(down for _, down, _ in legend))
    parts = [
        text(LEFT, 24, title, "title"),
        text(WIDTH - RIGHT, 24, "right answers, 95% intervals", "quiet end"),
    ]
    parts += share_grid(LEFT, WIDTH - RIGHT, y, top, 0.1 if top <= 0.6 else 0.2)
    below = TOP + HEIGHT
    for tick in ticks:
        parts.append(f'<path class="axis" d="M{x(tick):.1f} {below}v5"/>')
        parts.append(text(x(tick), below + 19, str(tick), "quiet middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {below}H{WIDTH - RIGHT}"/>')
    words = "mean tokens sampled (log scale); open mark: unconstrained"
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, below + 37, words, "quiet middle"))
    for number, (name, found) in enumerate(rows.items()):
        parts += _row(name, found, number, 1 - number / max(1, len(rows) - 1), x, y)
    for number, (left, down, name) in enumerate(legend):
        at = below + 58 + 20 * down
        parts += [mark(number, left, at), text(left + 12, at + 4, name)]
    return document(WIDTH, height, parts, label=title)


def _row(name: str, found: Sequence[Point], number: int, depth: float, x: Scale, y: Scale) -> list[str]:
    """One line; `depth` is 1 for the first row, beneath all others, and 0 for the last."""
    colour = COLOURS[number % len(COLOURS)]
    cut = sorted((c for c in found if c.t is not None), key=lambda c: c.t or 0)
    parts = [f"<g><title>{escape(name)}</title>"]
    for c in found:
        parts.append(
            f'<path class="bar" stroke="{colour}" d="M{x(c.tokens):.1f} {y(c.low):.1f}V{y(c.high):.1f}"/>'
        )
    if len(cut) > 1:
        line = "L".join(f"{x(c.tokens):.1f} {y(c.accuracy):.1f}" for c in cut)
        parts.append(f'<path class="line" stroke="{colour}" d="M{line}"/>')
    for c in found:
        says = (
            f"{name}, {budget_name(c.t)}: {100 * c.accuracy:.1f}% ({100 * c.low:.1f} to {100 * c.high:.1f}) "
            f"@ {c.tokens:.0f} tokens"
        )
        place = x(c.tokens), y(c.accuracy)
        parts.append(mark(number, *place, hollow=c.t is None, size=1 + 0.6 * depth, says=says))
    return [*parts, "</g>"]


def _token_ticks(tokens: Sequence[float]) -> list[int]:
    """1, 2, 5, 10, ... around the data, at least two."""
    steps = [m * 10**e for e in range(8) for m in (1, 2, 5)]
    least, most = max(1.0, min(tokens)), max(1.0, *tokens)
    first = max(i for i, step in enumerate(steps) if step <= least or i == 0)
    last = min((i for i, step in enumerate(steps) if step >= most), default=len(steps) - 1)
    return steps[first : max(last, first + 1) + 1]


def _percent_top(high: float) -> float:
    """A round top above the highest interval."""
    return min((top for top in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if top >= high), default=1.0)


def _legend(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where each name goes: x, line, name. As many beside each other as fit."""
    longest = max(map(wide, names))
    columns = max(1, (WIDTH - LEFT - RIGHT) // (28 + round(longest)))
    each = (WIDTH - LEFT - RIGHT) // columns
    return [(LEFT + 6 + each * (i % columns), i // columns, name) for i, name in enumerate(names)]
