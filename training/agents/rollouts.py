"""Episodes as TRL's rollouts: the cap of each episode, the limits of each turn, and the trainer's columns.

All samples of one group get the same cap, and ask for the same limits in the same turn. Then the samples
differ: a turn's grant depends on what the turns before it have used, in training as in service. So a group
compares ways of spending one cap, and that is what the model is to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget

from ..budgets.distributions import Budgets, call_seeds, deal_samples, deal_shares, seeded
from ..rollouts.engines.engine import Batch, Decode
from ..rollouts.rollout import Call, Rollout
from ..rollouts.trl_columns import RolloutFunc, batch_of, for_trl
from .agent import Agent
from .episode_runner import Trajectory, run_episodes

_CAPS, _LIMITS, _SAMPLES = 101, 102, 103  # part of a draw's seed: what is drawn


ROW_NUMBER = "row_number"
"""The column of a data set that holds the row's number in the source."""


def make_agent_rollout_func(
    agent: Agent,
    rows: Sequence[Mapping[str, Any]],
    *,
    budgets: Budgets,
    sampling: Sampling,
    seed: int,
    engine: Decode,
) -> RolloutFunc:
    """The ``rollout_func`` for TRL's GRPOTrainer, for episodes; see `make_rollout_func`.

    Nothing is remembered from batch to batch: caps, limits and samples follow from the seed, the number of
    the batch, the turn and the episode's number in the whole batch.

    Args:
        rows: as the source made them, by `ROW_NUMBER`. A data set would change them: it gives every dict in a
            column the keys of all others.
    """
    markers = agent.renderer.markers

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        batch, accelerator = batch_of(trainer), trainer.accelerator
        position = {
            "batch": batch,
            "process": accelerator.process_index,
            "processes": accelerator.num_processes,
        }
        samples, group = len(prompts), trainer.num_generations
        shares = deal_shares(samples, group, seed=seeded(seed, _CAPS), **position)
        caps = [agent.config.cap_at(share) for share in shares]

        def asked(turn: int) -> list[Budget]:
            return deal_samples(budgets, samples, group, seed=seeded(seed, _LIMITS, turn), **position)

        def decode(calls: Sequence[Call], turn: int) -> Sequence[Rollout]:
            first = accelerator.process_index * samples
            going = [first + i for i, runner in enumerate(runners) if runner.ending is None]
            draws = call_seeds(seed, _SAMPLES, batch, turn, calls=going)
            return engine(trainer, Batch(calls, markers, agent.limits.context, sampling, draws))

        runners = [
            agent.runner(rows[sample[ROW_NUMBER]], cap)
            for sample, cap in zip(trainer.rollout_rows, caps, strict=True)
        ]
        return columns(run_episodes(runners, asked, decode), caps)

    return rollout


def columns(trajectories: Sequence[Trajectory], caps: Sequence[int | None]) -> dict[str, Any]:
    """The columns that TRL, the rewards and the metrics read. `thinking_limit` is that of the first turn."""
    rollouts = [t.rollout for t in trajectories]
    given = [(list(r.completion_ids), list(r.env_mask)) for r in rollouts]
    return for_trl(rollouts, [t.turns[0].granted.thinking for t in trajectories], given) | {
        "turns": [len(t.turns) for t in trajectories],
        "tool_calls": [sum(len(turn.results) for turn in t.turns) for t in trajectories],
        "tool_errors": [sum(r.failed for turn in t.turns for r in turn.results) for t in trajectories],
        "answered": [r.finished for r in rollouts],
        "tokens": [r.usage.generated for r in rollouts],
        "task_cap": list(caps),
        "ending": [t.ending.value for t in trajectories],
        "episode_score": [t.score for t in trajectories],
    }
