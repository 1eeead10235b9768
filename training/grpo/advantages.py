"""Advantages of tokens: which rewards a token is responsible for.

Under anytime rewards the rows of a batch are answers: each sample thinks once and is answered at several cuts
(`elastic_agent.training.grpo.anytime`). The objective is the sum over the cuts of the expected reward. A
solution token is responsible for the reward of its own row. A thinking token is responsible for the rewards
at the cuts at or after it, because an answer that was given before the token can't depend on it. With one
solution a cut and the group as baseline this is GRPO on all rows, where the advantages of a thinking token
are summed over the rows that share it.

The rows of agents are episodes, and all of an episode's tokens carry the advantage of its reward. Where calls
have rewards of their own (`agent.credit: calls`), the tokens of a call carry the call's gain besides
(`call_gains`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.schema import AnytimeConfig
from .metrics import SampleStats


def advantages(rewards: Tensor, baseline: str = "group") -> tuple[Tensor, Tensor]:
    """Advantages of thinking, [problems, samples, cuts], and of solutions, in the shape of the rewards.

    Thinking between the cut before and this cut gets the sum, over this and the later cuts, of (mean reward
    at the cut - baseline). A solution gets (its reward - baseline) / solutions a cut. No baseline depends on
    the token, so the policy gradient of the objective has no bias. Nothing is divided by a standard
    deviation, which would weigh the cuts. (The authors' code gives solutions an objective of their own, m x k
    times as heavy beside that of thinking.)

    Args:
        rewards: [problems, samples, cuts, solutions a cut], cuts in rising order. nan is a sample
            that could not be scored: it has no advantage, and is in no mean.
        baseline: "group" takes the mean of the other samples at the same cut (for a solution: of all other
            solutions there). "budget-relative" mixes this mean, for thinking, with the rewards at the
            sample's own earlier cuts, each of which counts double its predecessor: cut number i of m takes (i
            - 1) / m of them (the paper's BRPO, except that the group's mean leaves the sample itself out).
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


def row_advantages(rewards: Tensor, group: int, anytime: AnytimeConfig) -> Tensor:
    """(advantage of its thinking, of its solution) for each row, [rows, 2]; `group`: rows of one problem."""
    table = rewards.view(-1, group // anytime.rows, anytime.cuts, anytime.solutions)
    thinking, solution = advantages(table, anytime.baseline)
    return torch.stack([thinking[..., None].expand_as(solution), solution], dim=-1).view(-1, 2)


def token_advantages(pairs: Tensor, solutions: Sequence[int], completion_mask: Tensor) -> Tensor:
    """Advantages token by token, in the shape of `completion_mask`.

    Args:
        pairs: of `row_advantages`.
        solutions: tokens of each row's solution, the last of its completion.
    """
    lengths = completion_mask.sum(1, keepdim=True)
    begins = lengths - torch.tensor(solutions, device=lengths.device)[:, None]
    thinking = torch.arange(completion_mask.shape[1], device=lengths.device) < begins
    return torch.where(thinking, pairs[:, :1], pairs[:, 1:])


def call_gains(rewards: Sequence[Sequence[float | None] | None], group: int) -> list[list[float]]:
    """Of each call of each row: its reward - the mean reward of all calls of the row's group.

    Args:
        rewards: of the calls of each row, by their numbers; those of one group stand together. A call without
            a reward (None, nan) gains nothing and is in no mean, nor are the calls of a row without any
            (None), such as a failed one.
        group: rows of one group.
    """
    known = [[math.nan if r is None else float(r) for r in row or ()] for row in rewards]
    gains: list[list[float]] = []
    for first in range(0, len(known), group):
        rows = known[first : first + group]
        scored = [reward for row in rows for reward in row if not math.isnan(reward)]
        mean = sum(scored) / len(scored) if scored else 0.0
        gains += [[0.0 if math.isnan(reward) else reward - mean for reward in row] for row in rows]
    return gains


def call_advantages(
    advantages: Tensor, gains: Sequence[Sequence[float]], call_ids: Tensor, mask: Tensor
) -> Tensor:
    """Advantages token by token, [rows, tokens]: of the row, and the gain of the token's call.

    Args:
        advantages: one a row.
        gains: of `call_gains`. TRL divides a row's advantage by its group's standard deviation; a gain stays
            in the units of the reward.
        call_ids: [rows, at most `tokens`], -1 in no call.
        mask: [rows, tokens], 1 for sampled tokens; the others get 0.
    """
    most = max(map(len, gains), default=0)
    table = torch.tensor([[*row, *[0.0] * (most - len(row)), 0.0] for row in gains], device=mask.device)
    numbers = torch.full_like(mask, -1)
    numbers[:, : call_ids.shape[1]] = call_ids
    numbers[numbers >= most] = -1  # the last column: no gain
    return (advantages[:, None] + table.gather(1, numbers % (most + 1))) * mask


def by_cut(rows: Sequence[SampleStats], group: int, anytime: AnytimeConfig) -> list[SampleStats]:
    """The rows, sorted within each problem by cut: groups that share a budget."""
    return [
        rows[problem + i]
        for problem in range(0, len(rows), group)
        for cut in range(anytime.cuts)
        for i in range(group)
        if i // anytime.solutions % anytime.cuts == cut
    ]


def anytime_metrics(rows: Sequence[SampleStats], anytime: AnytimeConfig) -> dict[str, float]:
    """The anytime curve of a batch: mean reward and mean thinking tokens at each cut, from the first."""
    curve: dict[str, float] = {}
    for cut in range(anytime.cuts):
        here = [row for i, row in enumerate(rows) if i // anytime.solutions % anytime.cuts == cut]
        known = [row.reward for row in here if not math.isnan(row.reward)]
        curve[f"anytime/{cut + 1}/reward"] = sum(known) / len(known) if known else math.nan
        curve[f"anytime/{cut + 1}/thinking"] = sum(row.thinking for row in here) / len(here)
    return curve
