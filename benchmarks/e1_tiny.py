"""Accuracy versus budget of the embedded model, base beside E1, on held-out problems.

    python benchmarks/e1_tiny.py [--quick] [--json]

Separate budgeting (at most t thinking tokens, the close, at most s solution tokens), s=96, T=0.6, top_p=0.95,
bf16 weights computed in float32, problems of the test split that no training run ever drew. The full run
takes about 15 minutes on one core; --quick measures fewer points on fewer problems in under a minute.
With --json the last line of stdout is one JSON object: {"points": [...]}; t is null for unconstrained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import elastic_agent
from elastic_agent.backends.base import Sampling
from elastic_agent.training.evaluation import (
    Grid,
    InProcess,
    make_strategy,
    measure,
    summarize,
    word_problem_suite,
)
from elastic_agent.training.evaluation.reports.tables import kinds_table

MODELS = Path(elastic_agent.__file__).parent / "models"
BUDGETS: tuple[int | None, ...] = (0, 8, 16, 32, 48, 64, 96, 128, 256, None)
QUICK_BUDGETS: tuple[int | None, ...] = (0, 32, 64)
SOLUTION = 96


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 60 s: t in 0, 32, 64 on 70 problems")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--problems", type=int, default=504, help="problems a point (full run)")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder with e1-tiny-base and e1-tiny")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    grid = Grid(
        word_problem_suite("test", 70 if args.quick else args.problems),
        [make_strategy("elastic")],
        QUICK_BUDGETS if args.quick else BUDGETS,
        (SOLUTION,),
        sampling=Sampling(temperature=0.6, top_p=0.95),
    )
    cells = []
    for name in ("e1-tiny-base", "e1-tiny"):
        cells += summarize(measure(grid, InProcess.load(str(args.models / name), name=name)))
        print(f"{name} is measured", flush=True)
    print(kinds_table(cells))
    if args.json:
        print(json.dumps({"points": [cell.as_json() for cell in cells]}))


if __name__ == "__main__":
    main()
