"""Credit under dense rewards: which answers a token is responsible for, as advantages.

Rows are the leaves of thinkings that were answered at several cuts (`elastic_agent.training.grpo.anytime`).
What is climbed is the sum over the cuts of the expected reward. A solution token is responsible for the
reward of its own row, a thinking token for those of the cuts at or after it: an answer that was given before
it can't depend on it. With one solution a cut and the group as baseline this is GRPO on all rows, where the
advantages of a thinking token are summed over the rows that share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.schema import DenseConfig
from .metrics import Sample


def advantages(rewards: Tensor, baseline: str = "group") -> tuple[Tensor, Tensor]:
    """Advantages of thinking, [problems, samples, cuts], and of solutions, in the shape of the rewards.

    Thinking in front of a cut (and behind the one before) gets the sum over this and the later cuts of
    (mean reward there - baseline); a solution gets (its reward - baseline) / solutions a cut. Their
    policy gradient is without bias that of the sum over the cuts of the expected reward, since no baseline
    depends on the token; nor are they divided by a standard deviation, which would weigh the cuts. (The
    authors' code gives solutions an objective of their own, m x k times as heavy beside that of thinking.)

    Args:
        rewards: [problems, samples, cuts, solutions a cut], cuts in rising order; nan could not be scored
            and neither teaches nor counts.
        baseline: "group" takes the mean of the other samples at the same cut (for a solution: of all other
            solutions there). "budget-relative" mixes it, for thinking, with what the sample's own earlier
            cuts earned, each counting double its predecessor: cut number i of m takes (i - 1) / m of that
            (the paper's BRPO, but for the group's mean, which leaves the sample itself out).
    """
    at_cut = rewards.nanmean(dim=3)
    thinking = _from_here_on(at_cut - _mean_of_others(at_cut, dim=1))
    cuts = rewards.shape[2]
    if baseline == "budget-relative":
        for i in range(1, cuts):
            before = at_cut[..., :i]
            weights = 2.0 ** torch.arange(i, device=rewards.device) * ~before.isnan()
            own = (before.nan_to_num() * weights).sum(-1) / weights.sum(-1)
            progress = (at_cut[..., i:] - own[..., None]).nan_to_num().sum(-1)
            thinking[..., i] = (1 - i / cuts) * thinking[..., i] + i / cuts * progress
    same_cut = rewards.transpose(1, 2).flatten(2)
    gains = (same_cut - _mean_of_others(same_cut, dim=2)).nan_to_num() / rewards.shape[3]
    return thinking, gains.view(rewards.transpose(1, 2).shape).transpose(1, 2)


def _from_here_on(gains: Tensor) -> Tensor:
    """For each cut the sum over it and the later ones."""
    return gains.nan_to_num().flip(-1).cumsum(-1).flip(-1)


def _mean_of_others(values: Tensor, dim: int) -> Tensor:
    """The mean along `dim` without the element itself; nan where there is no other."""
    known = (~values.isnan()).to(values.dtype)
    return (values.nansum(dim, keepdim=True) - values.nan_to_num()) / (known.sum(dim, keepdim=True) - known)


def credit(rewards: Tensor, group: int, dense: DenseConfig) -> Tensor:
    """(advantage of the thinking, of the solution) of each row, [rows, 2]; `group`: rows of one problem."""
    table = rewards.view(-1, group // dense.rows, dense.cuts, dense.solutions)
    thinking, solution = advantages(table, dense.baseline)
    return torch.stack([thinking[..., None].expand_as(solution), solution], dim=-1).view(-1, 2)


def spread(credits: Tensor, solutions: Sequence[int], completion_mask: Tensor) -> Tensor:
    """Advantages token by token, in the shape of `completion_mask`: the last `solutions[i]` tokens of row i
    are its solution."""
    lengths = completion_mask.sum(1, keepdim=True)
    begins = lengths - torch.tensor(solutions, device=lengths.device)[:, None]
    thinking = torch.arange(completion_mask.shape[1], device=lengths.device) < begins
    return torch.where(thinking, credits[:, :1], credits[:, 1:])


def by_cut(rows: Sequence[Sample], group: int, dense: DenseConfig) -> list[Sample]:
    """The rows of each problem with those of one cut together: groups that share a budget."""
    return [
        rows[problem + i]
        for problem in range(0, len(rows), group)
        for cut in range(dense.cuts)
        for i in range(group)
        if i // dense.solutions % dense.cuts == cut
    ]


def anytime(rows: Sequence[Sample], dense: DenseConfig) -> dict[str, float]:
    """The anytime curve of a batch: mean reward and mean thinking tokens at each cut, from the first."""
    curve: dict[str, float] = {}
    for cut in range(dense.cuts):
        here = [row for i, row in enumerate(rows) if i // dense.solutions % dense.cuts == cut]
        known = [row.reward for row in here if not math.isnan(row.reward)]
        curve[f"anytime/{cut + 1}/reward"] = sum(known) / len(known) if known else math.nan
        curve[f"anytime/{cut + 1}/thinking"] = sum(row.thinking for row in here) / len(here)
    return curve
