"""One model at one budget, in process: what benchmarks, tests and model cards measure.

Every point samples each stock problem once at T=0.6, top_p=0.95, with separate budgeting, in the precision
that ships, and reports accuracy with a bootstrap interval over problems, by difficulty too, and the thinking
and solution tokens that were really used. An answer counts when the solution ended within its limit and
states the right number. Grids, strategies and servers are `elastic_agent.training.evaluation.grid`'s.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget

from ..data.stock_problems import Problem
from ..model import load_model
from ..rewards import solution_reward
from .reports.stats import bootstrap

PAPER_SAMPLING = Sampling(temperature=0.6, top_p=0.95)


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
        from elastic_agent.prompts.model_files import load_tokenizer

        from ..rollouts.two_phase import markers_of

        self.name = name or Path(folder).name
        self.model = load_model(folder)
        self.tokenizer: Any = load_tokenizer(folder)
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

        from elastic_agent.backends.transformers.decode import BatchDecoder

        from ..rollouts.two_phase import prompt_ids_of, roll_out

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
                right=solution_reward(self.tokenizer.decode(r.solution_shown), r.finished, problem.answer)
                > 0,
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
