"""The course of a run: small panels of lines side by side, `figure([Panel(...), ...])`.

A panel holds some named lines over common axes, the y axis from zero; points whose y is None are left out,
and the line goes on behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .svg import COLOURS, document, mark, text, ticks, wide

Points = Sequence[tuple[float, float | None]]
WIDTH, HEIGHT = 520, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 44, 44
MARKED = 24  # most points of a line that are marked one by one


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    lines: Mapping[str, Points]
    x_label: str = ""


def figure(panels: Sequence[Panel], *, columns: int = 2) -> str:
    """Panels side by side in `columns`, as one SVG document."""
    columns = max(1, min(columns, len(panels)))
    parts = []
    for i, panel in enumerate(panels):
        parts.append(f'<g transform="translate({i % columns * WIDTH} {i // columns * HEIGHT})">')
        parts += [*_drawn(panel), "</g>"]
    rows = max(1, math.ceil(len(panels) / columns))
    return document(columns * WIDTH, rows * HEIGHT, parts, label=", ".join(panel.title for panel in panels))


def _drawn(panel: Panel) -> list[str]:
    lines = {
        name: [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        for name, points in panel.lines.items()
    }
    every = [point for points in lines.values() for point in points]
    out = [text(LEFT, 24, panel.title, "title")]
    if not every:
        return [*out, text(LEFT, HEIGHT / 2, "nothing yet", "quiet")]
    xs, ys = [x for x, _ in every], [y for _, y in every]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_ticks = ticks(min(0.0, *ys), max(ys))
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (right - LEFT)

    def down(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP)

    for tick in y_ticks:
        out.append(f'<path class="grid" d="M{LEFT} {down(tick):.1f}H{right}"/>')
        out.append(text(LEFT - 8, down(tick) + 4, f"{tick:g}", "quiet end"))
    for tick in ticks(x_low, x_high):
        # There is no batch 1.2
        if x_low <= tick <= x_high and (tick.is_integer() or not all(float(x).is_integer() for x in xs)):
            out.append(f'<path class="axis" d="M{across(tick):.1f} {bottom}v4"/>')
            out.append(text(across(tick), bottom + 17, f"{tick:g}", "quiet middle"))
    out.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    out.append(text((LEFT + right) / 2, HEIGHT - 10, panel.x_label, "quiet middle"))
    beside = float(right)
    for number, (name, points) in reversed(list(enumerate(lines.items()))):
        placed = [(across(x), down(y)) for x, y in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        if len(placed) > 1:
            out.append(f'<path class="line" stroke="{COLOURS[number % len(COLOURS)]}" d="M{path}"/>')
        if len(placed) <= MARKED:
            out += [mark(number, x, y, size=0.8) for x, y in placed]
        if name:
            beside -= wide(name)
            out += [mark(number, beside - 10, 20), text(beside, 24, name)]
            beside -= 24
    return out
