"""What the pictures share: colours, marks, round numbers for axes, and the frame.

Colour tells lines apart and the mark does it again, for those who don't see colours. A picture follows a dark
page where the viewer says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

# Okabe and Ito's colours, in the order in which they differ most; readable on white and on near-black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d00", "#7f7f7f")
MARKS = (
    "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0-4 0Z",
    "M-3.6-3.6H3.6V3.6H-3.6Z",
    "M0-5L4.6 3.4H-4.6Z",
    "M0-5.2L5.2 0L0 5.2L-5.2 0Z",
    "M0 5L4.6-3.4H-4.6Z",
)
STYLE = """\
svg{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;background:#fff;color:#1f2328}
text{fill:currentColor}.quiet{fill:#59636e}.title{font-size:14px;font-weight:600}
.end{text-anchor:end}.middle{text-anchor:middle}
.grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#59636e;stroke-width:1}
.line{fill:none;stroke-width:2}.bar{stroke-width:1.5;stroke-opacity:.55}
@media (prefers-color-scheme:dark){svg{background:#0d1117;color:#e6edf3}.quiet{fill:#9198a1}
.grid{stroke:#2a3038}.axis{stroke:#9198a1}}"""


def document(width: float, height: float, parts: Sequence[str], *, label: str) -> str:
    """A whole SVG document; `label` is what it is called where it isn't seen."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" aria-label="{escape(label)}">',
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a place; `kind` are classes of the style: quiet, title, end, middle."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def share_grid(left: float, right: float, y: Callable[[float], float], top: float, step: float) -> list[str]:
    """Lines across a picture at every `step` of a share, from 0 to `top`, with their percentages."""
    parts = []
    for i in range(round(top / step) + 1):
        at = y(i * step)
        parts.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        parts.append(text(left - 8, at + 4, f"{100 * i * step:.0f}%", "quiet end"))
    return parts


def mark(number: int, x: float, y: float, *, hollow: bool = False, size: float = 1.0, says: str = "") -> str:
    """The mark of line `number`; `says` is shown when it is pointed at."""
    colour = COLOURS[number % len(COLOURS)]
    fill = f'fill="none" stroke="{colour}" stroke-width="2"' if hollow else f'fill="{colour}"'
    grown = f" scale({size:.2f})" if size != 1 else ""
    title = f"<title>{escape(says)}</title>" if says else ""
    shape = MARKS[number % len(MARKS)]
    return f'<path d="{shape}" {fill} transform="translate({x:.1f} {y:.1f}){grown}">{title}</path>'


def wide(words: str) -> float:
    """About how many pixels words take."""
    return 6.6 * len(words)


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
