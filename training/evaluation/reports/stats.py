"""Samples as numbers: accuracy avg@k with intervals over problems, tokens per segment, success curves."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..results import Record


@dataclass(frozen=True, slots=True)
class Summary:
    """One cell of the grid. `t` None is unconstrained; token counts are means a sample; interval: 95%.

    Attributes:
        accuracy: avg@k, the mean over problems of each problem's share of right samples.
        tokens: all that was sampled: thinking, a sampled close, solution, and what was discarded.
        forced: inserted, not sampled.
        n: problems. samples: in all.
        unfinished: share of samples whose solution did not end by itself. cut: whose close was forced.
    """

    model: str
    strategy: str
    t: int | None
    s: int
    accuracy: float
    low: float
    high: float
    tokens: float
    thinking_tokens: float
    solution_tokens: float
    forced: float
    discarded: float
    input: float
    unfinished: float
    cut: float
    n: int
    samples: int
    by_kind: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def bootstrap(hits: Sequence[float], *, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean, by bootstrap."""
    if not hits:
        raise ValueError("no outcomes to bootstrap")
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(hits, k=len(hits))) / len(hits) for _ in range(draws))
    return round(means[int(0.025 * draws)], 4), round(means[int(0.975 * draws) - 1], 4)


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """95% interval of avg@k over problems, from each problem's share of right samples.

    A bootstrap would claim certainty where all problems are right, or all wrong; there the bound is the exact
    binomial one (Clopper-Pearson). A single problem says nothing of others: its interval is 0 to 1.
    """
    low, high = bootstrap(shares)
    if len(shares) == 1:
        return 0.0, 1.0
    bound = round(0.025 ** (1 / len(shares)), 4)
    if min(shares) == 1.0:
        return bound, 1.0
    if max(shares) == 0.0:
        return 0.0, round(1 - bound, 4)
    return low, high


def summarize(
    records: Iterable[Record], *, models: Sequence[str] = (), strategies: Sequence[str] = ()
) -> list[Summary]:
    """Each cell of the grid: by model, strategy and s, then rising t with unconstrained last.

    Models and strategies come in the order given here; those that are not named follow in the records' order.
    """
    cells: dict[tuple[str, str, int | None, int], list[Record]] = defaultdict(list)
    for record in records:
        cells[record.model, record.strategy, record.t, record.s].append(record)
    first = list(dict.fromkeys([*models, *(cell[0] for cell in cells)]))
    then = list(dict.fromkeys([*strategies, *(cell[1] for cell in cells)]))
    order = sorted(cells, key=lambda c: (first.index(c[0]), then.index(c[1]), c[3], c[2] is None, c[2] or 0))
    return [_summary(cells[cell]) for cell in order]


def _summary(found: Sequence[Record]) -> Summary:
    by_problem: dict[str, list[bool]] = defaultdict(list)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for r in found:
        by_problem[r.problem].append(r.right)
        by_kind[r.kind].append(r.right)
    shares = [statistics.fmean(hits) for hits in by_problem.values()]
    low, high = interval(shares)

    def mean(values: Iterable[float]) -> float:
        return round(statistics.fmean(values), 1)

    return Summary(
        model=found[0].model,
        strategy=found[0].strategy,
        t=found[0].t,
        s=found[0].s,
        accuracy=round(statistics.fmean(shares), 4),
        low=low,
        high=high,
        tokens=mean(r.tokens for r in found),
        thinking_tokens=mean(r.thinking_tokens for r in found),
        solution_tokens=mean(r.solution_tokens for r in found),
        forced=mean(r.forced for r in found),
        discarded=mean(r.discarded for r in found),
        input=mean(r.input for r in found),
        unfinished=round(statistics.fmean(not r.finished for r in found), 4),
        cut=round(statistics.fmean(r.cut for r in found), 4),
        n=len(shares),
        samples=len(found),
        by_kind={kind: round(statistics.fmean(hits), 3) for kind, hits in sorted(by_kind.items()) if kind},
    )


ENOUGH = 20
"""Fewest right answers whose lengths are written down."""


def curves_of(
    records: Iterable[Record], *, model: str, name: str, split: str = "", command: str = ""
) -> dict[str, Any]:
    """Success by kind and t: the content of a curves.json, which the scheduler reads.

    Only samples of `elastic` count, all with one s. The samples of t=None, if there are any, give the natural
    lengths of thinking and solution. `right_solutions` holds, for each t with `ENOUGH` right samples, the
    lengths (p50, p90, p99) of their solutions: the solution tokens that a right answer needs.

    Args:
        records: samples.
        model: whose curves.
        name: the name to write into the file.
        split: what was measured on. command: how.
    """
    mine = [r for r in records if r.model == model and r.strategy == "elastic"]
    solutions = sorted({r.s for r in mine})
    if len(solutions) != 1:
        raise ValueError(f"curves need elastic samples of one --solution; {model} has {solutions or 'none'}")
    cells: dict[str, dict[int | None, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for r in mine:
        cells[r.kind or "call"][r.t].append(r)
    found: dict[str, dict[str, Any]] = {
        "kinds": {},
        "natural_thinking": {},
        "solution_tokens": {},
        "solution_by_thinking": {},
        "right_solutions": {},
    }
    for kind, by_t in cells.items():
        points = sorted(by_t.items(), key=lambda point: (point[0] is None, point[0] or 0))
        found["kinds"][kind] = [
            [t, round(statistics.fmean(r.right for r in cell), 4), len(cell)] for t, cell in points
        ]
        found["solution_by_thinking"][kind] = [
            [t, round(statistics.fmean(r.solution_tokens for r in cell), 1)] for t, cell in points
        ]
        found["right_solutions"][kind] = [
            [t, *list(spread([r.solution_tokens for r in cell if r.right]).values())[1:]]
            for t, cell in points
            if sum(r.right for r in cell) >= ENOUGH
        ]
        if None in by_t:
            found["natural_thinking"][kind] = spread([r.thinking_tokens for r in by_t[None]])
            found["solution_tokens"][kind] = spread([r.solution_tokens for r in by_t[None]])
    return {"model": name, "s": solutions[0], "split": split, **found, "command": command}


def spread(tokens: Sequence[int]) -> dict[str, float]:
    """Mean and quantiles of token counts."""
    ordered = sorted(tokens)
    at = {f"p{q}": float(ordered[min(len(ordered) - 1, len(ordered) * q // 100)]) for q in (50, 90, 99)}
    return {"mean": round(statistics.fmean(ordered), 1), **at}
