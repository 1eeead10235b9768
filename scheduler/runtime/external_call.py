"""A call of a model that somebody else drives: another library's client, behind whatever API.

    call = ExternalCall(task, model, prompt=120, thinking=0, solution=400, price=price)
    budget = await call.acquire()               # held, like any call; CapExceededError when there is no room
    await call.may_send()                     # right before it is sent, and before each time that it is again
    ...                                       # send at most budget.thinking + budget.solution output tokens
    call.settle(usage)                        # or refund(), if it provably never left

It is held, granted, refused and settled at the same desk as our own calls, but how it obeys its Budget is its
driver's business. Nothing but its usage is seen of it: a usage that nobody knows (None) charges the whole
hold. The driver asks `stopped` between its steps, and takes `on_stop` to be told at once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from elastic_agent.budget import Budget, to_usd
from elastic_agent.errors import CapExceededError, TaskClosedError
from elastic_agent.usage import Usage, worst_case

from ..allocation.grant import Grant
from ..allocation.request import OnExhausted, Request, Running, check_terms
from ..estimates.workload import FINAL
from ..ledger.amounts import Amount
from ..ledger.prices import Price
from ..runlog.report import CallReport
from .acquire import acquire, acquire_durably

if TYPE_CHECKING:
    from elastic_agent.backends.base import Backend

    from .task import Task


class ExternalModel:
    """What is known of such a model; its usage and speed are kept per object.

    Args:
        model: its name, for prices, curves and logs.
        context_length: most tokens of one sequence, where known.
    """

    def __init__(self, model: str, context_length: int = 128_000) -> None:
        self.model, self.context_length = model, context_length


class ExternalCall:
    """See the module.

    Args:
        task: pays.
        model: what is asked.
        prompt: input tokens, or a bound.
        thinking, solution: at most so many output tokens of each kind; the grant may be less.
        kind, final, weight, priority, label: as of `Task.call`.
        price: what the model costs; None: what the scheduler knows.
        on_exhausted: None is the task's way. "answer" may turn it into the final answer: see `turned`.

    Attributes:
        turned: the caps were used up; ask for the final answer, without tools.

    Raises:
        UnknownPriceError: a money cap, and nobody knows the price.
    """

    def __init__(
        self,
        task: Task,
        model: ExternalModel,
        *,
        prompt: int,
        thinking: int,
        solution: int,
        kind: str = "call",
        final: bool = False,
        weight: float = 1.0,
        priority: int = 0,
        label: str | None = None,
        price: Price | None = None,
        on_exhausted: OnExhausted | None = None,
    ) -> None:
        task.check_process()
        self.task, self.model, self.label, self.kind = task, model, label, kind
        self.final, self.turned = final or kind == FINAL, False
        self.price = task.price_for(model.model, price)
        self.usage = Usage()
        self.on_stop: Callable[[], None] = lambda: None
        self.stopped = False
        self.settled: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._wish = Budget(thinking, solution)
        self._prompt = prompt
        self._weight, self._priority = check_terms(weight, priority, on_exhausted)
        self._way: OnExhausted = on_exhausted or task.on_exhausted
        self._running: Running | None = None
        self._request: Request | None = None
        self._refused: Exception | None = None
        self._answered = False
        self._tracked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = 0.0

    async def acquire(self) -> Budget:
        """Wait for the grant; what it says is held.

        Raises:
            CapExceededError, DeadlineError, TaskClosedError: refused, nothing held.
        """
        self._loop = asyncio.get_running_loop()
        try:
            try:
                self._running = await self._ask()
            except CapExceededError:
                if self._way != "answer" or self.final or self.task.state.answered:
                    raise
                self.final = self.turned = True
                self._way = "shrink"
                self._running = await self._ask()
        except BaseException as error:
            self._refused = error if isinstance(error, Exception) else None
            self._finish()
            raise
        return self._running.grant.budget

    async def may_send(self) -> None:
        """Right before it is sent: whether what was held for it still is. Where it is not, it is over, and
        nothing is charged here.

        Raises:
            LeaseLostError, StoreUnavailableError: see `Task.may_send`.
            TaskClosedError: its task has ended.
        """
        assert self._running is not None
        try:
            self.check()
            await self.task.may_send(self._running)
        except BaseException:
            self.refund()
            raise

    @property
    def worst(self) -> Usage:
        """The most that it can use, by its grant: what is held for it."""
        assert self._running is not None
        budget = self._running.grant.budget
        return worst_case(self._prompt, budget.thinking or 0, 0, budget.solution)

    def settle(self, usage: Usage | None, *, answered: bool = True, known: bool = True) -> None:
        """It is over.

        Args:
            usage: what it used; None: nobody knows, so the whole hold is charged.
            answered: it brought an answer.
            known: the usage is its provider's word in all parts, so that estimates may learn from it.
        """
        running = self._running
        if running is None or running.done:
            return
        self._answered = answered
        if usage is None:
            budget = running.grant.budget
            self.usage = Usage(unknown=(budget.thinking or 0) + budget.solution, passes=1)
            self._end(running.held)
            return
        self.usage = usage
        actual = Amount(usage.generated, 0 if self.price is None else self.price.charge(usage))
        self._end(actual, usage, learn=usage if answered and known else None)

    def refund(self) -> None:
        """It provably never reached the model: nothing is charged."""
        if self._running is not None and not self._running.done:
            self._end(None)

    @property
    def grant(self) -> Grant | None:
        """What it was given; None before."""
        return None if self._running is None else self._running.grant

    @property
    def cost(self) -> Decimal | None:
        """Dollars charged; None without a price."""
        return None if self.price is None or self._running is None else to_usd(self._charged.nano)

    # For its task

    @property
    def reachable(self) -> bool:
        """Its event loop runs: it can be stopped, and will settle."""
        return self._loop is not None and self._loop.is_running()

    def stop(self) -> None:
        """End it at once, from any thread."""
        self.stopped = True
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self.on_stop)

    async def aclose(self) -> None:
        """Stop it; what nobody knows of it is charged."""
        self.stop()
        self.settle(None, answered=False)

    def report(self) -> CallReport:
        """Its line in the task's report."""
        base: dict[str, Any] = {
            "task": self.task.name,
            "number": self._request.number if self._request else 0,
            "kind": self.kind,
            "label": self.label,
            "model": self.model.model,
        }
        running = self._running
        if running is None:
            if self._refused is None:
                return CallReport(**base, outcome="withdrawn" if self.settled.done() else "waiting")
            return CallReport(**base, outcome="refused", reason=str(self._refused))
        outcome = "running" if not running.done else "answered" if self._answered else "stopped"
        return CallReport(
            **base,
            outcome=outcome,
            grant=running.grant,
            usage=self.usage,
            refund=running.refund.tokens,
            cost=self.cost,
            seconds=max(0.0, self._ended - running.started),
            reason=running.grant.reason,
        )

    # Inside

    async def _ask(self) -> Running:
        dispatcher, durable = self.task.dispatcher, self.task.scheduler.durable
        if durable is None:
            return await acquire(dispatcher, self._make(), self._track)
        self._track()
        return await acquire_durably(dispatcher, durable, self._make(), self._make)

    def _track(self) -> None:
        if not self._tracked:
            self._tracked = True
            self.task.track(cast("Any", self))

    def _make(self) -> Request:
        task, scheduler, before = self.task, self.task.scheduler, self._request
        model = cast("Backend", self.model)
        endpoint = scheduler.endpoint_for(model)
        self._request = Request(
            task=task.state,
            kind=self.kind,
            prompt=self._prompt,
            close=0,
            solution=self._wish.solution,
            thinking=self._wish.thinking or 0,
            fresh=self._prompt,
            curves=scheduler.curves_for(model),
            price=self.price,
            latency=endpoint.latency,
            usage_stats=scheduler.usage_stats_for(model),
            wake=lambda: None,
            final=self.final,
            weight=self._weight,
            priority=self._priority,
            on_exhausted=self._way,
            model=self.model.model,
            label=self.label,
        )
        if before is not None:
            self._request.number, self._request.declared = before.number, before.declared
        return self._request

    @property
    def _charged(self) -> Amount:
        assert self._running is not None
        return self._running.held - self._running.refund if self._running.done else Amount()

    def _end(self, actual: Amount | None, usage: Usage | None = None, *, learn: Usage | None = None) -> None:
        assert self._running is not None
        assert self._loop is not None
        answered, self._ended = self._answered, self._loop.time()
        used = {} if usage is None else usage.to_dict()
        self.task.dispatcher.settle(
            self._running, actual, self._ended, answered=answered, used=used, learn=learn
        )
        self._finish()

    def _finish(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)

    def check(self) -> None:
        """Between two steps of the driver.

        Raises:
            TaskClosedError: its task has ended.
        """
        if self.stopped:
            raise TaskClosedError(
                f"task {self.task.name!r} has ended: a call of {self.model.model} was stopped"
            )
