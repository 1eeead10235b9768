"""The `agent` section of a training config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from elastic_agent.budget import Caps
from elastic_agent.config_files import Count, Natural, Seconds, Section, Share
from elastic_agent.validation import field, real

from .fields import OneOrSeveral, several


class CapsConfig(Section):
    """The caps of each episode's task. Each group of samples draws its own, the same for all of its samples:
    one number, or two between which they are drawn, uniformly in the logarithm."""

    tokens: tuple[Count, ...] | None = None
    """Thinking, close and solution of all calls together, as Caps(tokens=) counts them."""
    usd: tuple[Annotated[float, field(real, above=True)], ...] | None = None
    """Dollars, by `agent.price`."""
    seconds: tuple[Seconds, ...] | None = None
    """Wall-clock time; only where the engine is as fast as the one in production."""
    logs: Annotated[tuple[Path, ...], OneOrSeveral] = ()
    """Run logs (`run.jsonl`), or folders of them: the caps of the tasks that they hold are drawn, as often as
    they occur there; then none of the others is given."""

    @field_validator("tokens", "usd", "seconds", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return None if value is None else several(value)

    @field_validator("tokens", "usd", "seconds")
    @classmethod
    def _in_order(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and (not value or len(value) > 2 or value[0] > value[-1]):
            raise ValueError("expected one number, or the lowest and the highest")
        return value

    @model_validator(mode="after")
    def _some(self) -> Self:
        drawn = [unit for unit in ("tokens", "usd", "seconds") if getattr(self, unit) is not None]
        if bool(drawn) == bool(self.logs):
            raise ValueError(
                "set tokens, usd or seconds, or several of them; or logs, whose caps are drawn instead: an "
                "episode without a cap teaches nothing about caps"
            )
        return self

    def at(self, share: float) -> Caps:
        """The caps at `share` (0 to 1, 1 excluded) of the range; all units move together."""
        return Caps(
            tokens=None if self.tokens is None else round(_between(self.tokens, share)),
            usd=None if self.usd is None else round(_between(self.usd, share), 9),
            seconds=None if self.seconds is None else _between(self.seconds, share),
        )


def _between(ends: tuple[float, ...], share: float) -> float:
    low, high = math.log(ends[0]), math.log(ends[-1])
    return math.exp(low + share * (high - low))


class PriceConfig(Section):
    """What the model costs, for caps in dollars."""

    input: Annotated[float, field(real)]
    """Dollars per million input tokens."""
    output: Annotated[float, field(real)]
    """Dollars per million output tokens."""


class SchedulerConfig(Section):
    """The scheduler of each episode: the settings that production uses."""

    policy: str = "marginal"
    """How thinking is shared: "marginal", "uniform", or "fixed" with `thinking`."""
    thinking: Natural | None = None
    """The limit of every call under the policy "fixed"."""
    curves: str | None = None
    """A file of success curves, or the name of an embedded model; null: those that ship with the base, or a
    prior."""
    solution: Count | None = None
    """Solution tokens of calls that ask for no number; null: 512, or what the curves were measured with."""
    expect: dict[str, Count] = Field(default_factory=dict)
    """Calls to come, by kind, as `task(expect=...)` takes them: {call: 4}."""
    final_solution: Count | None = None
    """Solution tokens to keep for the final answer."""


class AgentConfig(Section):
    """Train the agent that you have: a coroutine `agent(row, llm)` that returns its reward, run as it is in
    production, each sample in a task of its own."""

    run: str | None = None
    """The agent, as "package.module:name" (looked for in the current folder, too), or by name: "lookups"."""
    command: Annotated[tuple[str, ...], OneOrSeveral] = ()
    """Instead: a program that is started for each episode, such as [node, agent.js]. It gets the row as JSON
    on its standard input, OPENAI_BASE_URL and OPENAI_API_KEY in its environment, and prints the reward as its
    last line."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Further environment of that program."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the agent, by name."""
    caps: CapsConfig
    """What an episode may spend."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """How the caps become budgets of calls."""
    price: PriceConfig | None = None
    """What the model costs."""
    llm: dict[str, Any] = Field(default_factory=dict)
    """Fields of the ChatElasticReasoning that the agent gets: {solution_budget: 64}."""
    tell: bool | str = False
    """Tell the model what is left of the caps, as `task(tell=...)` does: true, or words of your own."""
    told: Share = 1.0
    """Share of the groups that are told, with `tell`."""
    concurrency: Count = 64
    """Episodes at once, on one device."""
    seconds: Seconds = 300.0
    """Most seconds of one episode; then it has failed."""
    patience: Seconds | None = None
    """Once nine tenths of a batch have ended, the others have so many seconds more; null: their `seconds`."""
    failures: Share = 0.2
    """Share of episodes that may fail (crash, hang, return no reward) before the run stops. A failed episode
    is in no loss, and in no group's mean. The first batch counts whole."""
    credit: Literal["episode", "calls"] = "episode"
    """Who gets the reward. "episode": every token of an episode has the advantage of the episode's reward.
    "calls": to it comes, for the tokens of a call with a reward of its own (`EpisodeResult.calls`), this
    reward less the mean of all calls of the group."""
    resample: Natural = 1
    """How often a group whose rewards are all the same, which teaches nothing, is sampled again before it is
    taken as it is: with lower caps where every episode did well, with higher ones where none did."""

    @model_validator(mode="after")
    def _one_agent(self) -> Self:
        if (self.run is None) == (not self.command):
            raise ValueError("set run, for an agent in Python, or command, for one in a process of its own")
        if self.command and self.options:
            raise ValueError("options: a command's arguments stand in command")
        if not self.command and self.environment:
            raise ValueError("environment: only a command has one of its own")
        if (self.scheduler.policy == "fixed") != (self.scheduler.thinking is not None):
            raise ValueError('scheduler: policy "fixed" and thinking go together')
        if self.caps.usd is not None and self.price is None:
            raise ValueError("caps.usd needs price: {input: ..., output: ...}, in dollars per million tokens")
        return self
