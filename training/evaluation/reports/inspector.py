"""The reasoning inspector: the same problems before and after training, cut and uncut, as one HTML page.

Thinking is split into steps (sentences and lines), and the steps of both models are matched. A step of the
first model alone has vanished; a step of the second model alone is new. With N in place of its numbers a step
becomes a pattern, and the table at the top counts which patterns vanished over all problems. The problems are
the first of the run, not picked.

All text of a model or a user is escaped (law 7), and the page forbids every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape

from ...budgets.distributions import budget_name
from ..results import Record
from .inspector_page import PAGE, SCRIPT, STYLE

VIEWS = ("cut", "uncut")
PATTERNS = 12


@dataclass(frozen=True, slots=True)
class Pair:
    """One problem under one budget: the two models' samples, and their steps matched.

    Attributes:
        before, after: the samples.
        steps: for each model, (step, whether the step is this model's alone).
        same: steps that both begin with.
    """

    before: Record
    after: Record
    steps: tuple[tuple[tuple[str, bool], ...], tuple[tuple[str, bool], ...]]
    same: int


def split_steps(text: str) -> list[str]:
    """Thinking as steps: lines, and sentences in them."""
    pieces = re.split(r"\n+|(?<=[.!?])\s+", text)
    return [piece.strip() for piece in pieces if piece.strip()]


def pattern(step: str) -> str:
    """A step without its numbers."""
    return re.sub(r"\d+(?:[.,]\d+)*", "N", " ".join(step.split()))


def match(before: Record, after: Record) -> Pair:
    """Match the steps of two thinkings of the same problem."""
    a, b = split_steps(before.thinking), split_steps(after.thinking)
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    kept_a = {block.a + i for block in blocks for i in range(block.size)}
    kept_b = {block.b + i for block in blocks for i in range(block.size)}
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    steps = (
        tuple((step, i not in kept_a) for i, step in enumerate(a)),
        tuple((step, i not in kept_b) for i, step in enumerate(b)),
    )
    return Pair(before, after, steps, same)


def inspector(
    records: Iterable[Record],
    prompts: Mapping[str, str],
    *,
    before: str,
    after: str,
    cut: int,
    uncut: int | None = None,
    strategy: str = "elastic",
    limit: int = 30,
) -> str:
    """The page.

    Args:
        records: the samples of a run; the first sample of each problem is shown.
        prompts: the problems' texts, by id.
        before, after: the two models.
        cut, uncut: the two budgets (t) to show.
        strategy: whose samples.
        limit: most problems.

    Raises:
        ValueError: no problem has all four samples.
    """
    chosen: dict[tuple[str, str, int | None], Record] = {}
    for r in records:
        if r.sample == 0 and r.strategy == strategy:
            chosen.setdefault((r.problem, r.model, r.t), r)
    problems: list[tuple[str, dict[str, Pair]]] = []
    for problem in prompts:
        four = [chosen.get((problem, m, t)) for t in (uncut, cut) for m in (before, after)]
        if all(four) and len(problems) < limit:
            a, b, c, d = [r for r in four if r is not None]
            problems.append((problem, {"uncut": match(a, b), "cut": match(c, d)}))
    if not problems:
        raise ValueError(
            f"the inspector needs samples of {before} and {after} under {strategy} at "
            f"{budget_name(cut)} and {budget_name(uncut)} for the same problem; there are none"
        )
    budgets = {"uncut": budget_name(uncut), "cut": budget_name(cut)}
    body = [
        _summary(problems, budgets, before, after),
        _index(problems, after),
        _vanished([views for _, views in problems], before, after),
        *(
            _problem(n, len(problems), prompts[problem], views, budgets)
            for n, (problem, views) in enumerate(problems, 1)
        ),
    ]
    script = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return PAGE.format(
        title=escape(f"{before} and {after}"),
        script_hash=script,
        style=STYLE,
        script=SCRIPT,
        before=escape(before),
        after=escape(after),
        cut=escape(budgets["cut"]),
        uncut=escape(budgets["uncut"]),
        strategy=escape(strategy),
        body="\n".join(body),
    )


def _summary(
    problems: Sequence[tuple[str, dict[str, Pair]]], budgets: Mapping[str, str], before: str, after: str
) -> str:
    rows = []
    for side, model in enumerate((before, after)):
        for view in VIEWS:
            found = [(p[view].before, p[view].after)[side] for _, p in problems]
            steps = sum(len(p[view].steps[side]) for _, p in problems) / len(found)
            cells = (
                model,
                budgets[view],
                f"{sum(r.right for r in found)} of {len(found)}",
                f"{sum(r.thinking_tokens for r in found) / len(found):.0f}",
                f"{steps:.1f}",
                f"{sum(r.solution_tokens for r in found) / len(found):.0f}",
            )
            rows.append(_row(*cells))
    head = ("model", "thinking", "right", "mean thinking tokens", "mean steps", "mean solution tokens")
    return _table("All problems on this page", head, rows)


def _vanished(problems: Sequence[Mapping[str, Pair]], before: str, after: str) -> str:
    """The patterns of steps that vanished most often, over all uncut thinkings."""
    counts = [Counter(pattern(s) for p in problems for s, _ in p["uncut"].steps[side]) for side in (0, 1)]
    gone = Counter({step: n - counts[1][step] for step, n in counts[0].items() if n > counts[1][step]})
    rows = [
        _row(step, str(counts[0][step]), str(counts[1][step]), said="said")
        for step, _ in gone.most_common(PATTERNS)
    ]
    title = "Steps that vanished most, uncut (numbers as N)"
    return _table(title, ("step", before, after), rows) if rows else ""


def _row(*cells: str, said: str = "") -> str:
    """A row: its first cell has words, of the class `said`; a cell that begins with a digit is a number."""
    kinds = (said, *("number" if cell[:1].isdigit() else "" for cell in cells[1:]))
    return (
        "<tr>"
        + "".join(f'<td class="{k}">{escape(c)}</td>' for k, c in zip(kinds, cells, strict=True))
        + "</tr>"
    )


def _index(problems: Sequence[tuple[str, Mapping[str, Pair]]], after: str) -> str:
    """Links to the problems, by view; those of which one model alone is right stand out."""
    lists = []
    for view in VIEWS:
        links = []
        for number, (_, views) in enumerate(problems, 1):
            a, b = views[view].before.right, views[view].after.right
            kind = "" if a == b else "gained" if b else "lost"
            links.append(f'<li class="{kind}"><a href="#p{number}">{number}</a></li>')
        lists.append(f'<ol class="index {view}">{"".join(links)}</ol>')
    note = f"green: {after} alone is right; red: {after} alone is wrong"
    return f"<section><h2>Problems</h2><p class=note>{escape(note)}</p>{''.join(lists)}</section>"


def _table(title: str, head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    body = "".join(rows)
    return (
        f"<section><h2>{escape(title)}</h2><div class=scroll><table><thead><tr>{cells}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _problem(number: int, of: int, prompt: str, views: Mapping[str, Pair], budgets: Mapping[str, str]) -> str:
    verdicts = {view: (p.before.right, p.after.right) for view, p in views.items()}
    changed = " ".join(view for view, (a, b) in verdicts.items() if a != b)
    longest = max(
        1, *(r.thinking_tokens + r.solution_tokens for p in views.values() for r in (p.before, p.after))
    )
    panels = "".join(
        f'<div class="pair {view}">{_panel(p, 0, longest)}{_panel(p, 1, longest)}</div>'
        for view, p in views.items()
    )
    same = "".join(f'<p class="note {view}">{_first(p, budgets[view])}</p>' for view, p in views.items())
    return (
        f'<article id="p{number}" tabindex="-1" data-changed="{changed}">'
        f"<h2>Problem {number} <small>of {of}</small></h2>"
        f"<p class=prompt>{escape(prompt)}</p>{same}{panels}</article>"
    )


def _first(pair: Pair, budget: str) -> str:
    alone = [sum(is_alone for _, is_alone in side) for side in pair.steps]
    where = (
        "they differ from the first step on" if not pair.same else f"the first {pair.same} steps are the same"
    )
    if not alone[0] and not alone[1]:
        where = "all steps are the same"
    return escape(f"{budget}: {where}; {alone[0]} vanished, {alone[1]} new.")


def _panel(pair: Pair, side: int, longest: int) -> str:
    record = (pair.before, pair.after)[side]
    thought, said = record.thinking_tokens, record.solution_tokens
    steps = []
    for i, (step, is_alone) in enumerate(pair.steps[side]):
        kind = ("gone", "new")[side] if is_alone else "kept"
        first = ' data-first="first difference"' if i == pair.same else ""
        steps.append(f"<li class={kind}{first}>{escape(step)}</li>")
    close = "thinking was cut here, the close was forced" if record.cut else "closed by itself"
    ended = "" if record.finished else " · not finished"
    verdict = "right" if record.right else "wrong"
    label = f"{thought} thinking and {said} solution tokens"
    return (
        f"<section class=panel><h3>{escape(record.model)} <b class={verdict}>{verdict}</b></h3>"
        f'<div class=bar role=img aria-label="{label}"><i style="width:{100 * thought / longest:.1f}%"></i>'
        f'<u style="width:{100 * said / longest:.1f}%"></u></div>'
        f"<p class=note>{label}{ended}</p>"
        f"<ol>{''.join(steps)}</ol><p class=close>{close}</p>"
        f"<p class=solution>{escape(record.solution) or '<em>no solution</em>'}</p></section>"
    )
