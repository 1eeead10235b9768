"""One call of a backend inside a task: granted, run, steered, and settled whatever happens.

    call = task.call(prompt, kind="steps-3")
    async for event in call:          # the first step waits for the grant
        ...
    call.grant, call.usage, call.cost, call.result()

A hold is taken before the first token is asked for, the budget on the wire is the budget that is held, and
the hold ends in a `finally`, so also after a cancellation, an error, or when the generator is closed. Tokens
that the upstream may have served unseen are charged.
"""

from __future__ import annotations

import asyncio
import math
import time
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from elastic_agent.backends.base import DEFAULT_SAMPLING, Backend, Sampling
from elastic_agent.budget import Budget
from elastic_agent.generation.call import Call
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.prepare import Prompt, bounded, markers_for, prompt_ids
from elastic_agent.generation.result import Event, Generation
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.told_budget import behind
from elastic_agent.usage import Usage

from ..allocation.call_terms import CallSize, CallTerms
from ..allocation.request import Running
from ..latency.slack import CallWindow
from ..ledger.amounts import INFINITY
from ..ledger.prices import Price
from .deadline_controller import DeadlineController
from .engine_priority import engine_priority
from .held_call import HeldCall, enclosing_calls

if TYPE_CHECKING:
    from .task import Task


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """The arguments of `Task.call` that are handed on to the call of the backend unchanged."""

    sampling: Sampling = DEFAULT_SAMPLING
    stop: Sequence[str] = ()
    solution_extra: Mapping[str, Any] | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    early_exit: EarlyExit | None = None
    buffered: bool = False
    wrap_up: str | None = None


class TaskCall(HeldCall):
    """A call of `task`; made by `Task.call`, which documents the arguments. Iterate over it once."""

    def __init__(
        self,
        task: Task,
        backend: Backend,
        prompt: Prompt,
        wish: Budget,
        terms: CallTerms,
        options: GenerationOptions,
        price: Price | None = None,
        answer_prompt: Prompt | None = None,
    ) -> None:
        super().__init__(task, backend, terms, price)
        self.backend = backend
        self._prompt, self._answer_prompt, self._wish, self._options = prompt, answer_prompt, wish, options
        self._ids: list[int] = []
        self._call: Call | None = None
        self._controller: DeadlineController | None = None
        self._stream: weakref.ref[AsyncGenerator[Event]] | None = None

    # What callers see

    @property
    def usage(self) -> Usage:
        return Usage() if self._call is None else self._call.usage

    def result(self) -> Generation:
        """The answer so far; the whole answer after the iteration.

        Raises:
            RuntimeError: the call was never granted.
        """
        if self._call is None:
            raise RuntimeError("the call has not been granted: iterate over it first")
        return self._call.result()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.stream()

    def stream(self) -> AsyncGenerator[Event]:
        """The call's events; the first one waits for the grant.

        Raises:
            RuntimeError: the call was iterated over before.
            CapExceededError, DeadlineError, TaskClosedError, UnknownPriceError, ContextLengthError: refused
                before a token was spent (while iterating).
            BackendError: the upstream failed (while iterating).
        """
        if self._stream is not None:
            raise RuntimeError("a call can be iterated over once")
        stream = self._run()
        # Weakly, so that a stream whose consumer drops it is collected, and its `finally` settles
        self._stream = weakref.ref(stream)
        return stream

    async def run(self) -> Generation:
        """Run the call to its end."""
        self._options = replace(self._options, buffered=True)
        async with aclosing(self.stream()) as events:
            async for _ in events:
                pass
        return self.result()

    async def aclose(self) -> None:
        """Stop the call, if it runs; what it has used is charged."""
        stream = cast("types.AsyncGeneratorType[Event, None] | None", self._stream and self._stream())
        if stream is not None:
            if stream.ag_running:
                self.stop()
            elif self._loop in (None, asyncio.get_running_loop()):
                await stream.aclose()
            elif self.reachable:  # its connections and timers belong to another thread's loop
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_close(stream), self._loop))

    def stop(self) -> None:
        """End the call at once, from any thread; its consumer gets TaskClosedError."""
        if self._loop is not None:
            with suppress(RuntimeError):  # its loop is closed: nothing of it runs any more
                self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        if not self.settled.done():
            self.stopped = True
            if self._controller is not None:
                self._controller.stop()

    # How it runs

    async def _run(self) -> AsyncGenerator[Event]:
        self._loop = asyncio.get_running_loop()
        await self.backend.ready()
        self._ids = self._encoded(self._prompt)
        running = await self._acquire()
        try:
            self._check_open()  # the task may have ended in the moment of the grant
            enclosing_calls.set(enclosing_calls.get() | {running.hold.id})
            self._controller = self._steer(running)
            self._call = self._make_call(running, self._controller)
            async with aclosing(self._call.stream()) as events:
                async for event in events:
                    if self.stopped:
                        break
                    yield event
            self._check_open()
        finally:
            enclosing_calls.set(enclosing_calls.get() - {running.hold.id})
            self._settle_used()
            if self._call is not None and (observer := self.task.observer) is not None:
                observer.settled(self)

    def _encoded(self, prompt: Prompt) -> list[int]:
        """The prompt as ids, with what the task tells the model behind it."""
        told = behind(prompt, self.task.budget_words(final=self.terms.final))
        return prompt_ids(self.backend, told, self._options.tools)

    def _check_open(self) -> None:
        if self.stopped:
            raise self._task_ended()

    def _steer(self, running: Running) -> DeadlineController:
        """The controller that moves the call's limits while it runs."""
        assert self._loop is not None
        task = self.task
        controller = DeadlineController(
            task.scheduler.latency_for(self.backend),
            task.dispatcher.timing,
            running.rest,
            self._loop.time(),
            task.end(),
            task.state.account.span,
            running.slot,
            later=running.request.number > 1,
        )
        controller.control.extend_limit = self._extend
        controller.control.before_send = self._before_send
        if running.reduced_to is not None:
            controller.control.set_limit(running.reduced_to)
        return controller

    def _make_call(self, running: Running, controller: DeadlineController) -> Call:
        options, observer = self._options, self.task.observer
        sampling = options.sampling if observer is None else observer.sampling(self, options.sampling)
        return Call(
            self.backend,
            self._ids,
            running.grant.budget,
            sampling=sampling,
            stop=options.stop,
            control=controller.control,
            solution_extra=options.solution_extra,
            priority=self._engine_priority(running),
            early_exit=options.early_exit,
            buffered=options.buffered,
            tools=options.tools,
            wrap_up=self._wrap_up,
        )

    @property
    def _wrap_up(self) -> str | None:
        said = self._options.wrap_up
        return (self.task.scheduler.wrap_up if said is None else said) or None

    def _engine_priority(self, running: Running) -> int:
        """The number by which an engine orders the call among those of all tasks."""
        assert self._loop is not None
        task, request, moment = self.task, running.request, INFINITY
        if (end := task.end()) is not None:
            window = CallWindow(self._loop.time(), end(), task.state.account.span)
            speed = task.scheduler.latency_for(self.backend).speed()
            moment = task.dispatcher.timing.think_until(window, running.rest, speed)
        wall = time.time() - self._loop.time()
        return engine_priority(self.terms.priority, request.terms.weight, request.queue.arrived, moment, wall)

    def _settle_used(self) -> None:
        """Charge what was used; nothing, if nothing was sent."""
        usage, call = self.usage, self._call
        sent, answered = call is not None and usage.passes > 0, self._answered()
        self._settle(
            self._charge(usage) if sent else None,
            answered=answered,
            used=usage.to_dict() | self._ends() if sent else {},
            learn=usage if sent and answered else None,
        )

    # What `HeldCall` asks of its subclasses

    def _size(self) -> CallSize:
        backend, options, ids = self.backend, self._options, self._ids
        markers = markers_for(backend.codec, tools=bool(options.tools), wrap_up=self._wrap_up)
        opening = markers.opening(ids)
        budget = bounded(backend, len(ids), self._wish, markers)
        assert budget.thinking is not None
        self.price = self.task.price_for(backend.model, self.price)
        # Under a prompt that switches thinking off there is no thinking and no forced close
        closed = opening is Opening.CLOSED
        return CallSize(
            prompt=len(ids),
            fresh=self._unread(len(ids)),
            thinking=0 if closed else budget.thinking,
            solution=budget.solution,
            close=0 if closed else markers.close_length(opening),
            probes=None if options.early_exit is None else options.early_exit.probes(backend.codec),
        )

    def _unread(self, prompt: int) -> int:
        """How many tokens of a prompt the upstream will probably read: it may have cached the others."""
        speed = self.task.scheduler.latency_for(self.backend).speed()
        first = not self.task.state.status.calls
        return prompt if speed is None or first else math.ceil(prompt * speed.later)

    def _sent(self) -> bool:
        return self._call is not None

    def _answered(self) -> bool:
        end = None if self._call is None else self._call.machine.solution_end
        nothing = (None, SolutionEnd.ABORTED, SolutionEnd.REOPENED)
        return end not in nothing and not self.stopped

    def _become_final(self) -> None:
        if self._answer_prompt is None:
            self._ids = self._encoded(self._prompt)
        self._options = replace(self._options, solution_extra=None, tools=None)
        if self._answer_prompt is not None:
            self._ids = self._encoded(self._answer_prompt)

    def _on_reduced(self) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):  # its loop is closed: nothing of it runs any more
            self._loop.call_soon_threadsafe(self._reduce_here)

    def _reduce_here(self) -> None:
        running, controller = self._running, self._controller
        if controller is not None and running is not None and running.reduced_to is not None:
            controller.control.set_limit(running.reduced_to)

    def _ends(self) -> dict[str, Any]:
        if self._call is None:
            return {}
        machine = self._call.machine
        ends = {"thinking_end": machine.thinking_end, "solution_end": machine.solution_end}
        return {name: end.value if end else None for name, end in ends.items()}


async def _close(stream: AsyncGenerator[Event]) -> None:
    await stream.aclose()
