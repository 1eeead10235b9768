"""The `agent` section of a training config."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, field_validator

from .fields import Count, Seconds, Section, several


class AgentConfig(Section):
    """Train on whole episodes with tools instead of single calls."""

    environment: str
    """What makes an episode of a row: an environment by name, or "package.module:name" of your own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Whatever else the environment takes, handed on by name."""
    turns: Count = 8
    """Most turns of the model; the last one must be the answer."""
    tokens: tuple[Count, ...] | None = None
    """Cap of a whole episode in tokens (thinking, close and solution of all turns), as Caps(tokens=) counts
    them: one number, or two between which each group draws its own, uniformly in the logarithm. Each turn
    then gets what the scheduler grants it out of what is left, at most the limits that `budgets` draws for
    it. null: no cap, and each turn gets what `budgets` draws."""
    scheduler: str = "elastic_agent.scheduler.runtime.offline_task:OfflineTask"
    """What turns a cap into grants, as "package.module:name"."""
    scheduler_options: dict[str, Any] = Field(default_factory=dict)
    """Handed to it by name: policy, curves, kind, expect, final_solution for the scheduler's own."""
    tool_seconds: Seconds = 10.0
    """Most seconds of one tool call; after that the model reads that there is no result."""
    tool_characters: Count = 4000
    """Most characters of one tool result."""

    @field_validator("tokens", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return None if value is None else several(value)

    @field_validator("tokens")
    @classmethod
    def _in_order(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(value) > 2 or value[0] > value[-1]):
            raise ValueError("expected one number of tokens, or the lowest and the highest")
        return value

    def cap_at(self, share: float) -> int | None:
        """The cap at `share` (0 to 1, 1 excluded) of the distribution; None: no cap."""
        if self.tokens is None:
            return None
        low, high = math.log(self.tokens[0]), math.log(self.tokens[-1])
        return round(math.exp(low + share * (high - low)))
