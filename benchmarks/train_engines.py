"""The same training on two engines: rollouts by transformers, and by vLLM in the process that trains.

    PYTHONPATH=. .venv-vllm/bin/python benchmarks/train_engines.py [--quick] [--json] [--output DIR]

Trains all weights of e1-tiny-base for 20 steps of 32 samples by `elastic-agent train`, with four seeds and
each of the engines `transformers` and `vllm`. Both engines get the same problems and budgets, and draw other
samples, so what they learn from differs by chance. The script needs a Python with vLLM (`make vllm`). The
same command goes on where it was stopped; about 25 minutes on two idle cores.

With --json the last line of stdout is one JSON object:

    rows        a run each: `engine`, `seed`, means over its steps of `reward`, `loss` and `grad_norm`; `gap`,
                the mean difference of vLLM's log-probs to the trainer's, nats a token; afterwards
                `accuracy`, by thinking budget, on problems that no run saw
    difference  vllm - transformers, a mean over seeds with its standard error, of each of these
    equal       whether each difference is within the two-sided 95% interval of Student's t

--quick trains two steps of one seed, without measuring accuracy: that the comparison works.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from _commands import measure, train

ENGINES = ("transformers", "vllm")
SETTINGS = (
    "rollout.prompts=4",
    "rollout.group=8",
    "budgets.thinking=[24, 48]",
    "budgets.solution=64",
    "learning.warmup_steps=0",
)
BUDGETS = (24, 48, None)
GAP = "sampling/sampling_logp_difference/mean"
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57}
"""97.5% quantile of Student's t, by the number of seeds."""


def run_one(folder: Path, engine: str, seed: int, steps: int, problems: int) -> dict[str, Any]:
    """Train on one engine, and measure what came of it."""
    name = f"{engine}-{seed}"
    train(folder, name, seed, steps, (*SETTINGS, f"rollout.engine={engine}"))
    with (folder / name / "metrics.csv").open() as file:
        steps_made = list(csv.DictReader(file))
    row: dict[str, Any] = {"engine": engine, "seed": seed, "steps": len(steps_made)}
    for metric in ("reward", "loss", "grad_norm"):
        row[metric] = round(fmean(float(step[metric]) for step in steps_made), 6)
    if engine == "vllm":
        row["gap"] = fmean(float(step[GAP]) for step in steps_made)
    if problems:
        cells = measure(folder, name, 0, BUDGETS, problems)
        row["accuracy"] = {str(cell["t"]): cell["accuracy"] for cell in cells}
        row["n"] = problems
    return row


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | bool]]:
    """vllm - transformers by seed, in each figure that both have."""
    of = {(row["engine"], row["seed"]): _figures(row) for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    found: dict[str, dict[str, float | bool]] = {}
    for figure in of["vllm", seeds[0]]:
        differences = [of["vllm", seed][figure] - of["transformers", seed][figure] for seed in seeds]
        mean = fmean(differences)
        found[figure] = {"mean": round(mean, 5)}
        if len(seeds) > 1:
            error = stdev(differences) / len(seeds) ** 0.5
            found[figure] |= {"error": round(error, 5), "equal": abs(mean) <= STUDENT[len(seeds)] * error}
    return found


def _figures(row: dict[str, Any]) -> dict[str, float]:
    figures = {name: row[name] for name in ("reward", "loss", "grad_norm")}
    return figures | {f"accuracy at {t}": value for t, value in row.get("accuracy", {}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two steps of one seed")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--output", type=Path, help="folder of the runs; by default a temporary one")
    args = parser.parse_args()
    seeds, steps, problems = ((0,), 2, 0) if args.quick else ((0, 1, 2, 3), 20, 500)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.output or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for seed in seeds:
            for engine in ENGINES:
                rows.append(run_one(folder, engine, seed, steps, problems))
                print(rows[-1], flush=True)
    difference = compare(rows)
    for figure, found in difference.items():
        print(f"{figure:>20}: {found}")
    if args.json:
        known = [found["equal"] for found in difference.values() if "equal" in found]
        print(json.dumps({"rows": rows, "difference": difference, "equal": all(known) if known else None}))


if __name__ == "__main__":
    main()
