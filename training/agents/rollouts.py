"""Episodes as TRL's rollouts: who gets which cap and which limits, and what the trainer is told.

All samples of one group get the same cap and ask for the same limits in the same turn. From there on they
differ: what a turn is granted depends on what the turns before it have used, in training as in service. So a
group compares ways of spending one cap, which is what it is to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget

from ..budgets.distributions import Budgets, deal_samples, deal_shares, seeded
from ..rollouts.two_phase import Call, Engine, Rollout, RolloutFunc, batch_of, for_trl
from .environment import Environment
from .episode_runner import Granter, Played, Player, Rules, play
from .fields import AgentConfig
from .turn_renderer import Splicer

_CAPS, _LIMITS, _SAMPLES = 101, 102, 103  # what a draw is for, in its seed


@dataclass(frozen=True, slots=True)
class Agent:
    """What the `agent` section of a config stands for, put together by `preflight`.

    Attributes:
        make_granter: a cap in tokens -> the granter of one episode.
    """

    config: AgentConfig
    environment: Environment
    make_granter: Callable[[int], Granter]
    splicer: Splicer
    rules: Rules

    def player(self, row: Mapping[str, Any], cap: int | None) -> Player:
        """An episode at its start.

        Raises:
            CapExceededError: the cap can't hold one answer.
        """
        episode, granter = self.environment(row), None if cap is None else self.make_granter(cap)
        return Player(episode, self.prompt(row, episode.schemas), granter)

    def prompt(self, row: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids before an episode's first turn; control strings in a row's messages stay text."""
        return self.splicer.codec.encode_chat(row["prompt"], tools=list(schemas) or None)


NUMBER = "row_number"
"""The column of a data set that says which row of the source it is."""


def make_agent_rollout_func(
    agent: Agent,
    rows: Sequence[Mapping[str, Any]],
    *,
    budgets: Budgets,
    sampling: Sampling,
    seed: int,
    engine: Engine,
) -> RolloutFunc:
    """The ``rollout_func`` for TRL's GRPOTrainer, for episodes; see `rollout.make_rollout_func`.

    Nothing is remembered from batch to batch: caps, limits and samples follow from the seed, the number of
    the batch, the turn and the process.

    Args:
        rows: as the source made them, by `NUMBER`. A data set would hand them on changed: it gives every
            dict in a column the keys of all others.
    """
    markers = agent.splicer.markers

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        batch, accelerator = batch_of(trainer), trainer.accelerator
        place = {
            "batch": batch,
            "process": accelerator.process_index,
            "processes": accelerator.num_processes,
        }
        samples, group = len(prompts), trainer.num_generations
        shares = deal_shares(samples, group, seed=seeded(seed, _CAPS), **place)
        caps = [agent.config.cap_at(share) for share in shares]

        def asked(turn: int) -> list[Budget]:
            return deal_samples(budgets, samples, group, seed=seeded(seed, _LIMITS, turn), **place)

        def decode(calls: Sequence[Call], turn: int) -> Sequence[Rollout]:
            draws = seeded(seed, _SAMPLES, batch, turn, accelerator.process_index)
            return engine(trainer, calls, markers, agent.rules.context, sampling, draws)

        players = [
            agent.player(rows[sample[NUMBER]], cap)
            for sample, cap in zip(trainer.rollout_rows, caps, strict=True)
        ]
        return columns(play(players, asked, decode, agent.splicer, agent.rules), caps)

    return rollout


def columns(done: Sequence[Played], caps: Sequence[int | None]) -> dict[str, Any]:
    """What TRL, the rewards and the metrics get. The histogram of t is that of the first turns."""
    rollouts = [p.rollout for p in done]
    given = [(list(r.completion_ids), list(r.env_mask)) for r in rollouts]
    return for_trl(rollouts, [p.turns[0].granted.thinking for p in done], given) | {
        "turns": [len(p.turns) for p in done],
        "tool_calls": [sum(len(turn.results) for turn in p.turns) for p in done],
        "tool_errors": [sum(r.failed for turn in p.turns for r in turn.results) for p in done],
        "answered": [r.finished for r in rollouts],
        "tokens": [r.usage.generated for r in rollouts],
        "task_cap": list(caps),
        "ending": [p.ending.value for p in done],
        "episode_score": [p.score for p in done],
    }
