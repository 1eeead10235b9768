"""Episodes as TRL's rollouts: the caps of each group, groups that are sampled again, the trainer's columns.

All samples of a group are episodes of one row under the same caps. What each call is granted depends on what
the calls before it have used, in training as in production. So a group compares ways of spending one cap, and
that is what the model is to learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, NamedTuple, Self

from elastic_agent.backends.base import Sampling
from elastic_agent.errors import ElasticError

from ..budgets.distributions import deal_shares, seeded
from ..rollouts.engines.engine import Serves
from ..rollouts.trl_columns import RolloutFunc, batch_of, episode_columns
from .agent import AgentRun
from .episode import Episode, EpisodeSpec
from .runner import run_episodes
from .sequences import TokenSequence, row_from, sequences_of

_CAPS, _TOLD, _EPISODES, _AGAIN = 101, 102, 103, 104  # part of a draw's seed: what is drawn
_TOLD_ROWS = 3
"""Failures of a batch that are told one by one."""

ROW_NUMBER = "row_number"
"""The column of TRL's data set that holds the place of a row among those of the run."""


def numbered(rows: int) -> list[dict[str, Any]]:
    """What TRL gets for its data set: the places of the rows, and a prompt for its tables. An agent makes its
    own prompts, and TRL would change the rows: it gives every dict in a column the keys of all others."""
    return [{"prompt": [{"role": "user", "content": f"row {at + 1}"}], ROW_NUMBER: at} for at in range(rows)]


class EpisodesFailedError(ElasticError):
    """Too many episodes of a run failed (`agent.failures`)."""


@dataclass(slots=True)
class Failures:
    """Counts failed episodes, and tells which rows they had.

    Args:
        most: share of the run's episodes that may fail.
        log: gets lines for people.
    """

    most: float
    log: Callable[[str], None]
    episodes: int = 0
    failed: int = 0
    _noted: set[str] = field(default_factory=set)

    def add(self, episodes: Sequence[Episode]) -> None:
        """Count the episodes of a batch.

        Raises:
            EpisodesFailedError: too many of the run's episodes have failed.
        """
        wrong = [episode for episode in episodes if episode.failed]
        self.episodes += len(episodes)
        self.failed += len(wrong)
        for episode in wrong[:_TOLD_ROWS]:
            self.log(f"row {episode.spec.number}: {episode.failure}")
        if len(wrong) > _TOLD_ROWS:
            self.log(f"and {len(wrong) - _TOLD_ROWS} more of {len(episodes)} episodes failed")
        for episode in episodes:
            for note in episode.notes:
                if note not in self._noted:
                    self._noted.add(note)
                    self.log(f"row {episode.spec.number}: {note}")
        if self.failed > self.most * self.episodes:
            raise EpisodesFailedError(
                f"{self.failed} of {self.episodes} episodes failed, and agent.failures lets {self.most:.0%} "
                f"fail; the last failure, of row {wrong[-1].spec.number}: {wrong[-1].failure}"
            )

    def note_sequences(
        self, episodes: Sequence[Episode], sequences: Sequence[Sequence[TokenSequence]]
    ) -> None:
        """Tell once where no episode's calls extend each other.

        Args:
            sequences: of each episode.
        """
        several = [
            (episode, len(found))
            for episode, found in zip(episodes, sequences, strict=True)
            if len(episode.calls) > 1
        ]
        note = "no call extends the one before"
        if note in self._noted or not several:
            return
        if all(count == len(episode.calls) for episode, count in several):
            self._noted.add(note)
            self.log(
                f"row {several[0][0].spec.number}: {note}, so each call is a sequence of its own, whose "
                f"prompt is read again in the update (chat templates that drop earlier thinking do this; "
                f"so does an agent that changes its earlier messages)"
            )


@dataclass(slots=True)
class Groups:
    """The groups of one batch in this process, while it is sampled.

    Attributes:
        shares: of each sample: the share (0 to 1) at which its caps are drawn.
        specs: of each sample.
        tries: how often groups without signal may still be sampled again.
        again: groups that were sampled again, so far.
    """

    agent: AgentRun
    size: int
    seed: int
    shares: list[float]
    specs: list[EpisodeSpec]
    tries: int
    again: int = 0

    def resample(self, episodes: Sequence[Episode]) -> Mapping[int, EpisodeSpec]:
        """New specs, by number of the sample, for the groups whose rewards are all the same.

        Such a group teaches nothing. It is drawn again with lower caps where its rewards are above the
        batch's mean, and with higher ones where they are below: there its rewards may differ.
        """
        rewards = [episode.reward for episode in episodes]
        known = [reward for reward in rewards if reward is not None]
        if not self.tries or not known:
            return {}
        self.tries -= 1
        mean, found = fmean(known), dict[int, EpisodeSpec]()
        for first in range(0, len(rewards), self.size):
            here = [reward for reward in rewards[first : first + self.size] if reward is not None]
            if here and max(here) - min(here) > 1e-9:
                continue
            self.again += 1
            seed = seeded(self.seed, _AGAIN, first, self.tries)
            share = moved(
                self.shares[first], fmean(here) - mean if here else 0.0, random.Random(seed).random()
            )
            for i in range(first, first + self.size):
                self.shares[i] = share
                spec = replace(self.specs[i], caps=self.agent.caps_at(share), seed=seeded(seed, i))
                self.specs[i] = found[i] = spec
        return found


def moved(share: float, better: float, draw: float) -> float:
    """The share at which the caps of a group are drawn anew.

    Args:
        share: the one before.
        better: the group's reward, less the mean of the batch.
        draw: in [0, 1).
    """
    if better == 0:
        return draw
    return share * draw if better > 0 else min(share + (1 - share) * draw, 1 - 1e-9)


def make_agent_rollout_func(
    agent: AgentRun,
    rows: Sequence[Mapping[str, Any]],
    numbers: Sequence[int],
    *,
    sampling: Sampling,
    seed: int,
    engine: Serves,
    filler: int,
    log: Callable[[str], None],
) -> RolloutFunc:
    """The ``rollout_func`` for TRL's GRPOTrainer, for episodes; see `make_rollout_func`.

    Nothing is remembered from batch to batch but the number of failures: caps and samples follow from the
    seed, the number of the batch and the episode's number in the whole batch.

    Args:
        rows: as the source made them, in the order of the run.
        numbers: of each its number in the source, from 1.
        filler: the token that stands for an episode in which nothing was sampled.
        log: gets a line for each failure.
    """
    failures = Failures(agent.config.failures, log)

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        groups = _groups(agent, rows, numbers, trainer, seed)
        at_once = min(agent.config.concurrency, len(prompts))
        episodes = run_episodes(
            groups.specs,
            agent.setting(replace(sampling, logprobs=engine.gives_logprobs)),
            agent.limits(reopens=trainer.accelerator.num_processes == 1),
            lambda: agent.open(engine.serving(trainer, at_once)),
            groups.resample,
        )
        failures.add(episodes)
        sequences = [sequences_of(episode.calls) for episode in episodes]
        failures.note_sequences(episodes, sequences)
        engine.check_served(trainer, [_Read.of(one) for found in sequences for one in found])
        made = columns(episodes, sequences, filler=filler, logprobs=engine.gives_logprobs)
        if agent.config.credit == "calls":
            results = [episode.result for episode in episodes]
            made["call_rewards"] = [None if r is None or r.calls is None else list(r.calls) for r in results]
        return made | {"resampled": [groups.again * groups.size / len(prompts)] * len(prompts)}

    return rollout


def _groups(
    agent: AgentRun, rows: Sequence[Mapping[str, Any]], numbers: Sequence[int], trainer: Any, seed: int
) -> Groups:
    """The groups of the batch that comes next, by the rows that TRL has dealt to this process."""
    batch, accelerator, size = batch_of(trainer), trainer.accelerator, trainer.num_generations
    dealt, first = trainer.rollout_rows, accelerator.process_index * len(trainer.rollout_rows)
    position = {"batch": batch, "process": accelerator.process_index, "processes": accelerator.num_processes}
    shares = deal_shares(len(dealt), size, seed=seeded(seed, _CAPS), **position)
    told = deal_shares(len(dealt), size, seed=seeded(seed, _TOLD), **position)
    specs = [
        EpisodeSpec(
            row=rows[sample[ROW_NUMBER]],
            number=numbers[sample[ROW_NUMBER]],
            caps=agent.caps_at(shares[i]),
            seed=seeded(seed, _EPISODES, batch, first + i),
            told=bool(agent.config.tell) and told[i] < agent.config.told,
        )
        for i, sample in enumerate(dealt)
    ]
    return Groups(agent, size, seeded(seed, _AGAIN, batch), list(shares), specs, agent.config.resample)


class _Read(NamedTuple):
    """A sequence as the engine's check reads it."""

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    logprobs: Sequence[float | None]

    @classmethod
    def of(cls, found: TokenSequence) -> Self:
        return cls(found.ids[: found.prompt], found.ids[found.prompt :], found.logprobs[found.prompt :])


def columns(
    episodes: Sequence[Episode],
    sequences: Sequence[Sequence[TokenSequence]],
    *,
    filler: int,
    logprobs: bool,
) -> dict[str, Any]:
    """The columns that TRL, the reward and the metrics read.

    `thinking_limit` is that of the first call, the solution that of the last one; tokens are sums over all.
    """
    rows = [row_from(found, episode.calls) for found, episode in zip(sequences, episodes, strict=True)]
    failed = [episode.failed for episode in episodes]
    spent = [[call.usage for call in episode.calls] for episode in episodes]
    last = [episode.calls[-1] if episode.calls else None for episode in episodes]
    results = [episode.result for episode in episodes]
    return episode_columns(rows, failed, token=filler, logprobs=logprobs) | {
        "solution_ids": [list(call.solution_ids) if call else [] for call in last],
        "finished": [call is not None and call.finished for call in last],
        "cut": [any(call.cut for call in episode.calls) for episode in episodes],
        "forced_tokens": [sum(usage.forced for usage in usages) for usages in spent],
        "thinking_tokens": [sum(usage.thinking for usage in usages) for usages in spent],
        "solution_tokens": [sum(usage.solution for usage in usages) for usages in spent],
        "thinking_limit": [e.calls[0].granted.thinking if e.calls else 0 for e in episodes],
        "calls": [len(episode.calls) for episode in episodes],
        "refused": [episode.refused for episode in episodes],
        "tokens": [episode.tokens for episode in episodes],
        "task_cap": [episode.spec.caps.tokens for episode in episodes],
        "seconds": [episode.seconds for episode in episodes],
        "episode_score": [episode.reward for episode in episodes],
        "episode_metrics": [dict(r.metrics) if r is not None else {} for r in results],
    }
