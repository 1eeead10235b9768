"""What a task answers its user and its calls: what is spent and left, its report, prices, its deadline."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from elastic_agent.budget import to_usd
from elastic_agent.errors import ScopeError
from elastic_agent.prompts.told_budget import STANDARD, Tell, budget_words

from ..allocation.call_terms import OnExhausted
from ..allocation.request import Running
from ..allocation.task_state import TaskState
from ..dispatch.dispatcher import Dispatcher
from ..ledger.amounts import INFINITY, Amount
from ..ledger.inherited_caps import inherited_deadline, inherited_room
from ..ledger.prices import Price, find_price, require_price
from ..runlog.report import CallReport, CapAmounts, TaskReport
from .clock import loop_time
from .context import Uncounted
from .held_call import HeldCall
from .observer import CallObserver
from .set_aside import SetAside, hold_part
from .task_terms import TaskTerms

if TYPE_CHECKING:
    from .scheduler import BudgetScheduler
    from .task import Task


class Lease(Protocol):
    """A lease in a store under which a task's caps are held there for as long as its owner renews it."""

    async def assure(self) -> None:
        """Return if the lease still holds.

        Raises:
            StoreError: it has run out, or the store that knows can't be reached.
        """
        ...


class TaskAccount:
    """A task's account, as its calls see it; `Task` adds the scope.

    Attributes:
        lease: under which the task's caps are held in a store; None: under no lease.
    """

    dispatcher: Dispatcher

    def __init__(
        self, scheduler: BudgetScheduler | None, terms: TaskTerms, *, parent: Task | None = None
    ) -> None:
        self._scheduler, self.terms, self.parent = scheduler, terms, parent
        self.caps, self.name, self.agent = terms.caps, terms.name, terms.agent
        self.on_exhausted: OnExhausted = terms.on_exhausted
        self.lease: Lease | None = None
        self._state: TaskState | None = None
        self._process = os.getpid()
        self._live: set[HeldCall] = set()
        self._calls: list[HeldCall | CallReport] = []
        self._parts: set[SetAside] = set()
        self._closed_at: float | None = None

    # What its user sees

    @property
    def closed(self) -> bool:
        """Whether the task takes no more calls."""
        return self._state is not None and self._state.closed

    @property
    def scheduler(self) -> BudgetScheduler:
        """The scheduler that supplies prices, curves, speeds and the default model."""
        if self._scheduler is None:
            raise self._not_entered()
        return self._scheduler

    @property
    def uncounted(self) -> Uncounted:
        """What becomes of models that are called in the task and can't be counted."""
        said = (task.terms.uncounted for task in self.lineage())
        return next((way for way in said if way is not None), self.scheduler.uncounted)

    @property
    def tell(self) -> Tell:
        """Whether models are told what is left of the task's caps."""
        said = (task.terms.tell for task in self.lineage())
        return next((tell for tell in said if tell is not None), self.scheduler.tell)

    @property
    def observer(self) -> CallObserver | None:
        """Who watches the calls of the task; None: nobody does."""
        given = (task.terms.observer for task in self.lineage())
        return next((observer for observer in given if observer is not None), None)

    @property
    def state(self) -> TaskState:
        """What the dispatcher knows of the task."""
        if self._state is None:
            raise self._not_entered()
        return self._state

    @property
    def left(self) -> CapAmounts:
        """What can still be held, the final answer's reserve included; None in a unit without a cap."""
        return CapAmounts.of(inherited_room(self.state.account, final=True), self._time())

    @property
    def spent(self) -> CapAmounts:
        """What the task has used, sub-tasks included; in dollars, that of calls with a known price."""
        account = self.state.account
        seconds = round(self._time() - account.opened, 6)
        return CapAmounts(account.spent.tokens, to_usd(account.spent.nano), seconds)

    def report(self) -> TaskReport:
        """Every call of the task and its sub-tasks: granted, used, refunded, why."""
        nano = self.caps.nanodollars
        caps = CapAmounts(self.caps.tokens, None if nano is None else to_usd(nano), self.caps.seconds)
        calls = [call if isinstance(call, CallReport) else call.report() for call in self._calls]
        return TaskReport(self.name, caps, self.spent, tuple(calls), depth=len(self.lineage()))

    async def set_aside(self, amount: Amount) -> SetAside:
        """Hold a part of what is left for something other than a call, such as a graph in another process.

        Raises:
            CapExceededError: what is left beside the final answer's reserve can't hold the part.
            TaskClosedError: the task has ended.
            StoreUnavailableError: the scheduler's store can't be reached.
        """
        return await hold_part(self, amount, self._parts)

    # What its calls ask

    def budget_words(self, *, final: bool = False, tell: Tell | None = None) -> str:
        """What a call that is made now tells its model; "" where nothing is told.

        `left` of the units that this task or one around it caps. An account in a store may hold less, which
        counts; a unit that only such an account caps is not named.

        Args:
            final: the call is the task's final answer.
            tell: None: the task's.
        """
        tell = self.tell if tell is None else tell
        if tell is False:
            return ""
        left, caps = self.left, [task.caps for task in self.lineage()]
        capped = [unit for unit in STANDARD if any(getattr(one, unit) is not None for one in caps)]
        return budget_words(tell, **{unit: getattr(left, unit) for unit in capped}, final=final)

    def check_process(self) -> None:
        """Refuse to work in a forked process: its copy of the account would grant the caps again.

        Raises:
            ScopeError: this is not the process that made the task.
        """
        if self._process != os.getpid():
            raise ScopeError(
                f"task {self.name!r} belongs to process {self._process}, and this one ({os.getpid()}) was "
                f"forked inside of it: a copy of its account would grant its caps again. Share caps among "
                f"processes with a store (BudgetScheduler(store=...)) or remote_budget"
            )

    def track(self, call: HeldCall) -> None:
        """Keep a call that has queued up in the reports, and stop it when the task ends."""
        lock = self.dispatcher.ledger.lock
        with lock:
            index = []
            for task in self.lineage():
                index.append((task, len(task._calls)))
                task._calls.append(call)
            self._live.add(call)

        def keep_report(_: object) -> None:
            with lock:
                self._live.discard(call)
                report = call.report()  # without the call's text
                for task, at in index:
                    task._calls[at] = report

        call.settled.add_done_callback(keep_report)

    def end(self) -> Callable[[], float] | None:
        """When a call has to be over, as a function, because that moment moves; None without a deadline."""
        account = self.state.account
        if inherited_deadline(account, final=True) == INFINITY:
            return None
        return lambda: inherited_deadline(account, final=True)

    def price_for(self, model: str, own: Price | None) -> Price | None:
        """The price of a model in this task; None: it is unknown.

        Raises:
            UnknownPriceError: it is unknown, and this task or one around it has a cap on money.
        """
        price = find_price(model, own=own, default=self.scheduler.price, prices=self.scheduler.prices)
        if any(account.nano is not None for account in self.state.account.path):
            return require_price(price, model)
        return price

    async def may_send(self, running: Running) -> None:
        """Return, right before a request of a call leaves, if the call's holds still live in the scheduler's
        store, and so do the leases of this task and those around it.

        Raises:
            LeaseLostError: one of them has ended, so nothing may be sent.
            StoreUnavailableError: the store has to be asked, and can't be reached.
        """
        if (durable := self.scheduler.durable) is not None:
            await durable.assure(running.holds, f"task {self.name!r}, call {running.request.number}")
        for task in self.lineage():
            if task.lease is not None:
                await task.lease.assure()

    def lineage(self) -> list[TaskAccount]:
        """This task and those around it, the innermost first."""
        found: list[TaskAccount] = []
        task: TaskAccount | None = self
        while task is not None:
            found.append(task)
            task = task.parent
        return found

    def _not_entered(self) -> RuntimeError:
        return RuntimeError(f"task {self.name!r} has not been entered: use `async with` or `with`")

    def _time(self) -> float:
        """Now, or when the task ended."""
        return loop_time() if self._closed_at is None else self._closed_at
