"""Success against cap, on a log axis: ours beside what people do today, and the best that is possible.

Caps under which no line has anything are left out. The area between ours and one `max_tokens` a call is
the gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from elastic_agent.scheduler.estimates.success_curve import Objective
from elastic_agent.training.plots.svg import COLOURS, document, share_grid, text

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 56, 24, 64, 320, 760
OURS, TODAY = "default", "max_tokens"
GREY = "#8a8f98"
LINES = {
    TODAY: ("one max_tokens a call", f'stroke="{GREY}" style="stroke-width:3"'),
    "fixed": ("one thinking limit a call", f'stroke="{GREY}" style="stroke-width:1.5"'),
    "informed": (
        "the optimum, call by call",
        f'stroke="{GREY}" style="stroke-width:1.5" stroke-dasharray="5 4"',
    ),
    OURS: ("Elastic Agent", f'stroke="{COLOURS[0]}" style="stroke-width:3"'),
}
"""Policy -> its name in the picture, and how it is drawn; the last lies on top."""
NOTHING = 0.005
"""Success up to which a cap is too small for every line."""
Curves = Mapping[str, Sequence[Sequence[float]]]


WORDS: Mapping[Objective, tuple[str, str]] = {
    "chain": ("Whole tasks right out of the same cap", "tasks of which every answer is right"),
    "each": ("Right answers out of the same cap", "share of a task's answers that are right"),
}
"""Title and unit, by what a task's success is."""


def picture(curves: Curves, objective: Objective = "chain") -> str:
    """The SVG.

    Args:
        curves: by policy: (cap a call, success, low, high, ...), the same caps for all.
    """
    title, unit = WORDS[objective]
    caps = [point[0] for point in curves[OURS]]
    first = max(
        0, min(i for i in range(len(caps)) if max(curves[name][i][1] for name in LINES) > NOTHING) - 1
    )
    caps, shown = caps[first:], {name: curves[name][first:] for name in LINES}
    low, high = math.log(caps[0]), math.log(caps[-1])
    below = TOP + HEIGHT

    def x(cap: float) -> float:
        return LEFT + (math.log(cap) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return below - share * HEIGHT

    def path(name: str, *, back: bool = False) -> str:
        return "L".join(f"{x(point[0]):.1f} {y(point[1]):.1f}" for point in shown[name][:: -1 if back else 1])

    parts = [text(LEFT, 26, title, "title"), text(LEFT, 46, unit, "quiet")]
    parts += share_grid(LEFT, WIDTH - RIGHT, y, 1.0, 0.2)
    for cap in caps:
        parts.append(f'<path class="axis" d="M{x(cap):.1f} {below}v5"/>')
        parts.append(text(x(cap), below + 19, f"{cap:.0f}", "quiet middle"))
    words = "cap of the task: tokens for each of its calls (log scale); bars: 95% intervals"
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, below + 39, words, "quiet middle"))
    gain = f"M{path(OURS)}L{path(TODAY, back=True)}Z"
    parts.append(f'<path fill="{COLOURS[0]}" fill-opacity=".14" d="{gain}"/>')
    for name, (label, drawn) in LINES.items():
        parts.append(f"<g><title>{escape(label)}</title>")
        for cap, _, least, most, *_ in shown[name] if name in (OURS, TODAY) else ():
            parts.append(f'<path class="bar" {drawn} d="M{x(cap):.1f} {y(least):.1f}V{y(most):.1f}"/>')
        parts.append(f'<path class="line" {drawn} d="M{path(name)}"/></g>')
    parts += [*_legend(), *_gain(shown, x, y)]
    return document(WIDTH, below + 54, parts, label=title)


def _legend() -> list[str]:
    """The lines' names, the upper ones first."""
    parts = []
    for number, name in enumerate(("informed", OURS, "fixed", TODAY)):
        label, drawn = LINES[name]
        at = TOP + 22 + 22 * number
        parts.append(f'<path class="line" {drawn} d="M{LEFT + 14} {at}h28"/>')
        parts.append(text(LEFT + 50, at + 4, label, "title" if name == OURS else ""))
    return parts


def _gain(shown: Curves, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    """Where ours is furthest ahead: the two shares."""
    pairs = zip(shown[OURS], shown[TODAY], strict=True)
    ours, today = max(pairs, key=lambda pair: pair[0][1] - pair[1][1])
    at, up, down = x(ours[0]), y(ours[1]), y(today[1])
    return [
        f'<path stroke="{COLOURS[0]}" stroke-dasharray="2 3" d="M{at:.1f} {up:.1f}V{down:.1f}"/>',
        text(at - 12, up - 2, f"{ours[1]:.0%}", "title end"),
        text(at + 10, down + 14, f"{today[1]:.0%}"),
    ]
