"""Accuracy by budget of a real language model: cold-started, and trained under budgets.

    python benchmarks/real_model.py [--quick] [--json]
    python benchmarks/real_model.py --recipe e1-gym-135m --model base=FOLDER --model e1-0=FOLDER

Problems are unseen ones of the recipe's families (reasoning-gym), graded by the families' own scorers. A
sample thinks once, and its thinking is cut at every t (`benchmarks/_allocation_data.py`); cuts of one
thinking belong together, so models are compared problem by problem.

--quick reads the outcomes that ship in `benchmarks/data/RECIPE/`: every number is recomputed from them, and
with --write docs/real-model.svg is drawn of them. Without --quick the models that are named are measured
first, into the same files (`--folder` for others); a run that was stopped goes on.

With --json the last line of stdout is one JSON object:

    rows      [{"model", "family", "t", "s", "accuracy", "low", "high", "tokens", "n"}]: t null is uncut,
              family "all" is all problems together, tokens are those of thinking and solution, and low and
              high are the 95% interval over problems
    against   by "MODEL/OTHER": {"ratio_at_32", "ahead", "uncut", "tokens", "cut"}: at each t the difference
              in accuracy with its interval (bootstrap over problems), the difference uncut, the ratio of the
              tokens uncut, and the share of OTHER's thinking that each t cuts
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._allocation_data import GYM
from benchmarks._budget_picture import Line, Role, picture
from benchmarks._replay import Outcome, load
from elastic_agent.training.evaluation.reports.stats import interval

DATA = Path(__file__).with_name("data")
PICTURE = Path(__file__).parent.parent / "docs" / "real-model.svg"
UNCUT = GYM.uncut
BUDGETS = (0, 16, 32, 64, 128, UNCUT)
BASE = "base"
DRAWS = 2000


def rows_of(model: str, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Accuracy and tokens at each budget, by family and of all."""
    found = []
    for family in ("all", *sorted({one.kind for one in outcomes})):
        those = [one for one in outcomes if family in ("all", one.kind)]
        for t in BUDGETS:
            cells = [one.at(t) for one in those]
            right = [float(cell[1]) for cell in cells]
            low, high = interval(right)
            found.append(
                {
                    "model": model,
                    "family": family,
                    "t": None if t == UNCUT else t,
                    "s": GYM.solution,
                    "accuracy": round(sum(right) / len(cells), 4),
                    "low": low,
                    "high": high,
                    "tokens": round(sum(used + said for used, _, said in cells) / len(cells), 1),
                    "n": len(cells),
                }
            )
    return found


def against(model: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, Any]:
    """One model beside another on the same problems.

    Raises:
        SystemExit: they were measured on different ones.
    """
    by_key = {(one.kind, one.problem): one for one in other}
    if by_key.keys() != {(one.kind, one.problem) for one in model}:
        raise SystemExit("the two models were measured on different problems: measure both anew")
    pairs = [(one, by_key[one.kind, one.problem]) for one in model]
    picks = np.random.default_rng(0).integers(0, len(pairs), (DRAWS, len(pairs)))
    ahead = {}
    for t in BUDGETS:
        gained = np.array([float(a.at(t)[1]) - float(b.at(t)[1]) for a, b in pairs])
        low, high = np.quantile(gained[picks].mean(axis=1), [0.025, 0.975])
        ahead[_name(t)] = [round(float(value), 4) for value in (gained.mean(), low, high)]
    at32 = [sum(one.at(32)[1] for one in side) for side in zip(*pairs, strict=True)]
    tokens = [sum(one.at(UNCUT)[0] + one.at(UNCUT)[2] for one in side) for side in zip(*pairs, strict=True)]
    cut = {_name(t): round(sum(b.thinking > t for _, b in pairs) / len(pairs), 3) for t in BUDGETS}
    return {
        "ratio_at_32": round(at32[0] / max(1, at32[1]), 3),
        "ahead": ahead,
        "uncut": ahead["uncut"][0],
        "tokens": round(tokens[0] / tokens[1], 3),
        "cut": cut,
    }


def _name(t: int) -> str:
    return "uncut" if t == UNCUT else str(t)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line a model and family, a column a budget."""
    lines = [
        "| model | family | " + " | ".join(_name(t) for t in BUDGETS) + " | tokens uncut |",
        "| --- " * (len(BUDGETS) + 3) + "|",
    ]
    for first in range(0, len(rows), len(BUDGETS)):
        cells = rows[first : first + len(BUDGETS)]
        shown = " | ".join(f"{cell['accuracy']:.2f}" for cell in cells)
        lines.append(f"| {cells[0]['model']} | {cells[0]['family']} | {shown} | {cells[-1]['tokens']:.0f} |")
    return "\n".join(lines)


def drawn(rows: Sequence[Mapping[str, Any]]) -> str:
    """The picture of the base beside the first E1."""

    def line(model: str, role: Role, label: str) -> Line:
        mine = [row for row in rows if row["model"] == model and row["family"] == "all"]
        points = {row["t"]: (row["accuracy"], row["low"], row["high"]) for row in mine}
        return Line(points, model, role, label)

    return picture(
        [line(BASE, Role.BEFORE, "before"), line("e1-0", Role.OURS, "E1")],
        "SmolLM2-135M, thinking cut anywhere: before and after training under budgets",
        ["thinking tokens, at most; bars: 95% intervals"],
        0.7,
    )


def measure(recipe: str, model: str, problems: int, output: Path) -> None:
    """Measure a model, or what is missing of it."""
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks._allocation_data", "--recipe", recipe, "--model", model),
            *("--problems", str(problems), "--output", str(output)),
        ],
        check=True,
        cwd=Path(__file__).parent.parent,
    )


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="read the outcomes that ship")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--write", action="store_true", help="draw docs/real-model.svg of the outcomes")
    parser.add_argument("--recipe", default="e1-gym-135m", help="(e1-gym-135m)")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="may be repeated")
    parser.add_argument("--problems", type=int, default=300, help="of each family (300)")
    parser.add_argument("--folder", type=Path, help="of the outcomes (benchmarks/data/RECIPE)")
    args = parser.parse_args()
    folder: Path = args.folder or DATA / args.recipe
    for named in [] if args.quick else args.model:
        name, equals, path = named.partition("=")
        if not (name and equals and path):
            parser.error(f"--model NAME=FOLDER, not {named!r}")
        measure(args.recipe, str(Path(path).resolve()), args.problems, folder / f"{name}.csv.gz")
    outcomes = {path.name.removesuffix(".csv.gz"): load(path) for path in sorted(folder.glob("*.csv.gz"))}
    if args.quick and not outcomes:
        print(f"skipped: no outcomes of {args.recipe} ship yet")
        return {}
    if not outcomes:
        parser.error(f"{folder} holds no outcomes: name models with --model NAME=FOLDER")
    rows = [row for name, found in outcomes.items() for row in rows_of(name, found)]
    result: dict[str, Any] = {"recipe": args.recipe, "rows": rows}
    result["against"] = {
        f"{name}/{other}": against(found, outcomes[other])
        for other in (BASE, *(name for name in outcomes if name.startswith("vanilla")))
        for name, found in outcomes.items()
        if name != other and other in outcomes and not name.startswith(BASE)
    }
    print(table(rows))
    for name, found in result["against"].items():
        print(f"{name}: {found}")
    if args.write:
        PICTURE.write_text(drawn(rows), encoding="utf-8")
    if args.json:
        print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
