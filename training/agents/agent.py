"""What the `agent` section of a config stands for: an agent, its caps, and how its episodes are run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Caps
from elastic_agent.errors import ConfigError, ElasticError
from elastic_agent.prompts.told_budget import check_tell
from elastic_agent.scheduler.estimates.curve_files import load_file
from elastic_agent.scheduler.estimates.success_curve import CurveSet
from elastic_agent.scheduler.latency.model import Latency
from elastic_agent.scheduler.ledger.prices import Price
from elastic_agent.scheduler.policies import POLICIES
from elastic_agent.scheduler.policies.protocol import AllocationPolicy
from elastic_agent.scheduler.runtime.context import current_task
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler

from ..budgets.run_logs import read_caps
from ..config.agent import AgentConfig, SchedulerConfig
from ..config.fields import imported, named
from .clients import EpisodeGateway, client_of, make_llm
from .command import caps_text, check_command, run_command
from .episode import Agent, EpisodeSetting, EpisodeSpec, Model
from .lookups import lookups
from .runner import Limits

AGENTS: Mapping[str, Agent] = {"lookups": lookups}
"""What `agent.run` in a config stands for; a new one is an entry here."""


@dataclass(frozen=True, slots=True)
class AgentRun:
    """What the `agent` section of a config names, imported and checked.

    Attributes:
        agent: what is run for each sample.
        caps_at: a share (0 to 1, 1 excluded) -> the caps of a group.
        policy, curves: of each episode's scheduler; None: the base's own curves.
    """

    config: AgentConfig
    agent: Agent
    caps_at: Callable[[float], Caps]
    policy: AllocationPolicy
    curves: CurveSet | None

    def limits(self, *, reopens: bool = True) -> Limits:
        """How episodes share the machine."""
        return Limits(self.config.concurrency, self.config.patience, reopens=reopens)

    def setting(self, sampling: Sampling) -> EpisodeSetting:
        """How episodes are run whose tokens are drawn like this."""
        return EpisodeSetting(
            agent=self.agent,
            seconds=self.config.seconds,
            sampling=sampling,
            terms=self._terms,
        )

    def open(self, given: AbstractAsyncContextManager[Backend]) -> OpenedAgent:
        """The model in training as agents meet it, on a backend that is given."""
        return OpenedAgent(self, given)

    def schedulers(self, backend: Backend) -> Callable[[], BudgetScheduler]:
        """Makes an own scheduler for each episode, which so depends on no other one; speeds are shared."""
        given = self.config.price
        return partial(
            BudgetScheduler,
            backend,
            price=None if given is None else Price(given.input, given.output),
            policy=self.policy,
            curves=BudgetScheduler(backend, curves=self.curves).curves_for(backend),
            latency=Latency(),
            solution=self.config.scheduler.solution,
        )

    def _terms(self, spec: EpisodeSpec) -> Mapping[str, Any]:
        scheduler = self.config.scheduler
        terms: dict[str, Any] = {"final_solution": scheduler.final_solution, "expect": scheduler.expect}
        if spec.told:
            terms["tell"] = self.config.tell
        return terms


class OpenedAgent:
    """A backend, with the doors that agents have to it; see `runner.Opened`."""

    def __init__(self, agent: AgentRun, given: AbstractAsyncContextManager[Backend]) -> None:
        self._agent, self._given = agent, given
        self._gateway = EpisodeGateway(call_seconds=agent.config.seconds)

    async def __aenter__(self) -> Model:
        backend = await self._given.__aenter__()
        await self._gateway.__aenter__()
        llm = make_llm(backend, **self._agent.config.llm)
        return Model(backend, llm, self._gateway, self._agent.schedulers(backend))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await self._gateway.__aexit__(kind, error, trace)
        finally:
            ended = await self._given.__aexit__(kind, error, trace)
        return ended

    def abandon(self) -> None:
        """Leave the backend alone: of an engine in this process this waits for nothing, of others nothing is
        left in this process."""
        leaving = self._given.__aexit__(None, None, None)
        with suppress(StopIteration, RuntimeError):
            leaving.send(None)
        leaving.close()


def make_agent(config: AgentConfig) -> AgentRun:
    """What the section names.

    Raises:
        ConfigError: a name that can't be imported, no function of a row and a model, or no such program.
        GrantLogError: a run log without caps.
    """
    try:
        check_tell(config.tell)
    except ElasticError as error:
        raise ConfigError(f"agent.tell: {error}") from error
    return AgentRun(
        config=config,
        agent=_agent(config),
        caps_at=_caps_at(config),
        policy=_policy(config.scheduler),
        curves=_curves(config.scheduler),
    )


def _agent(config: AgentConfig) -> Agent:
    if config.command:
        try:
            check_command(config.command)
        except ValueError as error:
            raise ConfigError(f"agent.command: {error}") from error
        return partial(_run_command, config)
    name = config.run or ""
    if ":" not in name:
        agent = named(AGENTS, name, "agent.run (or module:function)")
    else:
        here = str(Path.cwd())
        if here not in sys.path:  # as `python -m` does: the agent is in the user's folder
            sys.path.insert(0, here)
        agent = imported(name, "agent.run")
    if not callable(agent):
        raise ConfigError(f"agent.run: {name} is no function but a {type(agent).__name__}")
    try:
        inspect.signature(agent).bind({}, None, **config.options)
    except TypeError as error:
        raise ConfigError(
            f"agent.run: {name} can't be called as "
            f"agent(row, llm{''.join(f', {option}=' for option in config.options)}): {error}"
        ) from error
    except ValueError:  # a builtin tells no signature
        pass
    return partial(agent, **config.options) if config.options else agent


async def _run_command(config: AgentConfig, row: Mapping[str, Any], llm: Any) -> Any:
    """The agent that a command is."""
    task = current_task()
    return await run_command(
        config.command,
        row,
        client_of(llm),
        seconds=config.seconds,
        caps=None if task is None else caps_text(task.caps),
        environment=config.environment,
    )


def _caps_at(config: AgentConfig) -> Callable[[float], Caps]:
    if not config.caps.logs:
        return config.caps.at
    found = read_caps(config.caps.logs)
    return lambda share: found[int(share * len(found))]


def _policy(config: SchedulerConfig) -> AllocationPolicy:
    make = named(POLICIES, config.policy, "agent.scheduler.policy")
    return make() if config.thinking is None else make(config.thinking)


def _curves(config: SchedulerConfig) -> CurveSet | None:
    if config.curves is None:
        return None
    try:
        return load_file(Path(config.curves))
    except (ElasticError, OSError, ValueError) as error:
        raise ConfigError(f"agent.scheduler.curves: {error}") from error
