"""A call of a model that another library's client drives.

    call = ExternalCall(task, model, prompt=120, thinking=0, solution=400, price=price)
    budget = await call.acquire()             # held, like any call; CapExceededError when there is no room
    await call.may_send()                     # right before the request is sent, and before each repetition
    ...                                       # send at most budget.thinking + budget.solution output tokens
    call.settle(usage)                        # or refund(), if the request provably never left

The call is held, granted, refused and settled like calls of our own backends, but its driver has to obey the
Budget. Only its usage is seen: an unknown usage (None) charges the whole hold. The driver asks `stopped`
between its steps; `on_stop` is called when the task ends the call.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from elastic_agent.budget import Budget, to_usd
from elastic_agent.usage import Usage, worst_case

from ..allocation.call_terms import CallSize, CallTerms, OnExhausted
from ..ledger.prices import Price
from .held_call import HeldCall

if TYPE_CHECKING:
    from .task import Task


class ExternalModel:
    """What is known of such a model. Usage and speed are kept for each object.

    Args:
        model: its name, for prices, curves and logs.
        context_length: most tokens of one sequence, where known.
    """

    def __init__(self, model: str, context_length: int = 128_000) -> None:
        self.model, self.context_length = model, context_length


class ExternalCall(HeldCall):
    """See the module.

    Args:
        task: is charged.
        model: answers.
        prompt: input tokens, or an upper bound.
        thinking, solution: at most so many output tokens of each kind; the grant may be less.
        kind, final, weight, priority, label: as of `Task.call`.
        price: what the model costs; None: what the scheduler knows.
        on_exhausted: None is the task's. "answer" may make the call the final answer: see `became_final`.

    Attributes:
        became_final: the caps were used up; ask for the final answer, without tools.

    Raises:
        UnknownPriceError: the task has a cap on money, and the price is unknown.
    """

    _steerable = False

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
        way = task.on_exhausted if on_exhausted is None else on_exhausted
        terms = CallTerms(kind, final, weight, priority, way, label)
        super().__init__(task, model, terms, task.price_for(model.model, price))
        solution = Budget(thinking, solution).solution
        self._asked = CallSize(prompt=prompt, fresh=prompt, thinking=thinking, solution=solution)
        self._used = Usage()
        self._has_answered = False
        self.on_stop: Callable[[], None] = lambda: None

    async def acquire(self) -> Budget:
        """The Budget that is granted, and held.

        Raises:
            CapExceededError, DeadlineError, TaskClosedError: refused; nothing is held.
        """
        return (await self._acquire()).grant.budget

    async def may_send(self) -> None:
        """Return, right before the request is sent, if its holds still live. Otherwise the call is over, and
        nothing is charged here.

        Raises:
            LeaseLostError, StoreUnavailableError: see `TaskAccount.may_send`.
            TaskClosedError: its task has ended.
        """
        try:
            self.check()
            await self._before_send()
        except BaseException:
            self.refund()
            raise

    @property
    def worst(self) -> Usage:
        """The most that the call can use by its grant, which is what is held."""
        assert self._running is not None
        budget = self._running.grant.budget
        return worst_case(self._asked.prompt, budget.thinking or 0, 0, budget.solution)

    def settle(self, usage: Usage | None, *, answered: bool = True, known: bool = True) -> None:
        """End the call and charge what it used.

        Args:
            usage: what it used; None: unknown, so the whole hold is charged.
            answered: the call brought an answer.
            known: the provider stated all parts of the usage, so estimates may learn from it.
        """
        running = self._running
        if running is None or running.done:
            return
        self._has_answered = answered
        if usage is None:
            budget = running.grant.budget
            self._used = Usage(unknown=(budget.thinking or 0) + budget.solution, passes=1)
            self._settle(running.held, answered=answered, used={}, learn=None)
        else:
            self._used, learn = usage, usage if answered and known else None
            self._settle(self._charge(usage), answered=answered, used=usage.to_dict(), learn=learn)

    def refund(self) -> None:
        """End a call whose request provably never reached the model; nothing is charged."""
        if self._running is not None and not self._running.done:
            self._settle(None, answered=False, used={}, learn=None)

    @property
    def usage(self) -> Usage:
        return self._used

    @property
    def cost(self) -> Decimal | None:
        """Dollars charged; None without a price."""
        running = self._running
        if self.price is None or running is None:
            return None
        return to_usd((running.held - running.refund).nano if running.done else 0)

    def stop(self) -> None:
        self.stopped = True
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self.on_stop)

    async def aclose(self) -> None:
        self.stop()
        self.settle(None, answered=False)

    def check(self) -> None:
        """Return if the driver may go on with its next step.

        Raises:
            TaskClosedError: its task has ended.
        """
        if self.stopped:
            raise self._task_ended()

    def _size(self) -> CallSize:
        return self._asked

    def _sent(self) -> bool:
        return self._running is not None

    def _answered(self) -> bool:
        return self._has_answered
