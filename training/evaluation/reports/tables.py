"""Summaries as Markdown: the paper's layout, and every number behind it."""

from __future__ import annotations

from collections.abc import Sequence

from ...budgets.distributions import budget_name
from .stats import Summary


def paper_table(cells: Sequence[Summary]) -> str:
    """Rows are models and strategies, columns budgets, cells "accuracy % @ mean tokens"; one table an s."""
    parts = []
    for s in sorted({c.s for c in cells}):
        chosen = [c for c in cells if c.s == s]
        columns = sorted({c.t for c in chosen}, key=lambda t: (t is not None, t or 0))
        rows = list(dict.fromkeys((c.model, c.strategy) for c in chosen))
        at = {(c.model, c.strategy, c.t): f"{100 * c.accuracy:.1f} @ {c.tokens:.0f}" for c in chosen}
        body = [
            [escape(model), strategy, *(at.get((model, strategy, t), "") for t in columns)]
            for model, strategy in rows
        ]
        head = ["model", "strategy", *map(budget_name, columns)]
        parts.append(f"s={s}\n\n{markdown(head, body)}")
    return "\n\n".join(parts)


def detail_table(cells: Sequence[Summary]) -> str:
    """A row a cell: accuracy with its interval, tokens by segment, shares of cut and unfinished samples."""
    head = ["model", "strategy", "t", "s", "accuracy %", "95% interval", "tokens", "thinking", "solution"]
    head += ["forced", "discarded", "input", "cut %", "unfinished %", "n", "k"]
    body = [
        [
            escape(c.model),
            c.strategy,
            "none" if c.t is None else str(c.t),
            str(c.s),
            f"{100 * c.accuracy:.1f}",
            f"{100 * c.low:.1f} to {100 * c.high:.1f}",
            *(f"{v:.1f}" for v in (c.tokens, c.thinking_tokens, c.solution_tokens, c.forced, c.discarded)),
            f"{c.input:.0f}",
            f"{100 * c.cut:.0f}",
            f"{100 * c.unfinished:.0f}",
            str(c.n),
            f"{c.samples / c.n:.3g}",
        ]
        for c in cells
    ]
    return markdown(head, body)


def kinds_table(cells: Sequence[Summary]) -> str:
    """A row for each cell of one strategy and s: accuracy with its interval, tokens, accuracy by kind."""
    kinds = sorted({kind for cell in cells for kind in cell.by_kind})
    head = ["model", "t", "accuracy", "95% interval", "thinking", "solution", "n", *kinds]
    body = [
        [
            escape(c.model),
            "none" if c.t is None else str(c.t),
            f"{c.accuracy:.3f}",
            f"{c.low:.3f} to {c.high:.3f}",
            f"{c.thinking_tokens:.0f}",
            f"{c.solution_tokens:.0f}",
            str(c.n),
            *(f"{c.by_kind[kind]:.2f}" if kind in c.by_kind else "" for kind in kinds),
        ]
        for c in cells
    ]
    return markdown(head, body)


def report(cells: Sequence[Summary], *, title: str) -> str:
    """The page that an evaluation writes."""
    return (
        f"# {title}\n\n"
        "Accuracy % @ mean tokens, all that was sampled: thinking, solution, and what was thrown away "
        "(probes, suppressed closes). Inserted tokens are counted apart, as forced.\n\n"
        f"{paper_table(cells)}\n\n"
        "avg@k over n problems; 95% bootstrap intervals over problems (of all right or all wrong the exact "
        "binomial bound). Cut: the close was forced. Unfinished: the solution did not end within its limit. "
        "Input: prompt tokens of all passes.\n\n"
        f"{detail_table(cells)}\n"
    )


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers stand to the right."""
    rule = " | ".join("---" if i < 2 else "---:" for i in range(len(head)))
    rows = [" | ".join(row) for row in (head, *body)]
    return "\n".join(f"| {row} |" for row in (rows[0], rule, *rows[1:]))


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
