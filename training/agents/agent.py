"""What the `agent` section of a config stands for: an environment, a scheduler of caps, and the limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from elastic_agent.errors import ElasticError
from elastic_agent.prompts.tokenizer import HFCodec

from ..budgets.distributions import Budgets
from ..config.agent import AgentConfig
from ..config.fields import ConfigError, imported, named
from ..config.schema import RolloutConfig
from .environment import Environment, Episode
from .episode_runner import BudgetAllocator, EpisodeLimits, EpisodeRunner
from .lookup_environment import lookup_environment
from .turn_renderer import TurnRenderer

ENVIRONMENTS: dict[str, Callable[..., Episode]] = {"lookups": lookup_environment}
"""What `agent.environment` in a config stands for; a new one is an entry here."""


@dataclass(frozen=True, slots=True)
class Agent:
    """What the `agent` section of a config names, imported and checked.

    Attributes:
        make_allocator: a cap in tokens -> the allocator of one episode.
    """

    config: AgentConfig
    environment: Environment
    make_allocator: Callable[[int], BudgetAllocator]
    renderer: TurnRenderer
    limits: EpisodeLimits

    def runner(self, row: Mapping[str, Any], cap: int | None) -> EpisodeRunner:
        """A new episode of a row.

        Raises:
            CapExceededError: the cap can't hold one answer.
        """
        episode, allocator = self.environment(row), None if cap is None else self.make_allocator(cap)
        ids = self.prompt(row, episode.schemas)
        return EpisodeRunner(episode, ids, self.renderer, self.limits, allocator)

    def prompt(self, row: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids before an episode's first turn; control strings in a row's messages stay text."""
        return self.renderer.codec.encode_chat(row["prompt"], tools=list(schemas) or None)


def make_agent(
    section: AgentConfig, rollout: RolloutConfig, codec: HFCodec, budgets: Budgets, row: Mapping[str, Any]
) -> Agent:
    """The agent of a config, once the episode of this row can start under the lowest cap.

    Raises:
        ConfigError: a name that can't be imported, or an episode that can't start.
    """
    name = section.environment
    environment: Callable[..., Episode] = (
        imported(name, "agent.environment") if ":" in name else named(ENVIRONMENTS, name, "agent.environment")
    )
    scheduler = imported(section.scheduler, "agent.scheduler")
    renderer = TurnRenderer(codec, rollout.wrap_up)
    agent = Agent(
        section,
        partial(environment, **section.options),
        partial(scheduler, close=renderer.close, **section.scheduler_options),
        renderer,
        EpisodeLimits(section.turns, rollout.context, section.tool_seconds, section.tool_characters),
    )
    try:
        first = agent.runner(row, section.cap_at(0.0))
        renderer.between(first.episode.role, ["x"])
        first.next_grant(budgets.at(0.0, 0))
    except (ElasticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"agent: the first episode can't start: {type(error).__name__}: {error}") from error
    return agent
