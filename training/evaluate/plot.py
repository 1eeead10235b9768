"""Accuracy against mean tokens as an SVG without dependencies: a line a model and strategy, with intervals.

Colour tells the rows apart and the mark does it again, for those who don't see colours. The picture follows a
dark page where the viewer says so. The horizontal axis is logarithmic, since budgets are doubled, not added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from elastic_agent.training.evaluate.stats import Summary

# Okabe and Ito's colours, in the order in which they differ most; readable on white and on near-black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#7f7f7f")
MARKS = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z",
    "M-3.6-3.6H3.6V3.6H-3.6Z",
    "M0-5L4.6 3.4H-4.6Z",
    "M0-5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 5L4.6-3.4H-4.6Z",
)
LEFT, RIGHT, TOP, HEIGHT, WIDTH = 56, 18, 44, 330, 720
Scale = Callable[[float], float]
STYLE = """\
svg{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;background:#fff;color:#1f2328}
text{fill:currentColor}.quiet{fill:#59636e}.title{font-size:14px;font-weight:600}
.grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}
.line{fill:none;stroke-width:2}.bar{stroke-width:1.5;stroke-opacity:.55}
@media (prefers-color-scheme:dark){svg{background:#0d1117;color:#e6edf3}.quiet{fill:#9198a1}
.grid{stroke:#2a3038}.axis{stroke:#9198a1}}"""


def plot(cells: Sequence[Summary], *, title: str = "Accuracy by tokens") -> str:
    """The picture. The unconstrained point of a row is an open mark, and no line leads to it.

    Raises:
        ValueError: no cells.
    """
    if not cells:
        raise ValueError("nothing to plot")
    several = len({c.s for c in cells}) > 1
    rows: dict[str, list[Summary]] = {}
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
    height = TOP + HEIGHT + 50 + 20 * len(legend)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
    ]
    step = 0.1 if top <= 0.6 else 0.2
    for i in range(round(top / step) + 1):
        at = y(i * step)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        label = f"{100 * i * step:.0f}%"
        parts.append(f'<text class="quiet" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in ticks:
        at, below = x(tick), TOP + HEIGHT
        parts.append(f'<path class="axis" d="M{at:.1f} {below}v5"/>')
        parts.append(f'<text class="quiet" x="{at:.1f}" y="{below + 19}" text-anchor="middle">{tick}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP + HEIGHT}H{WIDTH - RIGHT}"/>')
    parts.append(
        f'<text class="quiet" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{TOP + HEIGHT + 37}" text-anchor="middle">'
        f"mean tokens sampled (log scale); open mark: unconstrained</text>"
    )
    for number, (name, found) in enumerate(rows.items()):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        parts += _row(name, found, colour, mark, x, y)
    for number, (left, down, name) in enumerate(legend):
        colour, mark = COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)]
        at = TOP + HEIGHT + 58 + 20 * down
        parts.append(f'<path d="{mark}" fill="{colour}" transform="translate({left} {at})"/>')
        parts.append(f'<text x="{left + 12}" y="{at + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _row(name: str, found: Sequence[Summary], colour: str, mark: str, x: Scale, y: Scale) -> list[str]:
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
        fill = f'fill="{colour}"' if c.t is not None else f'fill="none" stroke="{colour}" stroke-width="2"'
        budget = "unconstrained" if c.t is None else f"t={c.t}"
        parts.append(
            f'<path d="{mark}" {fill} transform="translate({x(c.tokens):.1f} {y(c.accuracy):.1f})"><title>'
            f"{escape(name)}, {budget}: {100 * c.accuracy:.1f}% ({100 * c.low:.1f} to {100 * c.high:.1f}) "
            f"@ {c.tokens:.0f} tokens</title></path>"
        )
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
    longest = max(map(len, names))
    columns = max(1, (WIDTH - LEFT - RIGHT) // (28 + round(6.2 * longest)))
    wide = (WIDTH - LEFT - RIGHT) // columns
    return [(LEFT + 6 + wide * (i % columns), i // columns, name) for i, name in enumerate(names)]
