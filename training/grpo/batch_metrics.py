"""A batch of all processes, measured where its rewards and its rollouts are known together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..config.schema import AnytimeConfig
from .advantages import anytime_metrics, by_cut, row_advantages
from .metrics import AGENT, SampleStats, agent_metrics, segment_metrics

Gather = Callable[[list[Any]], list[Any]]
"""The lists of all processes, joined in the order of the processes."""


def measure_batch(
    rows: list[dict[str, Any]],
    rewards: Tensor,
    gather: Gather,
    *,
    process: int,
    group: int,
    context: int,
    anytime: AnytimeConfig | None,
) -> dict[str, float]:
    """The metrics of a batch. Under anytime rewards each row also gets its advantages, "advantage_pair".

    Args:
        rows: the rows of this process, with the columns of their rollouts.
        rewards: one a row, of all processes.
        process: number of this process.
        group: rows of one problem.
        context: most tokens of a sample, for the bins of budgets.
    """
    stats = gather([_stats(row) for row in rows])
    samples = [SampleStats(**row, reward=r) for row, r in zip(stats, rewards.tolist(), strict=True)]
    found: dict[str, float] = {}
    if anytime is not None:
        first = process * len(rows)
        pairs = row_advantages(rewards, group, anytime)[first : first + len(rows)]
        for row, pair in zip(rows, pairs, strict=True):
            row["advantage_pair"] = pair
        found = anytime_metrics(samples, anytime)
        samples = by_cut(samples, group, anytime)
        group //= anytime.cuts
    if "calls" in rows[0]:
        found |= agent_metrics(gather([{name: row[name] for name in AGENT} for row in rows]))
    return found | segment_metrics(samples, group, context)


def _stats(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `SampleStats` but for the reward, from the columns of a rollout."""
    return {
        "limit": row["thinking_limit"],
        "thinking": row["thinking_tokens"],
        "solution": row["solution_tokens"],
        "forced": row["forced_tokens"],
        "cut": row["cut"],
        "finished": row["finished"],
    }
