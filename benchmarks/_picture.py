"""Success against cap, on a log axis: a line a policy, the bounds dashed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from elastic_agent.training.plots.svg import COLOURS, document, mark, share_grid, text, wide

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 56, 18, 44, 340, 760
BOUNDS = ("clairvoyant", "informed")


def picture(curves: Mapping[str, Sequence[Sequence[float]]], title: str = "Whole tasks right, by cap") -> str:
    """The SVG.

    Args:
        curves: by policy: (cap a call, success, low, high, ...).
    """
    caps = [point[0] for point in next(iter(curves.values()))]
    low, high = math.log(min(caps)), math.log(max(caps))
    names = sorted(curves, key=lambda name: name in BOUNDS)
    below = TOP + HEIGHT

    def x(cap: float) -> float:
        return LEFT + (math.log(cap) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return below - share * HEIGHT

    parts = [text(LEFT, 24, title, "title")]
    parts += share_grid(LEFT, WIDTH - RIGHT, y, 1.0, 0.2)
    for cap in caps:
        parts.append(f'<path class="axis" d="M{x(cap):.1f} {below}v5"/>')
        parts.append(text(x(cap), below + 19, f"{cap:.0f}", "quiet middle"))
    words = "cap, tokens a call of the task (log scale); bars: 95% intervals"
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, below + 37, words, "quiet middle"))
    each = 28 + max(map(wide, names))
    columns = max(1, int((WIDTH - LEFT) // each))
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        bound = name in BOUNDS
        dash = 'stroke-dasharray="5 4"' if bound or number >= len(COLOURS) else ""
        line = "L".join(f"{x(point[0]):.1f} {y(point[1]):.1f}" for point in curves[name])
        parts.append(f'<path class="line" {dash} stroke="{colour}" d="M{line}"/>')
        for cap, success, least, most, *_ in curves[name]:
            if not bound:
                parts.append(
                    f'<path class="bar" stroke="{colour}" d="M{x(cap):.1f} {y(least):.1f}V{y(most):.1f}"/>'
                )
            says = f"{name}, {cap:.0f} tokens a call: {success:.0%} ({least:.0%} to {most:.0%})"
            parts.append(mark(number, x(cap), y(success), hollow=bound, size=0.9, says=says))
        left, down = LEFT + 6 + each * (number % columns), below + 62 + 20 * (number // columns)
        parts += [mark(number, left, down, hollow=bound), text(left + 12, down + 4, name)]
    rows = math.ceil(len(names) / columns)
    return document(WIDTH, below + 60 + 20 * rows, parts, label=title)
