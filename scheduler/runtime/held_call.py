"""What the calls of all models have in common: each waits for its grant, and its hold is settled once.

A running call may ask for more thinking (`_extend`). `TaskCall` drives one of our backends, token by token;
another library drives an `ExternalCall`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from elastic_agent.budget import to_usd
from elastic_agent.errors import (
    CapExceededError,
    LeaseLostError,
    StoreUnavailableError,
    TaskClosedError,
)
from elastic_agent.usage import Usage

from ..allocation.call_terms import CallSize, CallTerms
from ..allocation.grant import Grant
from ..allocation.request import Request, Running, build_request
from ..estimates.workload import FINAL
from ..ledger.amounts import Amount
from ..ledger.prices import Price
from ..runlog.report import CallReport
from .acquire import acquire, acquire_durably

if TYPE_CHECKING:
    from .task import Task

enclosing_calls: ContextVar[frozenset[str]] = ContextVar("elastic_agent_open_calls", default=frozenset())
"""Holds of the calls whose streams are open around this code; a call awaited here ends before them."""


class CalledModel(Protocol):
    """What the scheduler needs to know of a model. Estimates and speeds are kept for each such object."""

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of one sequence."""
        ...


class HeldCall:
    """One call inside a task; see the module.

    Attributes:
        terms: what its user said of the call.
        price: what the model costs; None: unknown.
        became_final: the caps were used up, so the call was asked for the final answer instead.
        stopped: its task has ended the call.
        settled: done when the call is over or was refused.
    """

    def __init__(self, task: Task, model: CalledModel, terms: CallTerms, price: Price | None) -> None:
        self.task, self.model, self.price = task, model, price
        self.terms = terms if terms.final or terms.kind != FINAL else replace(terms, final=True)
        self.became_final = self.stopped = False
        self.settled: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._request: Request | None = None
        self._running: Running | None = None
        self._refused: Exception | None = None
        self._tracked = False
        self._seconds = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    # What callers see

    @property
    def grant(self) -> Grant | None:
        """What the call was given; None before."""
        return None if self._running is None else self._running.grant

    @property
    def usage(self) -> Usage:
        """Tokens so far; final when the call is over, however it ended."""
        raise NotImplementedError

    @property
    def cost(self) -> Decimal | None:
        """Dollars so far; None without a price."""
        return None if self.price is None else to_usd(self.price.charge(self.usage))

    @property
    def reachable(self) -> bool:
        """Whether the call's event loop runs, so that the call can be stopped, and settles."""
        return self._loop is not None and self._loop.is_running()

    def feedback(self, *, correct: bool) -> None:
        """Say, any time after the call, whether its answer was correct: `LearntCurves` learn from it.

        Nothing happens where curves are given, or where there was no answer.
        """
        if self._running is not None and self._loop is not None:
            self.task.dispatcher.record_feedback(self._running, correct, self._loop.time())

    def stop(self) -> None:
        """End the call at once, from any thread."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """End the call and settle it; what it may have used is charged."""
        raise NotImplementedError

    def report(self) -> CallReport:
        """The call's line in the report of its task."""
        found: dict[str, Any] = {
            "task": self.task.name,
            "path": tuple(task.name for task in reversed(self.task.lineage())),
            "number": self._request.number if self._request else 0,
            "kind": self.terms.kind,
            "label": self.terms.label,
            "model": self.model.model,
        }
        running = self._running
        if self._refused is not None:
            return CallReport(**found, outcome="refused", reason=str(self._refused))
        if running is None or not self._sent():
            return CallReport(**found, outcome="withdrawn" if self.settled.done() else "waiting")
        reason, lowered = running.grant.reason, running.reduced_to
        return CallReport(
            **found,
            **self._ends(),
            outcome="answered" if self._answered() else "stopped" if running.done else "running",
            grant=running.grant,
            usage=self.usage,
            refund=running.refund.tokens,
            cost=self.cost,
            seconds=self._seconds,
            reason=reason if lowered is None else f"{reason}; later lowered to {lowered}",
        )

    # The life of its hold

    async def _acquire(self) -> Running:
        """The granted call. Under on_exhausted="answer", a call for which the caps have no room asks for the
        final answer instead.

        Raises:
            CapExceededError, DeadlineError, TaskClosedError, UnknownPriceError: refused; nothing is held.
        """
        self._loop = asyncio.get_running_loop()
        try:
            try:
                self._running = await self._granted()
            except CapExceededError:
                terms = self.terms
                if terms.on_exhausted != "answer" or terms.final or self.task.state.status.answered:
                    raise
                self.terms = replace(terms, final=True, on_exhausted="shrink")
                self.became_final = True
                self._become_final()
                self._running = await self._granted()
        except BaseException as error:
            self._refused = error if isinstance(error, Exception) else None
            self._finish()
            raise
        return self._running

    async def _granted(self) -> Running:
        """The call as the dispatcher grants it, and the durable ledger where there is one."""
        dispatcher, durable = self.task.dispatcher, self.task.scheduler.durable
        if durable is None:
            return await acquire(dispatcher, self._build_request(), self._track)
        self._track()
        return await acquire_durably(dispatcher, durable, self._build_request(), self._build_request)

    def _build_request(self) -> Request:
        """The call as a request; a second request has the number of the first."""
        size, ours, scheduler = self._size(), self._steerable, self.task.scheduler
        self._request = build_request(
            self.task.state,
            size,
            scheduler.facts_of(self.model, self.price),
            self.terms,
            endpoint=scheduler.endpoint_for(self.model) if ours else None,
            enclosing_holds=enclosing_calls.get() if ours else frozenset(),
            on_reduced=self._on_reduced if ours else None,
            before=self._request,
        )
        return self._request

    def _track(self) -> None:
        if not self._tracked:
            self._tracked = True
            self.task.track(self)

    async def _before_send(self) -> None:
        """Return if the call's task goes on and its holds still live; see `TaskAccount.may_send`.

        Raises:
            TaskClosedError: the task has ended, and with it the holds of its calls.
            LeaseLostError, StoreUnavailableError: see `TaskAccount.may_send`.
        """
        running = self._running
        assert running is not None
        try:
            await self.task.may_send(running)
        except LeaseLostError:
            if not running.done:
                raise
        if running.done:
            raise self._task_ended()

    def _task_ended(self) -> TaskClosedError:
        number = self._request.number if self._request else 0
        return TaskClosedError(
            f"task {self.task.name!r} has ended: its call {number}, of {self.model.model}, was stopped"
        )

    async def _extend(self, used: int) -> int | None:
        """Ask for more thinking than was granted.

        Args:
            used: thinking tokens so far.

        Returns:
            the new limit, which is held; None: the call gets no more.
        """
        running, dispatcher, durable = self._running, self.task.dispatcher, self.task.scheduler.durable
        assert running is not None
        assert self._loop is not None
        extension = dispatcher.extend(running, used, self._loop.time())
        if extension is None:
            return None
        if durable is not None:
            try:
                held = await durable.take(extension.hold) is None
            except (StoreUnavailableError, TaskClosedError):
                held = False
            if not held:
                dispatcher.drop_extension(running, extension, self._loop.time())
                return None
        return running.grant.budget.thinking

    def _settle(
        self, actual: Amount | None, *, answered: bool, used: Mapping[str, Any], learn: Usage | None
    ) -> None:
        """End the hold; a second time nothing happens. See `Dispatcher.settle`."""
        running = self._running
        assert running is not None
        assert self._loop is not None
        now = self._loop.time()
        self._seconds = max(0.0, now - running.started)
        self.task.dispatcher.settle(running, actual, now, answered=answered, used=used, learn=learn)
        self._finish()

    def _charge(self, usage: Usage) -> Amount:
        """What this usage costs."""
        return Amount(usage.generated, 0 if self.price is None else self.price.charge(usage))

    def _finish(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)

    # What subclasses say of their calls

    _steerable = True
    """Whether the call takes turns at its model's endpoint, and its limit can be reduced while it runs."""

    def _size(self) -> CallSize:
        """What the call asks for, in tokens."""
        raise NotImplementedError

    def _sent(self) -> bool:
        """Whether the call was handed to its model."""
        raise NotImplementedError

    def _answered(self) -> bool:
        """Whether the call brought an answer, perhaps one that was cut."""
        raise NotImplementedError

    def _become_final(self) -> None:
        """Ask for the final answer from here on."""

    def _on_reduced(self) -> None:
        """Pass on that the thinking limit was reduced (`Running.reduced_to`); from any thread, under the
        ledger's lock."""

    def _ends(self) -> dict[str, Any]:
        """How thinking and solution ended, where that is known."""
        return {}
