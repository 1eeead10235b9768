"""One call, inside the task that the caller is in, or with the model's own Budget outside of any task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, cast

from elastic_agent.backends.base import Backend
from elastic_agent.budget import Budget, to_usd
from elastic_agent.errors import BackendUnavailableError, TaskClosedError
from elastic_agent.generation.call import Call
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.prepare import bounded, markers_for
from elastic_agent.generation.result import Event, Generation
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.told_budget import behind
from elastic_agent.scheduler import current_task
from elastic_agent.scheduler.ledger.prices import Price, find_price
from elastic_agent.scheduler.runtime.call import TaskCall
from elastic_agent.scheduler.runtime.context import count_outside_call

from .errors import CallTimeoutError

if TYPE_CHECKING:
    from .chat_models.options import CallOptions

T = TypeVar("T")

BACKOFF = 0.5
"""Seconds before the first retry; doubled for each further one."""
_MOST_BACKOFF = 8.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all calls of a model.

    Attributes:
        price: what the model costs; None asks the price list.
        timeout: seconds after which a call fails; None waits.
        max_retries: how often a call that broke off before its first token is tried again.
    """

    price: Price | None
    timeout: float | None
    max_retries: int


@dataclass(frozen=True, slots=True)
class CompletedCall:
    """A call that has ended.

    Attributes:
        result: what it generated.
        asked: the Budget that the caller asked for, as the model's context can hold it.
        granted: the Budget that the call got.
        reason: why it got that Budget.
        cost: what it cost in USD; None when no price is known.
        model: the model's name.
        told: its prompt says what was left of a task's budget.
    """

    result: Generation
    asked: Budget
    granted: Budget
    reason: str
    cost: Decimal | None
    model: str
    told: bool = False


class BecameFinal:
    """Comes before the events of a call that its task made its final answer."""


def may_become_final(options: CallOptions) -> bool:
    """Whether the task may make the call its final answer."""
    task = current_task()
    return task is not None and (options.on_exhausted or task.on_exhausted) == "answer"


def behind_told(messages: Sequence[dict[str, Any]], *, final: bool) -> Sequence[dict[str, Any]]:
    """The conversation of a call with what the task around it tells the model (`BudgetScheduler(tell=)`)."""
    task = current_task()
    return messages if task is None else behind(messages, task.budget_words(final=final))


async def run_all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side. When one fails, the others are cancelled and settled before it raises."""
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A call to be made.

    Attributes:
        prompt: token ids.
        answer_prompt: the prompt instead, if the task makes the call its final answer.
        told: they say what is left of the task's budget.
    """

    backend: Backend
    prompt: Sequence[int]
    options: CallOptions
    terms: Terms
    answer_prompt: Sequence[int] | None = None
    told: bool = False

    async def run(self) -> AsyncGenerator[Event | BecameFinal | CompletedCall]:
        """The call's events, and its CompletedCall last.

        A try that the upstream broke off before its first token is repeated, at most `max_retries` times;
        each try is held and charged like any other call.

        Raises:
            ElasticError: as the scheduler and the backend raise it.
            CallTimeoutError: `timeout` seconds have passed.
        """
        timeout, clock = self.terms.timeout, asyncio.get_running_loop().time
        deadline = None if timeout is None else clock() + timeout
        for attempt in range(self.terms.max_retries + 1):
            begun = False
            try:
                async with aclosing(self._try(deadline)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except BackendUnavailableError:
                if begun or attempt == self.terms.max_retries:
                    raise
                await asyncio.sleep(min(BACKOFF * 2**attempt, _MOST_BACKOFF))

    async def _try(self, deadline: float | None) -> AsyncGenerator[Event | BecameFinal | CompletedCall]:
        task, wrap_up = current_task(), self.options.wrap_up
        if wrap_up is None and task is not None:
            wrap_up = task.scheduler.wrap_up
        markers = markers_for(self.backend.codec, wrap_up=wrap_up or None)
        asked = self.options.budget(markers.close_length(Opening.SELF))
        call = self._start(asked)
        became_final = False
        async with aclosing(_until(deadline, call)) as events:
            async for event in events:
                if isinstance(call, TaskCall) and call.became_final and not became_final:
                    became_final = True
                    yield BecameFinal()
                yield event
        yield self._completed(call, bounded(self.backend, len(self.prompt), asked, markers))

    def _start(self, asked: Budget) -> Call | TaskCall:
        options = self.options
        how: dict[str, Any] = {
            "sampling": options.sampling,
            "stop": options.stop,
            "priority": options.priority,
            "solution_extra": options.guide,
            "tools": options.tools,
            "early_exit": options.early_exit,
            "wrap_up": options.wrap_up,
            "buffered": options.buffered,
        }
        task = current_task()
        if task is None:
            count_outside_call()
            return Call(self.backend, self.prompt, asked, **how | {"wrap_up": options.wrap_up or None})
        return task.call(
            self.prompt,
            backend=self.backend,
            kind=options.kind,
            thinking=asked.thinking,
            solution=asked.solution,
            final=options.final,
            weight=options.weight,
            price=self.terms.price,
            on_exhausted=options.on_exhausted,
            label=options.label,
            answer_prompt=self.answer_prompt,
            **how,
        )

    def _completed(self, call: Call | TaskCall, asked: Budget) -> CompletedCall:
        result = call.result()
        if result.solution_end is SolutionEnd.ABORTED:  # the task ended between two steps of our reader
            raise TaskClosedError("the task ended while this call's stream was open: its answer is not whole")
        if isinstance(call, TaskCall):
            assert call.grant is not None  # it ran
            granted, reason, cost = call.grant.budget, call.grant.reason, call.cost
        else:
            known = find_price(self.backend.model, own=self.terms.price)
            granted, reason = result.budget, "no task: the model's own budget"
            cost = None if known is None else to_usd(known.charge(result.usage))
        return CompletedCall(result, asked, granted, reason, cost, self.backend.model, self.told)


async def _until(deadline: float | None, call: Call | TaskCall) -> AsyncGenerator[Event]:
    """The call's events; CallTimeoutError when the deadline has passed."""
    async with aclosing(cast("AsyncGenerator[Event]", aiter(call))) as events:
        while True:
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise CallTimeoutError("the call took longer than the model's timeout") from error
            yield event
