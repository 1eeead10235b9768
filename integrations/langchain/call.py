"""One call, under the task that the caller is in, or under the model's own Budget when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar, cast

from elastic_agent.backends.base import Backend
from elastic_agent.budget import Budget, to_usd
from elastic_agent.errors import BackendUnavailableError, TaskClosedError
from elastic_agent.generation.call import Call
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.prepare import bounded, markers_for
from elastic_agent.generation.result import Event, Generation
from elastic_agent.prompts.markers import Opening
from elastic_agent.scheduler import current_task
from elastic_agent.scheduler.ledger.prices import Price, find_price
from elastic_agent.scheduler.runtime.call import TaskCall
from elastic_agent.scheduler.runtime.context import outside

from .chat_models.options import CallOptions
from .errors import CallTimeoutError

T = TypeVar("T")

BACKOFF = 0.5
"""Seconds before the first retry; doubled for each further one."""
_SEEDS = 1_000_003
"""Between the seeds of a call's answers: more than a call has passes."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a model says of all its calls.

    Attributes:
        price: what it costs; None asks the price list.
        timeout: seconds after which a call fails; None waits.
        max_retries: how often a call that brought nothing is tried again.
    """

    price: Price | None
    timeout: float | None
    max_retries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A call that has ended: what it brought, and on what terms.

    Attributes:
        result: what it brought.
        asked: the Budget that the caller asked for, as the context can hold it.
        granted: the Budget that the call got.
        reason: why it got that.
        cost: what it cost in USD; None when nothing says what the model costs.
        model: the model's name.
    """

    result: Generation
    asked: Budget
    granted: Budget
    reason: str
    cost: Decimal | None
    model: str


def answers(options: CallOptions) -> list[CallOptions]:
    """The options of each of a call's `n` answers, which nobody reads along; a seed is another for each."""
    one, seed = replace(options, n=1, whole=True), options.sampling.seed
    if seed is None:
        return [one] * options.n
    seeds = [replace(one.sampling, seed=seed + i * _SEEDS) for i in range(options.n)]
    return [replace(one, sampling=sampling) for sampling in seeds]


def may_turn(options: CallOptions) -> bool:
    """Whether the task may turn the call into its final answer."""
    task = current_task()
    return task is not None and (options.on_exhausted or task.on_exhausted) == "answer"


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run them side by side; when one fails the others are cancelled, and have settled when it is raised."""
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


class Turned:
    """Comes before the events of a call that its task has turned into the final answer."""


async def run_call(
    backend: Backend,
    prompt: Sequence[int],
    options: CallOptions,
    terms: Terms,
    spare: Sequence[int] | None = None,
) -> AsyncGenerator[Event | Outcome | Turned]:
    """The call's events, and its Outcome last.

    A try that the upstream broke off before its first token is repeated, at most `max_retries` times; each
    try is a call of its own, held and charged like any other.

    Args:
        spare: what to ask instead when the call is turned into the task's final answer.

    Raises:
        ElasticError: as the scheduler and the backend raise them.
        CallTimeoutError: `timeout` seconds have passed.
    """
    clock = asyncio.get_running_loop().time
    deadline = None if terms.timeout is None else clock() + terms.timeout
    for attempt in range(terms.max_retries + 1):
        begun = False
        try:
            async with aclosing(_once(backend, prompt, options, terms.price, deadline, spare)) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except BackendUnavailableError:
            if begun or attempt == terms.max_retries:
                raise
            await asyncio.sleep(min(BACKOFF * 2**attempt, 8.0))


async def _once(
    backend: Backend,
    prompt: Sequence[int],
    options: CallOptions,
    price: Price | None,
    deadline: float | None,
    spare: Sequence[int] | None,
) -> AsyncGenerator[Event | Outcome | Turned]:
    task = current_task()
    wrap_up = options.wrap_up if options.wrap_up is not None or task is None else task.scheduler.wrap_up
    markers = markers_for(backend.codec, wrap_up=wrap_up or None)
    asked = options.budget(markers.close_length(Opening.SELF))
    call = _start(backend, prompt, options, asked, price, spare)
    turned = False
    async with aclosing(_generator(call)) as events:
        while True:
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    event = await anext(events)
            except StopAsyncIteration:
                break
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise CallTimeoutError("the call took longer than the model's timeout") from error
            if isinstance(call, TaskCall) and call.turned and not turned:
                turned = True
                yield Turned()
            yield event
    result = call.result()
    if result.solution_end is SolutionEnd.ABORTED:  # closed from outside between two of our steps
        raise TaskClosedError(
            "the task ended while this call's stream was open: what it brought is not whole"
        )
    if isinstance(call, TaskCall):
        assert call.grant is not None  # it ran
        granted, reason, cost = call.grant.budget, call.grant.reason, call.cost
    else:
        known = find_price(backend.model, own=price)
        granted, reason = result.budget, "no task: the model's own budget"
        cost = None if known is None else to_usd(known.charge(result.usage))
    yield Outcome(result, bounded(backend, len(prompt), asked, markers), granted, reason, cost, backend.model)


def _start(
    backend: Backend,
    prompt: Sequence[int],
    options: CallOptions,
    asked: Budget,
    price: Price | None,
    spare: Sequence[int] | None,
) -> Call | TaskCall:
    how: dict[str, Any] = {
        "sampling": options.sampling,
        "stop": options.stop,
        "priority": options.priority,
        "solution_extra": options.guide,
        "tools": options.tools,
        "early_exit": options.early_exit,
        "wrap_up": options.wrap_up,
        "whole": options.whole,
    }
    task = current_task()
    if task is None:
        outside()
        return Call(backend, prompt, asked, **how | {"wrap_up": options.wrap_up or None})
    return task.call(
        prompt,
        backend=backend,
        kind=options.kind,
        thinking=asked.thinking,
        solution=asked.solution,
        final=options.final,
        weight=options.weight,
        price=price,
        on_exhausted=options.on_exhausted,
        label=options.label,
        answer_prompt=spare,
        **how,
    )


def _generator(call: Call | TaskCall) -> AsyncGenerator[Event]:
    events: AsyncIterator[Event] = aiter(call)
    return cast("AsyncGenerator[Event]", events)
