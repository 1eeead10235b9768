"""One episode: an agent's coroutine in a real task, from its row to its reward.

An episode ends in one of three ways:

    a reward    the agent returned one
    refused     a budget error left the agent: the task's caps are used up, so the episode has no answer, and
                its reward is 0. The policy did this, and learns from it.
    failed      the agent raised something else, ran out of time, returned no reward, or never called the
                model. The episode says nothing about the policy: it is left out.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Caps
from elastic_agent.errors import BackendUnavailableError, ElasticError
from elastic_agent.scheduler.runlog.report import CapAmounts
from elastic_agent.scheduler.runtime.scheduler import BudgetScheduler
from elastic_agent.scheduler.runtime.task import Task

from .clients import is_refusal
from .recorder import RecordedCall, Recorder
from .result import EpisodeResult, read_result
from .threads import in_thread

Row = Mapping[str, Any]
Agent = Callable[[Row, Any], Any]
"""(row, llm) -> the reward: a coroutine function, or a plain function, which gets a thread of its own."""
REFUSED = 0.0
"""The reward of an episode that its caps ended."""


class EpisodeFailedError(ElasticError):
    """Why an episode could not be run to a reward."""


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """What to run.

    Attributes:
        row: of the data, with all of its columns.
        number: of the row in its source, from 1: what people are told.
        caps: of the episode's task.
        seed: of its calls.
        told: whether the model is told what is left of the caps.
    """

    row: Row
    number: int
    caps: Caps
    seed: int
    told: bool = False


@dataclass(frozen=True, slots=True)
class EpisodeSetting:
    """How all episodes of a run are run.

    Attributes:
        agent: what is run.
        seconds: most seconds of one episode.
        sampling: how the model in training is sampled.
        terms: further terms of each episode's task (`TaskTerms`), from the episode's spec.
    """

    agent: Agent
    seconds: float
    sampling: Sampling
    terms: Callable[[EpisodeSpec], Mapping[str, Any]] = lambda spec: {}


class Doors(Protocol):
    """How agents reach the model other than by `llm`: by the wire of OpenAI, through a gateway."""

    def episode(self, task: Task) -> AbstractContextManager[None]:
        """Within, `use_client` gives the agent a key of its task."""
        ...

    def refused(self, task: Task) -> bool:
        """Whether the task's last request by wire was refused, because its caps are used up."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """The model in training, as agents meet it.

    Attributes:
        backend: samples with the weights in training.
        llm: the agents' `llm`, on this backend.
        doors: for agents by wire.
        make_scheduler: makes the scheduler of one episode, on this backend.
    """

    backend: Backend
    llm: Any
    doors: Doors
    make_scheduler: Callable[[], BudgetScheduler]


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode that has ended.

    Attributes:
        calls: of the model in training, in the order in which they began, without those that were stopped.
        result: what the agent returned; None: refused, or failed.
        failure: why the episode failed; "": it did not.
        lost: the episode failed because the engine was lost: it can be run again.
        notes: what its user should know, such as calls that were still running.
        spent: by its task.
        seconds: from its begin to its end.
    """

    spec: EpisodeSpec
    calls: tuple[RecordedCall, ...] = ()
    result: EpisodeResult | None = None
    failure: str = ""
    lost: bool = False
    notes: tuple[str, ...] = ()
    spent: CapAmounts | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return bool(self.failure)

    @property
    def refused(self) -> bool:
        """A budget error ended the episode."""
        return self.result is None and not self.failed

    @property
    def reward(self) -> float | None:
        """None: the episode failed."""
        if self.failed:
            return None
        return REFUSED if self.result is None else self.result.reward

    @property
    def tokens(self) -> int:
        """What its calls generated."""
        return sum(call.usage.generated for call in self.calls)


class WiderCaps:
    """Notes sub-tasks that an agent opens with caps wider than its episode's, which hold all the same.

    Attributes:
        notes: one for each unit.
    """

    def __init__(self, caps: Caps) -> None:
        usd = None if caps.usd is None else float(caps.usd)
        self._caps = {"tokens": caps.tokens, "usd": usd, "seconds": caps.seconds}
        self.notes: dict[str, None] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        """An event of the episode's tasks, as run logs have it."""
        if event.get("event") != "task_opened" or event.get("parent") is None:
            return
        for unit, cap in event["caps"].items():
            most = self._caps[unit]
            if most is not None and cap > most:
                self.notes[
                    f"the agent opened a sub-task with {unit}={cap}, more than its own: its own holds"
                ] = None


@dataclass(slots=True)
class _End:
    """How the agent's part of an episode ended: fields of `Episode`, and whether its task opened."""

    result: EpisodeResult | None = None
    failure: str = ""
    lost: bool = False
    notes: tuple[str, ...] = ()
    opened: bool = False


async def run_episode(spec: EpisodeSpec, setting: EpisodeSetting, model: Model) -> Episode:
    """Run one episode to its end, however the agent behaves; see the module.

    Raises:
        asyncio.CancelledError: the run of episodes ends.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    recorder, wider = Recorder(model.backend, spec.seed, setting.sampling), WiderCaps(spec.caps)
    scheduler = model.make_scheduler()
    terms = {"name": f"row-{spec.number}", "uncounted": "refuse", **setting.terms(spec)}
    task = scheduler.task(spec.caps, **terms, observer=recorder, log=wider)
    end = await _run(spec, setting, model, task, recorder)
    await scheduler.aclose()
    if end.result is not None:
        end.failure = _misfit(end.result, recorder)
        end.result = None if end.failure else _without_stopped(end.result, recorder)
    return Episode(
        spec=spec,
        calls=tuple(call for call in recorder.calls if not call.stopped),
        result=end.result,
        failure=end.failure,
        lost=end.lost,
        notes=(*end.notes, *wider.notes),
        spent=task.spent if end.opened else None,
        seconds=loop.time() - began,
    )


async def _run(
    spec: EpisodeSpec, setting: EpisodeSetting, model: Model, task: Task, recorder: Recorder
) -> _End:
    """Run the agent in its task."""
    end, home = _End(), os.getpid()
    try:
        async with task:
            end.opened = True
            try:
                with model.doors.episode(task):
                    end.result = read_result(await _within(setting, spec, model.llm))
            finally:
                if os.getpid() != home:  # a fork of the agent came back: the trainer is one process
                    os._exit(0)
                end.notes = _still_running(recorder)
    except BaseException as error:
        if _is_cancelled(error):
            raise
        end.result = None
        if not is_refusal(error) and not model.doors.refused(task):
            end.failure, end.lost = _words(error), _lost_engine(error)
        elif not recorder.calls:
            end.notes = (*end.notes, f"the caps hold not even one call: {error}")
    return end


async def _within(setting: EpisodeSetting, spec: EpisodeSpec, llm: Any) -> Any:
    """What the agent returns, if it returns in time."""
    try:
        async with asyncio.timeout(setting.seconds) as limit:
            return await _call(setting.agent, spec.row, llm)
    except TimeoutError:
        if limit.expired():
            raise EpisodeFailedError(f"the agent did not end within {setting.seconds:g} s") from None
        raise


async def _call(agent: Agent, row: Row, llm: Any) -> Any:
    if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(type(agent).__call__):
        return await agent(row, llm)
    found = await in_thread(lambda: agent(row, llm))
    return await found if inspect.isawaitable(found) else found


def _misfit(result: EpisodeResult, recorder: Recorder) -> str:
    """Why a reward doesn't go with the calls that were made; "" if it does."""
    made = len(recorder.calls)
    if not made:
        return "the agent returned a reward, but never called `llm`: nothing can be learnt from the episode"
    if result.calls is not None and len(result.calls) != made:
        return f"the agent returned rewards for {len(result.calls)} calls, and made {made}"
    return ""


def _without_stopped(result: EpisodeResult, recorder: Recorder) -> EpisodeResult:
    """The result with the rewards of those calls alone that came to their end."""
    if result.calls is None:
        return result
    pairs = zip(result.calls, recorder.calls, strict=True)
    return replace(result, calls=tuple(reward for reward, call in pairs if not call.stopped))


def _still_running(recorder: Recorder) -> tuple[str, ...]:
    left = recorder.running
    return (f"{left} call(s) were still running when the agent returned, and were stopped",) if left else ()


def _is_cancelled(error: BaseException) -> bool:
    """Whether the run of episodes was cancelled, and not the agent by itself."""
    here = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and here is not None and here.cancelling() > 0


def _lost_engine(error: BaseException) -> bool:
    """Whether the engine was lost: the error, or one behind it, says so."""
    seen: set[int] = set()
    while not isinstance(error, BackendUnavailableError) and id(error) not in seen:
        seen.add(id(error))
        error = error.__cause__ or error.__context__ or error
    return isinstance(error, BackendUnavailableError)


def _words(error: BaseException) -> str:
    return (
        str(error) if isinstance(error, ElasticError) else f"the agent raised {type(error).__name__}: {error}"
    )
