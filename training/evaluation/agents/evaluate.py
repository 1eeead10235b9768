"""Runs an agent under each of several caps, on a model whose weights stand still.

The episodes are those of training (`elastic_agent.training.agents`): real tasks of the scheduler, in which
the agent's own coroutine runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Caps

from ...agents.agent import AgentRun
from ...agents.episode import Episode, EpisodeSpec
from ...agents.runner import run_episodes
from ...budgets.distributions import seeded

Done = Callable[[Sequence[Episode]], None]
"""Told of the episodes of one cap when all of them have ended."""


def evaluate(
    agent: AgentRun,
    backend: Backend,
    rows: Sequence[Mapping[str, Any]],
    caps: Sequence[Caps],
    *,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    done: Done = lambda episodes: None,
) -> list[list[Episode]]:
    """For each of the caps the episodes of every row, `samples` times.

    The same row and sample have the same seed under every cap, so caps are compared with less noise.

    Raises:
        BackendError: the model is lost.
    """
    found = []
    for cap in caps:
        specs = [
            EpisodeSpec(row, number, cap, seeded(seed, number, sample), told=bool(agent.config.tell))
            for number, row in enumerate(rows, 1)
            for sample in range(samples)
        ]
        episodes = run_episodes(
            specs, agent.setting(sampling), agent.limits(), lambda: agent.open(_standing(backend))
        )
        done(episodes)
        found.append(episodes)
    return found


@asynccontextmanager
async def _standing(backend: Backend) -> AsyncIterator[Backend]:
    """A backend that stays open."""
    await backend.ready()
    yield backend
