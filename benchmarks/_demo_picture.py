"""The demo as a moving picture: two grids of answers fill up side by side, each over the money it has spent.

One SVG without a script: CSS moves it, in the time that the run took, again and again. Where less motion is
asked for, the end is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from elastic_agent.training.plots.svg import COLOURS, document, text

WIDTH, HEIGHT = 740, 344
DAY, CELL, ROW, TOP = 84, 44, 26, 74
PANELS = {"ours": (20, "Elastic Agent"), "theirs": (404, "one max_tokens a call")}
"""Way of working -> where its panel begins, and its title."""
BAR = 252
STILL = 4.0
"""Seconds for which the end is shown."""
STYLE = f"""\
.cell{{font-size:13px;text-anchor:middle}}.right{{fill:#fff}}.wrong,.none{{fill:#8a8f98}}
.box{{fill:{COLOURS[0]}}}.empty{{fill:none;stroke:#8a8f98;stroke-opacity:.45}}
.spent{{fill:{COLOURS[4]};transform-box:fill-box;transform-origin:left}}
@media (prefers-reduced-motion:reduce){{*{{animation:none!important}}}}"""


class Course(TypedDict):
    """What one way of working brought.

    Attributes:
        answers: of each day: its chains' answers, then the total; None where a call was cut before one.
        seconds: when each came, counted from the start.
        spent: (second, dollars spent by then), whenever a call has ended.
    """

    answers: list[list[int | None]]
    seconds: list[list[float]]
    spent: list[list[float]]


def count_right(answers: Sequence[Sequence[int | None]], truth: Sequence[Sequence[int]]) -> int:
    """Answers that are the true ones."""
    return sum(
        a == b for row, true in zip(answers, truth, strict=True) for a, b in zip(row, true, strict=True)
    )


def picture(run: Mapping[str, Any]) -> str:
    """The SVG.

    Args:
        run: `cap` in dollars, `truth` by day, and a `Course` for each of `PANELS`.
    """
    truth: Mapping[str, list[int]] = run["truth"]
    problems = sum(map(len, truth.values()))
    whole = STILL + max(spent[0] for way in PANELS for spent in run[way]["spent"])
    title = f"The same agent, model and cap: {problems} answers for at most ${run['cap']:.2f}"
    parts = [text(20, 28, title, "title")]
    rules: dict[str, str] = {}
    for way, (left, name) in PANELS.items():
        found: Course = run[way]
        right = count_right(found["answers"], list(truth.values()))
        parts.append(text(left, 58, name, "title"))
        parts.append(text(left + BAR + DAY - 22, 58, f"{right} of {problems} right", "title end"))
        for row, day in enumerate(truth):
            parts.append(text(left, TOP + ROW * row + 18, day))
            for column, (answer, true) in enumerate(zip(found["answers"][row], truth[day], strict=True)):
                at = left + DAY + column * (CELL + 2), TOP + ROW * row
                parts += _cell(at, answer, true, _appears(found["seconds"][row][column], whole, rules))
        parts += _money(left, found["spent"], run["cap"], whole, way, rules)
    words = "blue: a right answer; -: none, the call was cut before it had one; last column: the day's total"
    parts.append(text(20, HEIGHT - 12, words, "quiet"))
    moving = f"<style>{STYLE}\n" + "\n".join(rules.values()) + "</style>"
    return document(WIDTH, HEIGHT, [moving, *parts], label=title)


def _appears(second: float, whole: float, rules: dict[str, str]) -> str:
    """The class of what appears at a second, a tenth exactly; its rule is added."""
    name = f"t{round(second * 10)}"
    at = 100 * round(second, 1) / whole
    rules[name] = (
        f"@keyframes {name}{{0%,{at:.1f}%{{opacity:0}}{at + 1:.1f}%,100%{{opacity:1}}}}"
        f".{name}{{animation:{name} {whole:.1f}s infinite}}"
    )
    return name


def _cell(at: tuple[float, float], answer: int | None, true: int, appears: str) -> list[str]:
    x, y = at
    box = f'x="{x}" y="{y + 1}" width="{CELL}" height="{ROW - 3}" rx="4"'
    kind = "none" if answer is None else "right" if answer == true else "wrong"
    filled = f'<rect class="box {appears}" {box}/>' if kind == "right" else ""
    words = "-" if answer is None else f"✗ {answer}" if kind == "wrong" else str(answer)
    return [
        f'<rect class="empty" {box}/>',
        filled,
        text(x + CELL / 2, y + 18, words, f"cell {kind} {appears}"),
    ]


def _money(
    left: float, spent: Sequence[Sequence[float]], cap: float, whole: float, way: str, rules: dict[str, str]
) -> list[str]:
    """A bar of what is spent of the cap, and both in words."""
    top, wide = TOP + ROW * 7 + 20, BAR + DAY - 22
    steps = "".join(
        f"{100 * second / whole:.1f}%{{transform:scaleX({dollars / spent[-1][1]:.3f})}}"
        for second, dollars in spent[:: max(1, len(spent) // 12)]
    )
    rules[way] = (
        f"@keyframes {way}{{0%{{transform:scaleX(0)}}{steps}"
        f"{100 * spent[-1][0] / whole:.1f}%,100%{{transform:scaleX(1)}}}}"
        f".{way}{{animation:{way} {whole:.1f}s infinite}}"
    )
    share = spent[-1][1] / cap
    return [
        f'<rect class="empty" x="{left}" y="{top}" width="{wide}" height="12" rx="3"/>',
        f'<rect class="spent {way}" x="{left}" y="{top}" width="{wide * share:.1f}" height="12" rx="3"/>',
        text(left, top + 32, f"${spent[-1][1]:.4f} of ${cap:.4f} spent in {spent[-1][0]:.1f} s", "quiet"),
    ]
