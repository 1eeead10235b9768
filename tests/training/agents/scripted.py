"""Episodes on a scripted model, for the tests."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.budget import Caps
from elastic_agent.scheduler.runtime.context import current_task
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task
from elastic_agent.training.agents.episode import Agent, Episode, EpisodeSetting, EpisodeSpec, Model
from elastic_agent.training.agents.runner import Again, Limits, run_episodes

LIMITS = Limits()
REPLY = Reply("hm " * 20, "so " * 4)


class NoDoors:
    """No agent here comes by wire."""

    @contextmanager
    def episode(self, task: Task) -> Iterator[None]:
        yield

    def refused(self, task: Task) -> bool:
        return False


async def ask(prompt: str = "how many ?", **options: Any) -> str:
    """A call of the model in the task that is current."""
    task = current_task()
    assert task is not None
    return (await task.generate(prompt, solution=8, **options)).solution


def setting(agent: Agent, **changes: Any) -> EpisodeSetting:
    given = EpisodeSetting(agent, seconds=20.0, sampling=Sampling(logprobs=True))
    return replace(given, **changes)


def specs(count: int, tokens: int = 200, **row: Any) -> list[EpisodeSpec]:
    return [
        EpisodeSpec({"number": number, **row}, number + 1, Caps(tokens=tokens), seed=number)
        for number in range(count)
    ]


class Opens:
    """A backend that is there."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.abandoned = False

    async def __aenter__(self) -> Model:
        return Model(self._backend, None, NoDoors(), partial(BudgetScheduler, self._backend))

    async def __aexit__(self, *_: object) -> None: ...

    def abandon(self) -> None:
        self.abandoned = True


def run(
    agent: Agent,
    given: Sequence[EpisodeSpec],
    *,
    backend: Backend | None = None,
    limits: Limits = LIMITS,
    again: Again = lambda episodes: {},
    **changes: Any,
) -> list[Episode]:
    """The episodes of these specs, on a scripted model unless another is given."""
    made = setting(agent, **changes)
    opened = Opens(backend or ScriptedBackend(REPLY))
    return run_episodes(given, made, limits, lambda: opened, again)


async def one_call(row: Mapping[str, Any], llm: Any) -> float:
    """The simplest agent."""
    return float("so" in await ask())
