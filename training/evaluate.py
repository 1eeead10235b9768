"""Accuracy versus budget, with separate budgeting, in the precision that ships.

    elastic-agent eval --model e1-tiny [--split dev] [--thinking 0,32,none]
    elastic-agent eval --model DIR --curves FILE

The second writes success curves by kind, which the scheduler reads. Every point samples each problem once
at T=0.6, top_p=0.95 and reports accuracy with a bootstrap interval over problems, by difficulty too, and the
thinking and solution tokens that were really used. An answer counts when the solution ended within its
limit and states the right number.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.decode import BatchDecoder
from elastic_agent.backends.load import model_path
from elastic_agent.budget import Budget
from elastic_agent.training.model import load_model
from elastic_agent.training.rewards import solution_reward
from elastic_agent.training.rollout import markers_of, prompt_ids_of, roll_out
from elastic_agent.training.stock_problems import DIFFICULTIES, Problem, Split, make_problems
from elastic_agent.training.trainer import parse_mixture

PAPER_SAMPLING = Sampling(temperature=0.6, top_p=0.95)
CURVE_BUDGETS: tuple[int | None, ...] = (0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, None)
SEEDS: dict[Split, int] = {"train": 11, "dev": 22, "test": 44}
"""Which problems of a split are measured on. Weights are chosen on dev. The test problems were drawn anew
(seed 33 before) ahead of measuring the shipped weights: some points of earlier weights had been looked at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered problem."""

    kind: str
    right: bool
    thinking_tokens: int
    solution_tokens: int
    cut: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the accuracy-versus-budget curve; `t` None is unconstrained. Interval: 95%, bootstrap."""

    model: str
    t: int | None
    s: int
    accuracy: float
    low: float
    high: float
    thinking_tokens: float
    solution_tokens: float
    n: int
    by_kind: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Evaluator:
    """A model folder, ready to be measured at any budget."""

    def __init__(self, folder: str | Path, *, rows: int = 256, name: str | None = None) -> None:
        from transformers import AutoTokenizer

        self.name = name or Path(folder).name
        self.model = load_model(folder)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        self.markers = markers_of(self.tokenizer)
        self.rows = rows

    def outcomes(
        self,
        problems: Sequence[Problem],
        thinking: int | None,
        solution: int,
        *,
        sampling: Sampling = PAPER_SAMPLING,
        seed: int = 0,
    ) -> list[Outcome]:
        """Answer every problem once under Budget(thinking, solution)."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        decoder = BatchDecoder(self.model, max_rows=self.rows, generator=generator)
        budget = Budget(thinking, solution)
        prompts = [prompt_ids_of(self.tokenizer, [{"role": "user", "content": p.text}]) for p in problems]
        rollouts = roll_out(
            decoder,
            [(ids, budget) for ids in prompts],
            self.markers,
            context=self.model.config.max_position_embeddings,
            sampling=sampling,
        )
        return [
            Outcome(
                kind=problem.kind,
                right=solution_reward(self.tokenizer.decode(r.solution_ids), r.finished, problem.answer) > 0,
                thinking_tokens=r.thinking_tokens,
                solution_tokens=len(r.solution_ids),
                cut=r.cut,
                finished=r.finished,
            )
            for problem, r in zip(problems, rollouts, strict=True)
        ]

    def point(
        self, problems: Sequence[Problem], thinking: int | None, solution: int, *, seed: int = 0
    ) -> Point:
        found = self.outcomes(problems, thinking, solution, seed=seed)
        right = [outcome.right for outcome in found]
        low, high = bootstrap(right)
        kinds: dict[str, list[bool]] = defaultdict(list)
        for outcome in found:
            kinds[outcome.kind].append(outcome.right)
        return Point(
            model=self.name,
            t=thinking,
            s=solution,
            accuracy=round(statistics.fmean(right), 4),
            low=low,
            high=high,
            thinking_tokens=round(statistics.fmean(o.thinking_tokens for o in found), 1),
            solution_tokens=round(statistics.fmean(o.solution_tokens for o in found), 1),
            n=len(found),
            by_kind={kind: round(statistics.fmean(hits), 3) for kind, hits in sorted(kinds.items())},
        )


def bootstrap(hits: Sequence[bool], *, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of the mean."""
    if not hits:
        raise ValueError("no outcomes to bootstrap")
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(hits, k=len(hits))) / len(hits) for _ in range(draws))
    return round(means[int(0.025 * draws)], 4), round(means[int(0.975 * draws) - 1], 4)


def measure_curves(
    evaluator: Evaluator,
    *,
    samples: int = 300,
    solution: int = 96,
    budgets: Sequence[int | None] = CURVE_BUDGETS,
    kinds: Sequence[int] = DIFFICULTIES,
    split: Split = "dev",
    command: str = "",
) -> dict[str, Any]:
    """Success by kind and t, and what is used when nothing is cut: the content of curves.json."""
    curves: dict[str, list[list[float | int | None]]] = {}
    natural: dict[str, dict[str, float]] = {}
    said: dict[str, dict[str, float]] = {}
    said_at: dict[str, list[list[float | int | None]]] = {}
    for steps in kinds:
        problems = make_problems(SEEDS[split], samples, split=split, steps=steps)
        kind = f"steps-{steps}"
        curves[kind], said_at[kind] = [], []
        for t in budgets:
            found = evaluator.outcomes(problems, t, solution, seed=steps)
            curves[kind].append([t, round(statistics.fmean(o.right for o in found), 4), len(found)])
            said_at[kind].append([t, round(statistics.fmean(o.solution_tokens for o in found), 1)])
            if t is None:
                natural[kind] = spread([o.thinking_tokens for o in found])
                said[kind] = spread([o.solution_tokens for o in found])
    return {
        "model": evaluator.name,
        "s": solution,
        "split": split,
        "kinds": curves,
        "natural_thinking": natural,
        "solution_tokens": said,
        "solution_by_thinking": said_at,
        "command": command,
    }


def spread(tokens: Sequence[int]) -> dict[str, float]:
    """Mean and quantiles of token counts."""
    ordered = sorted(tokens)
    at = {f"p{q}": float(ordered[min(len(ordered) - 1, len(ordered) * q // 100)]) for q in (50, 90, 99)}
    return {"mean": round(statistics.fmean(ordered), 1), **at}


def table(points: Sequence[Point]) -> str:
    """Points as a Markdown table, by difficulty too."""
    kinds = sorted({kind for point in points for kind in point.by_kind})
    head = ["model", "t", "accuracy", "95% interval", "thinking", "solution", "n", *kinds]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for p in points:
        cells = [
            p.model,
            "none" if p.t is None else str(p.t),
            f"{p.accuracy:.3f}",
            f"{p.low:.3f} to {p.high:.3f}",
        ]
        cells += [f"{p.thinking_tokens:.0f}", f"{p.solution_tokens:.0f}", str(p.n)]
        cells += [f"{p.by_kind[kind]:.2f}" if kind in p.by_kind else "" for kind in kinds]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="elastic-agent eval" if argv is not None else None,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mixture = ",".join("none" if t is None else str(t) for t in CURVE_BUDGETS)
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        required=True,
        help="embedded model (e1-tiny, e1-tiny-base) or a model folder; may be repeated",
    )
    parser.add_argument(
        "--split",
        choices=("train", "dev", "test"),
        default="dev",
        help="of the stock problems (default: dev)",
    )
    parser.add_argument(
        "--problems",
        type=int,
        default=504,
        metavar="N",
        help="problems a point, or a cell with --curves (default: 504; a point takes 10 to 60 s on one core)",
    )
    parser.add_argument(
        "--thinking",
        type=parse_mixture,
        default=CURVE_BUDGETS,
        metavar="T,T,...",
        help=f"thinking budgets; none is unconstrained (default: {mixture})",
    )
    parser.add_argument("--solution", type=int, default=96, metavar="S", help="solution budget (default: 96)")
    parser.add_argument(
        "--curves", type=Path, metavar="FILE", help="write success curves by kind to this file instead"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (default: 1)")
    args = parser.parse_args(argv)
    import torch

    torch.set_num_threads(args.threads)
    points: list[Point] = []
    for folder in (Path(model_path(str(model))) for model in args.model):
        evaluator = Evaluator(folder)
        if args.curves is not None:
            command = (
                f"python -m elastic_agent.training.evaluate --model {folder.name} "
                f"--curves {args.curves.name} --split {args.split} --problems {args.problems} "
                f"--solution {args.solution}"
            )
            found = measure_curves(
                evaluator,
                samples=args.problems,
                solution=args.solution,
                split=args.split,
                command=command,
                budgets=args.thinking,
            )
            args.curves.write_text(json.dumps(found, indent=1) + "\n")
            continue
        problems = make_problems(SEEDS[args.split], args.problems, split=args.split)
        for t in args.thinking:
            points.append(evaluator.point(problems, t, args.solution))
            print(json.dumps(points[-1].as_json()), flush=True)
    if points:
        print(table(points))


if __name__ == "__main__":
    main()
