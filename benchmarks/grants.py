"""Training on the budgets that a scheduler really hands out, beside training on one fixed t*.

    python benchmarks/grants.py [--quick] [--json] [--output DIR]

1. Agents work under the scheduler with an E1 model (e1-tiny): tasks of 3 to 6 word problems of the train
   split, each task under a token cap that leaves 40 to 160 tokens a problem. `run.jsonl` keeps every grant.
2. Two models are trained on from e1-tiny (`--base` names another) with the same steps, problems, group size
   and learning rate: one with `budgets: {kind: grants, logs: [run.jsonl]}`, a fifth of its groups unlimited,
   one with a fixed t* = 48. Success curves are measured on the dev split, as the scheduler wants them.
3. Both, and the model that they come from, work on the same fresh tasks of the test split, under the same
   caps and the same scheduler.

Two seeds side by side, one core each: about half an hour on two idle cores. The same command goes on where
it was stopped. --quick trains nothing: it draws grants from the scheduler and shows what training would see.
With --json the last line of stdout is one JSON object: {"rows": [{"model", "seed", "tasks", "problems",
"right", "accuracy", "low", "high", "whole", "tokens", "cap_violations"}], "granted", "trained_on"}: accuracy
over problems (95% bootstrap over tasks), `whole` the share of tasks with every answer right, `tokens` the
mean a task; `granted` and `trained_on` are shares by t, of the log and of the training run.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _commands import BASE, SOLUTION, STEPS, elastic_agent, train

from elastic_agent import Caps
from elastic_agent.backends.load import load_backend
from elastic_agent.errors import ElasticError
from elastic_agent.scheduler import BudgetScheduler, Marginal
from elastic_agent.training.budgets.run_logs import read_grants
from elastic_agent.training.data.word_problems import DIFFICULTIES, Split, WordProblem, make_problems
from elastic_agent.training.evaluation import bootstrap
from elastic_agent.training.grpo.metrics import histogram
from elastic_agent.training.rewards.word_problems import solution_reward

FIXED, GRANTS = "e1-fixed", "e1-grants"
T_STAR = 48
CONTEXT = 768  # a scheduler with tokens to spare grants more thinking than the 512 of e1-tiny's preset hold
TASKS = 120
SEEDS: dict[Split, int] = {"train": 901, "test": 902}


@dataclass(frozen=True)
class Work:
    """One task: its problems, one after another, under one cap."""

    problems: tuple[WordProblem, ...]
    cap: int


def make_work(split: Split, count: int, seed: int) -> list[Work]:
    rng = random.Random(f"{SEEDS[split]}:{seed}")
    pool = {
        n: iter(make_problems(SEEDS[split] + seed, 6 * count, split=split, steps=n)) for n in DIFFICULTIES
    }
    work = []
    for _ in range(count):
        problems = tuple(next(pool[rng.choice(DIFFICULTIES)]) for _ in range(rng.randint(3, 6)))
        work.append(Work(problems, len(problems) * rng.randint(40, 160)))
    return work


async def agent(scheduler: BudgetScheduler, work: Work) -> tuple[list[bool], int]:
    """One task. Returns which answers are right, and the tokens that it was charged."""
    expect = Counter(problem.kind for problem in work.problems)
    right = []
    async with scheduler.task(Caps(tokens=work.cap), expect=expect, final_solution=SOLUTION) as task:
        for problem in work.problems:
            try:
                said = await task.generate(problem.text, kind=problem.kind, solution=SOLUTION)
            except ElasticError:
                right.append(False)
                continue
            right.append(solution_reward(said.solution, said.solution_end == "eos", problem.answer) > 0)
        spent = task.report().spent.tokens
    return right, spent


async def serve(
    model: str, curves: Path | None, work: Sequence[Work], log: Path | None
) -> list[tuple[list[bool], int]]:
    """Every task, all at once on one model."""
    backend = load_backend(model)
    async with BudgetScheduler(
        backend, curves=curves, policy=Marginal(objective="each"), log=log
    ) as scheduler:
        found = await asyncio.gather(*(agent(scheduler, one) for one in work))
        scheduler.check()
    await backend.aclose()
    return list(found)


def row_of(
    model: str, seed: int, work: Sequence[Work], found: Sequence[tuple[list[bool], int]]
) -> dict[str, Any]:
    shares = [statistics.fmean(right) for right, _ in found]
    low, high = bootstrap(shares)
    every = [hit for right, _ in found for hit in right]
    return {
        "model": model,
        "seed": seed,
        "tasks": len(work),
        "problems": len(every),
        "right": sum(every),
        "accuracy": round(statistics.fmean(shares), 4),
        "low": low,
        "high": high,
        "whole": round(statistics.fmean(all(right) for right, _ in found), 4),
        "tokens": round(statistics.fmean(spent for _, spent in found), 1),
        "cap_violations": sum(spent > one.cap for one, (_, spent) in zip(work, found, strict=True)),
    }


def shares_of(log: Path) -> dict[str, float]:
    """Grants of a run log, by t."""
    every = histogram([budget.thinking for budget in read_grants([log])], CONTEXT)
    return {name: round(share, 3) for name, share in every.items() if share}


def trained_on(folder: Path) -> dict[str, float]:
    """Budgets of a training run by t, from the metrics that it logged."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("budget/")]
    means = {name: statistics.fmean(float(row[name] or 0) for row in rows) for name in names}
    return {name: round(share, 3) for name, share in means.items() if share}


def curves_for(folder: Path, name: str) -> Path:
    path = folder / f"{name}.curves.json"
    if not path.exists():
        words = ("--model", name, "--curves", str(path), "--problems", "40", "--output", f"curves-{name}")
        elastic_agent(folder, "eval", *words)
    return path


def lane(output: Path, seed: int, steps: int, base: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All of one seed."""
    folder = output / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "run.jsonl"
    if not log.exists():
        draft = folder / "draft.jsonl"
        draft.unlink(missing_ok=True)
        asyncio.run(serve("e1-tiny", None, make_work("train", TASKS, seed), draft))
        draft.rename(log)
    budgets = {
        FIXED: f"budgets.thinking=[{T_STAR}]",
        GRANTS: f"budgets={{kind: grants, logs: [{log}], unlimited: 0.2}}",
    }
    work = make_work("test", TASKS, seed)
    found = asyncio.run(serve(base, curves_for(folder, base), work, None))
    rows = [row_of(base, seed, work, found)]
    for name, setting in budgets.items():
        train(folder, name, seed, steps, (setting, f"rollout.context={CONTEXT}"), base)
        found = asyncio.run(serve(str(folder / name), curves_for(folder, name), work, None))
        rows.append(row_of(name, seed, work, found))
    return rows, {"granted": shares_of(log), "trained_on": trained_on(folder / GRANTS)}


def full(output: Path, steps: int, base: str) -> dict[str, Any]:
    with ThreadPoolExecutor(2) as lanes:
        done = list(lanes.map(lambda seed: lane(output, seed, steps, base), (0, 1)))
    return {"rows": [row for rows, _ in done for row in rows], **done[0][1]}


def quick() -> dict[str, Any]:
    """Grants of a short run, and the budgets that training would draw from them."""
    with tempfile.TemporaryDirectory() as folder:
        log, work = Path(folder, "run.jsonl"), make_work("test", 12, 0)
        found = asyncio.run(serve("e1-tiny", None, work, log))
        return {"rows": [row_of("e1-tiny", 0, work, found)], "granted": shares_of(log), "quick": True}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="train nothing, under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--output", type=Path, default=Path(".cache/benchmarks/grants"), help="models and samples"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"GRPO steps ({STEPS})")
    parser.add_argument("--base", choices=("e1-tiny", BASE), default="e1-tiny", help="trained on from here")
    args = parser.parse_args()
    result = quick() if args.quick else full(args.output.resolve(), args.steps, args.base)
    for row in result["rows"]:
        print(
            f"{row['model']} (seed {row['seed']}): {row['right']} of {row['problems']} right, "
            f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f}), "
            f"{row['whole']:.2f} of {row['tasks']} tasks whole, {row['tokens']:.0f} tokens a task, "
            f"{row['cap_violations']} caps broken"
        )
    print(f"granted: {result['granted']}")
    if "trained_on" in result:
        print(f"trained on: {result['trained_on']}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
