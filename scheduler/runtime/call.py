"""One call inside a task: admitted, run, steered, and settled whatever happens.

    call = task.call(prompt, kind="steps-3")
    async for event in call:          # the first step waits for the grant
        ...
    call.grant, call.usage, call.cost, call.result()

The order of things is the promise: a hold is taken before the first token is asked for, the budget on the
wire is the hold's, and the hold ends in a `finally` that no cancellation, exception or closed generator
gets around. What the upstream may have served and nobody saw is charged.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import time
import types
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.budget import Budget, to_usd
from elastic_agent.errors import CapExceededError, StoreUnavailableError, TaskClosedError
from elastic_agent.generation.call import Call
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.phases.stop_reasons import SolutionEnd
from elastic_agent.generation.prepare import Prompt, bounded, markers_for, prompt_ids
from elastic_agent.generation.result import Event, Generation
from elastic_agent.prompts.markers import Opening
from elastic_agent.usage import Usage

from ..allocation.grant import Grant
from ..allocation.request import OnExhausted, Request, Running
from ..estimates.workload import FINAL
from ..latency.slack import Window
from ..ledger.amounts import INFINITY, Amount
from ..ledger.prices import Price
from ..runlog.report import CallReport
from .acquire import acquire, acquire_durably
from .deadline_controller import DeadlineController
from .engine_priority import engine_priority

if TYPE_CHECKING:
    from .task import Task

_around: ContextVar[frozenset[str]] = ContextVar("elastic_agent_open_calls", default=frozenset())
"""Holds of the calls whose stream is open around this point: what is awaited here ends before they can."""


class TaskCall:
    """A call of `task`; made by `Task.call`, which documents the arguments. Iterate over it once.

    Attributes:
        turned: the caps were used up, and it was asked for the final answer instead.
    """

    def __init__(
        self,
        task: Task,
        prompt: Prompt,
        backend: Backend,
        *,
        kind: str,
        thinking: int | None,
        solution: int | None,
        final: bool,
        weight: float,
        sampling: Sampling,
        stop: Sequence[str],
        solution_extra: Mapping[str, Any] | None,
        priority: int,
        price: Price | None,
        on_exhausted: OnExhausted | None,
        tools: Sequence[Mapping[str, Any]] | None,
        label: str | None,
        answer_prompt: Prompt | None = None,
        early_exit: EarlyExit | None = None,
        buffered: bool = False,
        wrap_up: str | None = None,
    ) -> None:
        self.task = task
        self.backend = backend
        self.kind = kind
        self.label = label
        self.final = final or kind == FINAL
        self.price = price
        self.turned = False
        self._prompt, self._tools, self._answer_prompt = prompt, tools, answer_prompt
        self._wish = Budget(
            thinking, solution if solution is not None else task.scheduler.solution_for(backend)
        )
        self._weight, self._priority = weight, priority
        self._sampling, self._stop_strings, self._extra = sampling, tuple(stop), solution_extra
        self._exit, self._buffered = early_exit, buffered
        self._wrap_up = (task.scheduler.wrap_up if wrap_up is None else wrap_up) or None
        self._on_exhausted: OnExhausted = on_exhausted or task.on_exhausted
        self._call: Call | None = None
        self._pilot: DeadlineController | None = None
        self._running: Running | None = None
        self._request: Request | None = None
        self._stopped = False
        self._seconds = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: weakref.ref[AsyncGenerator[Event]] | None = None
        self._refused: Exception | None = None
        self.settled: concurrent.futures.Future[None] = concurrent.futures.Future()

    # What callers see

    @property
    def grant(self) -> Grant | None:
        """What it was given; None before."""
        return None if self._running is None else self._running.grant

    @property
    def usage(self) -> Usage:
        """Tokens so far; final when it is over, however it ended."""
        return Usage() if self._call is None else self._call.usage

    @property
    def cost(self) -> Decimal | None:
        """Dollars so far; None without a price."""
        return None if self.price is None else to_usd(self.price.charge(self.usage))

    def result(self) -> Generation:
        """What is known so far; the whole answer after the iteration.

        Raises:
            RuntimeError: it was never granted.
        """
        if self._call is None:
            raise RuntimeError("the call has not been granted: iterate over it first")
        return self._call.result()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.stream()

    def stream(self) -> AsyncGenerator[Event]:
        """Admit and run it.

        Raises:
            RuntimeError: it was iterated over before.
            CapExceededError, DeadlineError, TaskClosedError, UnknownPriceError, ContextLengthError: refused
                before a token was spent (while iterating).
            BackendError: the upstream failed (while iterating).
        """
        if self._stream is not None:
            raise RuntimeError("a call can be iterated over once")
        stream = self._run()
        # Weakly: a stream that its consumer drops has to be collected, for its `finally` to settle.
        self._stream = weakref.ref(stream)
        return stream

    async def run(self) -> Generation:
        """Run it to its end."""
        self._buffered = True
        async with aclosing(self.stream()) as events:
            async for _ in events:
                pass
        return self.result()

    async def aclose(self) -> None:
        """Stop it, if it runs; what it has used is charged."""
        stream = cast("types.AsyncGeneratorType[Event, None] | None", self._stream and self._stream())
        if stream is not None:
            if stream.ag_running:
                self.stop()
            elif self._loop in (None, asyncio.get_running_loop()):
                await stream.aclose()
            elif self.reachable:  # its connections and timers belong to another thread's loop
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_close(stream), self._loop))

    @property
    def reachable(self) -> bool:
        """Its event loop runs: it can be stopped, and will settle. On an idle loop nothing ever happens."""
        return self._loop is not None and self._loop.is_running()

    def report(self) -> CallReport:
        """Its line in the task's report."""
        number = self._request.number if self._request else 0
        base: dict[str, Any] = {
            "task": self.task.name,
            "number": number,
            "kind": self.kind,
            "label": self.label,
            "model": self.backend.model,
        }
        if self._running is None or self._call is None:
            if self._refused is None:
                return CallReport(**base, outcome="withdrawn" if self.settled.done() else "waiting")
            return CallReport(**base, outcome="refused", reason=str(self._refused))
        machine, grant, lowered = self._call.machine, self._running.grant, self._running.lowered
        outcome = "answered" if self._answered() else "stopped" if self._running.done else "running"
        return CallReport(
            **base,
            outcome=outcome,
            grant=grant,
            usage=self.usage,
            refund=self._running.refund.tokens,
            cost=self.cost,
            seconds=self._seconds,
            thinking_end=machine.thinking_end.value if machine.thinking_end else None,
            solution_end=machine.solution_end.value if machine.solution_end else None,
            reason=grant.reason if lowered is None else f"{grant.reason}; later lowered to {lowered}",
        )

    # How it runs

    async def _run(self) -> AsyncGenerator[Event]:
        task, self._loop = self.task, asyncio.get_running_loop()
        await self.backend.ready()
        ids, running = await self._acquire(prompt_ids(self.backend, self._prompt, self._tools))
        hold = running.hold.id
        try:
            if self._told():  # its task ended in the very moment in which it was granted
                raise TaskClosedError(f"task {task.name!r} has ended: it takes no more calls")
            _around.set(_around.get() | {hold})
            self._pilot = DeadlineController(
                task.scheduler.latency_for(self.backend),
                task.dispatcher.timing,
                running.rest,
                self._loop.time(),
                task.end(),
                task.dispatcher.ledger.span(task.state.account),
                running.slot,
                later=running.request.number > 1,
            )
            self._pilot.control.extend_limit = self._more
            self._pilot.control.before_send = self._may_send
            self._lower_here()  # it may have been told already
            self._call = Call(
                self.backend,
                ids,
                running.grant.budget,
                sampling=self._sampling,
                stop=self._stop_strings,
                control=self._pilot.control,
                solution_extra=self._extra,
                priority=self._urgency(running),
                early_exit=self._exit,
                buffered=self._buffered,
                tools=self._tools,
                wrap_up=self._wrap_up,
            )
            async with aclosing(self._call.stream()) as events:
                async for event in events:
                    if self._told():
                        break
                    yield event
            if self._told():
                raise TaskClosedError(
                    f"task {task.name!r} has ended: its call {running.request.number} was stopped"
                )
        finally:
            _around.set(_around.get() - {hold})
            self._settle(running)

    def _urgency(self, running: Running) -> int:
        """Its priority at the engine."""
        assert self._loop is not None
        task, request, moment = self.task, running.request, INFINITY
        if (end := task.end()) is not None:
            window = Window(self._loop.time(), end(), task.dispatcher.ledger.span(task.state.account))
            moment = task.dispatcher.timing.think_until(
                window, running.rest, task.scheduler.latency_for(self.backend).speed()
            )
        wall = time.time() - self._loop.time()
        return engine_priority(self._priority, request.weight, request.arrived, moment, wall)

    def _lowered(self) -> None:
        """Its thinking limit is lower now; from any thread, under the ledger's lock."""
        assert self._loop is not None
        with suppress(RuntimeError):  # its loop is closed: nothing of it runs any more
            self._loop.call_soon_threadsafe(self._lower_here)

    def _lower_here(self) -> None:
        if self._pilot is not None and self._running is not None and self._running.lowered is not None:
            self._pilot.control.set_limit(self._running.lowered)

    async def _may_send(self) -> None:
        assert self._running is not None
        await self.task.may_send(self._running)

    async def _more(self, used: int) -> int | None:
        """Its thinking has reached its limit: a higher one, or None."""
        running, dispatcher, durable = self._running, self.task.dispatcher, self.task.scheduler.durable
        assert running is not None
        assert self._loop is not None
        assert self._pilot is not None
        raised = dispatcher.more(running, used, self._loop.time())
        if raised is None:
            return None
        if durable is not None:
            try:
                held = await durable.take(raised.hold) is None
            except (StoreUnavailableError, TaskClosedError):
                held = False
            if not held:
                dispatcher.drop(running, raised, self._loop.time())
                return None
        return running.grant.budget.thinking

    async def _acquire(self, ids: list[int]) -> tuple[list[int], Running]:
        """Queue up, wait for the dispatcher's word and a durable ledger's; returns what is asked in the
        end."""
        tracked = False

        def track() -> None:
            nonlocal tracked
            if not tracked:
                tracked = True
                self.task.track(self)

        try:
            try:
                self._running = await self._granted(ids, self._make_request(ids), track)
            except CapExceededError:
                if self._on_exhausted != "answer" or self.final or self.task.state.answered:
                    raise
                self.final = self.turned = True
                self._on_exhausted, self._extra, self._tools = "shrink", None, None
                if self._answer_prompt is not None:
                    ids = prompt_ids(self.backend, self._answer_prompt)
                self._running = await self._granted(ids, self._again(ids), track)
            return ids, self._running
        except BaseException as error:
            self._refused = error if isinstance(error, Exception) else None
            self._finish()
            raise

    async def _granted(self, ids: Sequence[int], request: Request, track: Callable[[], None]) -> Running:
        dispatcher, durable = self.task.dispatcher, self.task.scheduler.durable
        self._request = request
        if durable is None:
            return await acquire(dispatcher, request, track)
        track()
        return await acquire_durably(dispatcher, durable, request, lambda: self._again(ids))

    def _again(self, ids: Sequence[int]) -> Request:
        """The same call, asking once more."""
        assert self._request is not None
        before, self._request = self._request, self._make_request(ids)
        self._request.number, self._request.declared = before.number, before.declared
        self._request.fresh = before.fresh
        return self._request

    def _make_request(self, ids: Sequence[int]) -> Request:
        task, backend, scheduler = self.task, self.backend, self.task.scheduler
        markers = markers_for(backend.codec, tools=bool(self._tools), wrap_up=self._wrap_up)
        opening = markers.opening(ids)
        budget = bounded(backend, len(ids), self._wish, markers)
        assert budget.thinking is not None
        close = markers.close_length(opening)
        thinking = budget.thinking
        if opening is Opening.CLOSED:
            close = thinking = 0  # the prompt has switched thinking off: nothing to think, nothing to force
        self.price = task.price_for(backend.model, self.price)
        endpoint = scheduler.endpoint_for(backend)
        speed = scheduler.latency_for(backend).speed()  # the dispatcher is told what follows from it: `fresh`
        return Request(
            task=task.state,
            kind=self.kind,
            prompt=len(ids),
            fresh=math.ceil(len(ids) * speed.later) if speed is not None and task.state.calls else len(ids),
            close=close,
            solution=budget.solution,
            thinking=thinking,
            curves=scheduler.curves_for(backend),
            price=self.price,
            latency=endpoint.latency,
            usage_stats=scheduler.usage_stats_for(backend),
            wake=lambda: None,
            lower=self._lowered,
            probes=None if self._exit is None else self._exit.probes(backend.codec),
            final=self.final,
            weight=self._weight,
            priority=self._priority,
            on_exhausted=self._on_exhausted,
            around=_around.get(),
            model=backend.model,
            label=self.label,
            endpoint=endpoint,
        )

    def _settle(self, running: Running) -> None:
        assert self._loop is not None
        call, now = self._call, self._loop.time()
        usage = self.usage
        self._seconds = now - running.started
        actual = None
        used: dict[str, Any] = {}
        if call is not None and usage.passes:
            actual = Amount(usage.generated, 0 if self.price is None else self.price.charge(usage))
            ends = {"thinking_end": call.machine.thinking_end, "solution_end": call.machine.solution_end}
            used = usage.to_dict() | {name: end.value if end else None for name, end in ends.items()}
        answered = self._answered()
        learn = usage if actual is not None and answered else None
        self.task.dispatcher.settle(running, actual, now, answered=answered, used=used, learn=learn)
        self._finish()

    def _answered(self) -> bool:
        """It brought an answer, be it a cut one."""
        end = None if self._call is None else self._call.machine.solution_end
        nothing = (None, SolutionEnd.ABORTED, SolutionEnd.REOPENED)
        return end not in nothing and not self._stopped

    def _told(self) -> bool:
        """Its task has told it to stop: at any moment, maybe from another thread."""
        return self._stopped

    def _finish(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)

    def outcome(self, right: bool) -> None:
        """Tell whether the answer was right: curves that are learnt (`LearntCurves`) learn from it.

        Any time after the call; it changes nothing where curves are given, or where there was no answer.
        """
        if self._running is not None and self._loop is not None:
            self.task.dispatcher.told(self._running, right, self._loop.time())

    # How its task stops it

    def stop(self) -> None:
        """End it at once, from any thread; its consumer gets TaskClosedError."""
        if self._loop is not None:
            with suppress(RuntimeError):  # its loop is closed: nothing of it runs any more
                self._loop.call_soon_threadsafe(self._stop_here)

    def _stop_here(self) -> None:
        if not self.settled.done():
            self._stopped = True
            if self._pilot is not None:
                self._pilot.stop()


async def _close(stream: AsyncGenerator[Event]) -> None:
    await stream.aclose()
