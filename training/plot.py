"""Line plots as SVG, without dependencies: `figure([panel(...), ...])` is a string to write to a file.

A panel holds some named lines over common axes; points whose y is None are left out, and the line goes on
behind them. Colours are from Okabe and Ito, who see to it that colour-blind readers can tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float | None]]
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 30, 40


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes. `zero` starts the y axis at zero; `log` makes x logarithmic (all x above zero)."""

    title: str
    lines: Mapping[str, Points]
    x_label: str = ""
    y_label: str = ""
    zero: bool = True
    log: bool = False


def figure(panels: Sequence[Panel], *, columns: int = 2) -> str:
    """Panels side by side in `columns`, as one SVG document."""
    columns = max(1, min(columns, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width, height = columns * WIDTH, max(1, rows) * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for i, panel in enumerate(panels):
        parts.append(f'<g transform="translate({i % columns * WIDTH} {i // columns * HEIGHT})">')
        parts += _drawn(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(panel: Panel) -> list[str]:
    lines = {
        name: [(x, y) for x, y in points if y is not None and math.isfinite(y)]
        for name, points in panel.lines.items()
    }
    every = [point for points in lines.values() for point in points]
    out = [f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">{escape(panel.title)}</text>']
    if not every:
        return [*out, f'<text x="{LEFT}" y="{HEIGHT / 2}">nothing yet</text>']
    xs, ys = [_x(x, panel.log) for x, _ in every], [y for _, y in every]
    x_ticks = ticks(min(xs), max(xs)) if not panel.log else sorted({x for x, _ in every})
    y_ticks = ticks(min([0.0, *ys]) if panel.zero else min(ys), max(ys))
    if all(float(x).is_integer() for x, _ in every):  # there is no batch 1.2
        x_ticks = [tick for tick in x_ticks if float(tick).is_integer()]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = y_ticks[0], y_ticks[-1]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = (_x(x, panel.log) - x_low) / (x_high - x_low)
        return LEFT + across * (right - LEFT), bottom - (y - y_low) / (y_high - y_low) * (bottom - TOP)

    for tick in y_ticks:
        _, y = place(every[0][0], tick)
        out.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if x_low - 1e-9 <= _x(tick, panel.log) <= x_high + 1e-9:
            x, _ = place(tick, y_low)
            out.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
    middle = (LEFT + right) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.x_label)}</text>')
    turned = f'transform="translate(13 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle"'
    out.append(f"<text {turned}>{escape(panel.y_label)}</text>")
    beside = right
    for (name, points), colour in reversed(list(zip(lines.items(), _colours(len(lines)), strict=True))):
        placed = [place(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(placed) <= 24:
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in placed]
        if len(lines) > 1 or name:
            label = f'<text x="{beside}" y="16" text-anchor="end" fill="{colour}">{escape(name)}</text>'
            out.append(label)
            beside -= 7 * len(name) + 10
    return out


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers, of which the first is not above `low` and the last not below `high`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0]
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _x(x: float, log: bool) -> float:
    return math.log(x) if log else x


def _colours(lines: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(lines)]
