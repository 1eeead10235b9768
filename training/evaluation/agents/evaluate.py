"""Runs an agent under caps, on a model whose weights stand still.

The episodes are those of training (`elastic_agent.training.agents`): real tasks of the scheduler, in which
the agent's own coroutine runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Caps

from ...agents.agent import AgentRun
from ...agents.episode import Episode, EpisodeSpec
from ...agents.runner import run_episodes
from ...budgets.distributions import seeded


def evaluate(
    agent: AgentRun,
    backend: Backend,
    rows: Sequence[Mapping[str, Any]],
    caps: Caps,
    *,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
) -> list[Episode]:
    """The episodes of every row under these caps, `samples` times each.

    The same row and sample have the same seed under all caps, so caps are compared with less noise.

    Raises:
        BackendError: the model is lost.
    """
    specs = [
        EpisodeSpec(row, number, caps, seeded(seed, number, sample), told=bool(agent.config.tell))
        for number, row in enumerate(rows, 1)
        for sample in range(samples)
    ]
    return run_episodes(
        specs, agent.setting(sampling), agent.limits(), lambda: agent.open(_standing(backend))
    )


@asynccontextmanager
async def _standing(backend: Backend) -> AsyncIterator[Backend]:
    """A backend that stays open."""
    await backend.ready()
    yield backend
