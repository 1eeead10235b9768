"""E1 beside what it is compared with: trained here from one base, measured on problems none of them saw.

    python benchmarks/training.py [--quick] [--json] [--output DIR] [--write]

Trains, by the commands that a user types, for each of two seeds and from the base that ships (e1-tiny-base):

    vanilla     GRPO as everyone does it: nothing is cut while training
    e1-fixed    E1 as published: thinking cut at one t*, which is 48
    e1-sampled  E1 with t* of 24, 48, 96 and, in a half of the groups, unlimited
    e1-brief    E1 with t* of 16, 32, 64, 96 and in three groups of seven unlimited, and a weak length term
    l1-max      L1-Max's reward (arXiv 2503.04697): the length stands in the prompt, nothing is cut

all with the same steps, problems, group size and learning rate, and measures each at t of 16 to 2t* and
unconstrained, s=96, 504 problems of the test split a point, beside the base itself, truncated (one cap of
t + s), and under S1's budget forcing. An L1 model is asked for its length and capped at t + s in all; its
rows under `elastic` show it cut like the others.

The two seeds run side by side, one core each; about an hour on two idle cores. The same
command goes on where it was stopped. --quick measures the models that ship instead, in under a minute.
--write keeps the means over the seeds in data/training.json, and draws docs/training.svg of them.
With --json the last line of stdout is one JSON object: {"rows": [...], ...}; t is null for unconstrained.
`minutes` is the wall clock, `cpu_minutes` what one of the two cores would have needed by itself for its half.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._budget_picture import Line, Role, picture
from benchmarks._commands import BASE, SOLUTION, STEPS, measure, train
from elastic_agent.training.plots.accuracy import plot

HERE = Path(__file__).resolve().parent
MEANS, PICTURE = HERE / "data" / "training.json", HERE.parent / "docs" / "training.svg"
LINES: dict[tuple[str, str], tuple[Role, str, int | None]] = {
    (BASE, "truncate"): (Role.OTHER, "", None),
    (BASE, "s1"): (Role.OTHER, "", None),
    ("vanilla", "elastic"): (Role.OTHER, "", None),
    ("l1-max", "elastic"): (Role.OTHER, "", None),
    ("l1-max", "l1-max"): (Role.TOLD, "", None),
    ("e1-fixed", "elastic"): (Role.KIN, "", None),
    ("e1-sampled", "elastic"): (Role.KIN, "", None),
    (BASE, "elastic"): (Role.BEFORE, "the base", 64),
    ("e1-brief", "elastic"): (Role.OURS, "E1", 64),
}
"""Model and strategy -> how the picture shows them: role, label, and at which budget the label stands."""
T_STAR = 48
BUDGETS: tuple[int | None, ...] = (16, 32, 48, 64, 96, None)
RUNS: dict[str, tuple[str, ...]] = {
    "vanilla": ("budgets.thinking=[null]",),
    "e1-fixed": (f"budgets.thinking=[{T_STAR}]",),
    "e1-sampled": ("budgets.thinking=[24, 48, 96, null, null, null]",),
    "e1-brief": (
        "budgets.thinking=[16, 32, 64, 96, null, null, null]",
        "reward={kind: word-problems, length: l1-max, length_target: 128, alpha: 0.001}",
    ),
    "l1-max": (
        f"budgets={{kind: uniform, low: 16, high: 160, solution: {SOLUTION}, stated: l1-max}}",
        "reward={kind: word-problems, length: l1-max, alpha: 0.003}",  # L1's 3e-4 is for lengths of thousands
    ),
}
STRATEGIES = {BASE: "elastic,truncate,s1", "l1-max": "l1-max,elastic"}


def lane(output: Path, seed: int, steps: int) -> list[dict[str, Any]]:
    """All of one seed, one thing after another, on one core."""
    folder = output / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(folder, BASE, seed, BUDGETS, 504, STRATEGIES[BASE])
    for name in RUNS:
        start = time.perf_counter()
        train(folder, name, seed, steps, RUNS[name])
        trained = time.perf_counter()
        rows += measure(folder, name, seed, BUDGETS, 504, STRATEGIES.get(name, "elastic"))
        spent = f"trained in {trained - start:.0f} s, measured in {time.perf_counter() - trained:.0f} s"
        print(f"seed {seed}: {name} {spent}", file=sys.stderr, flush=True)
    return rows


@dataclass(frozen=True)
class Cell:
    """Means over the seeds; the interval, too, is the mean of theirs."""

    model: str
    strategy: str
    t: int | None
    s: int
    accuracy: float
    low: float
    high: float
    tokens: float


def cells(rows: Sequence[dict[str, Any]]) -> list[Cell]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["model"], row["strategy"], row["t"], row["s"]), []).append(row)
    numbers = ("accuracy", "low", "high", "tokens")
    return [Cell(*key, *(fmean(r[n] for r in same) for n in numbers)) for key, same in found.items()]


def drawn(found: Sequence[Cell]) -> str:
    """The picture: E1 beside the base it was trained from, and beside its rivals."""
    lines = []
    for (model, strategy), (role, label, at) in LINES.items():
        mine = [cell for cell in found if (cell.model, cell.strategy) == (model, strategy)]
        points = {cell.t: (cell.accuracy, cell.low, cell.high) for cell in mine}
        lines.append(Line(points, f"{model}, {strategy}", role, label, at))
    return picture(
        lines,
        "Thinking cut anywhere: E1, trained under budgets, and the base it comes from",
        [
            "thinking tokens, at most; bars: 95% intervals",
            "thin blue: E1 under other budgets; thin grey: vanilla GRPO, S1, truncation, L1-Max not told",
            "dashed: L1-Max, told its budget beforehand, and free to answer with what it did not think",
        ],
        1.0,
    )


def mean_by_cell(
    rows: Sequence[dict[str, Any]],
) -> dict[tuple[str, str], dict[int | None, tuple[float, float]]]:
    """(model, strategy) -> t -> (accuracy, tokens), means over the seeds."""
    found: dict[tuple[str, str], dict[int | None, tuple[float, float]]] = {}
    for cell in cells(rows):
        found.setdefault((cell.model, cell.strategy), {})[cell.t] = cell.accuracy, cell.tokens
    return found


def claims(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the comparison is for, of each E1, over the means of the seeds."""
    means = mean_by_cell(rows)
    limited = [t for t in BUDGETS if t is not None]
    e1s = [name for name in RUNS if name.startswith("e1-")]
    others = {which: at for which, at in means.items() if which[0] not in e1s}
    base, vanilla = means[BASE, "elastic"], means["vanilla", "elastic"]

    def of(name: str) -> dict[str, Any]:
        found = means[name, "elastic"]
        return {
            "not_ahead_of": {
                f"t={t} {model} {strategy}": round(at[t][0] - found[t][0], 4)
                for (model, strategy), at in others.items()
                for t in limited
                if at[t][0] >= found[t][0]
            },
            "ahead_of_vanilla": {t: round(found[t][0] - vanilla[t][0], 4) for t in limited},
            "unconstrained_behind_vanilla": round(vanilla[None][0] - found[None][0], 4),
            "fewer_tokens_than_base": round(1 - found[None][1] / base[None][1], 4),
        }

    return {"claims": {name: of(name) for name in e1s}}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy by t, means over the seeds; behind unconstrained, its tokens."""
    means = mean_by_cell(rows)
    budgets = sorted({row["t"] for row in rows}, key=lambda t: (t is None, t or 0))
    head = [f"t={t}" if t is not None else "unconstrained (tokens)" for t in budgets]
    lines = [" | ".join(["| model", "strategy", *head]) + " |", "| --- | --- |" + " --- |" * len(budgets)]
    for (model, strategy), at in means.items():
        shown = [
            f"{at[t][0]:.3f}" + (f" ({at[t][1]:.0f})" if t is None else "") if t in at else ""
            for t in budgets
        ]
        lines.append(" | ".join([f"| {model}", strategy, *shown]) + " |")
    return "\n".join(lines)


def quick() -> dict[str, Any]:
    """The models that ship, at three budgets, on few problems."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as lanes:
        both = [Path(folder, name) for name in (BASE, "e1-tiny")]
        for one in both:
            one.mkdir()
        rows = [
            row
            for rows in lanes.map(lambda at: measure(at, at.name, 0, (16, 48, 96), 63), both)
            for row in rows
        ]
    print(table(rows))
    return {"rows": rows, "quick": True}


def full(output: Path, steps: int) -> dict[str, Any]:
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as lanes:
        found = list(lanes.map(lambda seed: lane(output, seed, steps), (0, 1)))
    rows = [row for rows in found for row in rows]
    print(table(rows))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = {
        "rows": rows,
        **claims(rows),
        "steps": steps,
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "cpu_minutes": round((spent.ru_utime + spent.ru_stime) / 2 / 60, 1),
    }
    (output / "rows.json").write_text(json.dumps(summary, indent=1) + "\n")
    (output / "plot.svg").write_text(plot(cells(rows), title="E1 and its rivals, trained from one base"))
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the models that ship, under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--write", action="store_true", help="data/training.json and docs/training.svg")
    parser.add_argument(
        "--output", type=Path, default=Path(".cache/benchmarks/training"), help="models and samples"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"GRPO steps of each run ({STEPS})")
    args = parser.parse_args()
    found = quick() if args.quick else full(args.output.resolve(), args.steps)
    if args.write and not args.quick:
        means = cells(found["rows"])
        MEANS.write_text("[\n" + ",\n".join(json.dumps(asdict(cell)) for cell in means) + "\n]\n")
        PICTURE.write_text(drawn(means))
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
