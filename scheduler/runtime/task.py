"""A task: a scope with caps, in which calls are granted tokens.

    async with scheduler.task(Caps(tokens=8000, seconds=20)) as task:
        a, b = await asyncio.gather(task.generate(p1), task.generate(p2))
    print(task.report())

Entering opens it (and its account) and makes it current (`elastic_agent.scheduler.runtime.context`): whatever
is awaited, spawned or run in a copied context inside belongs to it. A task opened inside another is its child
and can never spend more than it, whatever its own caps say. Leaving it is structured: calls that still run
are stopped and settled, calls that wait are refused, nothing stays held, and later calls raise
TaskClosedError.

A plain `with` works too, for synchronous code. It can't wait for calls that still run on other threads: it
stops them and charges their holds whole.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from elastic_agent.backends.base import DEFAULT_SAMPLING, Backend, Sampling
from elastic_agent.budget import Budget, Caps, to_usd
from elastic_agent.errors import ScopeError, TaskClosedError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.prepare import Prompt
from elastic_agent.generation.result import Generation

from ..allocation.request import CallTerms, OnExhausted, Running, TaskState, build_task_state
from ..dispatch.dispatcher import Dispatcher
from ..ledger.accounts import Account
from ..ledger.amounts import INFINITY, Amount
from ..ledger.prices import Price, check_price, find_price, require_price
from ..runlog.events import TaskLog
from ..runlog.recorder import started
from ..runlog.report import CallReport, CapAmounts, TaskReport
from .call import GenerationOptions, TaskCall
from .context import TaskScope, Uncounted, current_task
from .held_call import HeldCall
from .set_aside import SetAside, hold_part
from .task_terms import TaskTerms

if TYPE_CHECKING:
    from .scheduler import BudgetScheduler


def _now() -> float:
    """The event loop's clock, or the one it is made of."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


class Lease(Protocol):
    """What a task's caps are held by, somewhere else, for as long as somebody renews it."""

    async def assure(self) -> None:
        """Return if it is still held; else a StoreError."""
        ...


class Task:
    """See the module; made by `BudgetScheduler.task`, `Task.task` and `task_budget`.

    Attributes:
        lease: what its caps are held by, in a store; None: they are its own.
    """

    def __init__(
        self, scheduler: BudgetScheduler | None, terms: TaskTerms, *, parent: Task | None = None
    ) -> None:
        self._scheduler, self.terms, self.parent = scheduler, terms, parent
        self.caps, self.name, self.agent = terms.caps, terms.name, terms.agent
        self.on_exhausted: OnExhausted = terms.on_exhausted
        self.lease: Lease | None = None
        self._state: TaskState | None = None
        self._log: TaskLog
        self._scope: TaskScope | None = None
        self._process = os.getpid()
        self._children: dict[Task, None] = {}
        self._live: set[HeldCall] = set()
        self._calls: list[HeldCall | CallReport] = []
        self._closed_at: float | None = None

    # The scope

    def open(self) -> Self:
        """Open its account; entering the scope does it.

        Raises:
            CapExceededError, DeadlineError: the caps can't hold even one answer, or its deadline can't be
                kept beside what other tasks have been promised.
            EndpointBusyError: too many calls wait for the model.
            TaskClosedError: the task around it has ended.
            ScopeError: the task around it is another process's.
            RuntimeError: it was opened before.
        """
        if self._state is not None:
            raise RuntimeError(f"task {self.name!r} was opened before: make a new one")
        parent = self.parent = self.parent or current_task()
        if parent is not None:
            parent.check_process()
        scheduler = self._scheduler = self._scheduler or (
            parent.scheduler if parent is not None else _default_scheduler()
        )
        self.dispatcher: Dispatcher = scheduler.dispatcher if parent is None else parent.dispatcher
        above, now = scheduler.account() if parent is None else parent.state.account, _now()
        with self.dispatcher.ledger.lock:
            if parent is not None and parent.closed:
                raise TaskClosedError(f"task {parent.name!r} has ended: {self.name!r} can't be opened in it")
            self._log = TaskLog(self.terms.log, scheduler.sinks if parent is None else parent._log.sinks)
            try:
                self._state = self._admitted(scheduler, above, now)
            except BaseException:
                self._log.close()
                raise
            if parent is not None:
                parent._children[self] = None
            scheduler.opened(self)
        return self

    def _admitted(self, scheduler: BudgetScheduler, above: Account | None, now: float) -> TaskState:
        """Open the task's account in that of its parent, or the store's, and reserve its final answer."""
        terms, past = self.terms, scheduler.history_for(self.terms.agent)
        account = self.dispatcher.ledger.open(
            self.name,
            parent=above,
            tokens=self.caps.tokens,
            nano=self.caps.nanodollars,
            seconds=self.caps.seconds,
            now=now,
        )
        parent = None if self.parent is None else self.parent.state
        state = build_task_state(
            self.name,
            account,
            terms.policy or (scheduler.policy if parent is None else parent.policy),
            parent=parent,
            past=past,
            now=now,
            key=terms.key,
            value=terms.value,
            final_solution=terms.final_solution,
            parallel=terms.parallel,
            emit=self._log if self._log.sinks else None,
        )
        backend = scheduler.backend
        self.dispatcher.open(
            state,
            now,
            None if backend is None else scheduler.endpoint_for(backend),
            1 if backend is None else scheduler.close_for(backend),
            expect=terms.expect,
            agent=terms.agent,
            started=started(),
        )
        return state

    async def aclose(self, error: BaseException | None = None) -> None:
        """Leave: stop what still runs, wait until it is settled, close the books."""
        if self._state is None or self._closed_at is not None:
            return
        self.dispatcher.dismiss(self._state, _now())
        try:
            for child in list(self._children):
                await child.aclose(error)
            for call in list(self._live):
                await call.aclose()
            while waiting := [asyncio.wrap_future(c.settled) for c in list(self._live) if c.reachable]:
                await asyncio.wait(waiting, timeout=0.1)  # another thread's loop may come to a stop
        finally:
            self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Leave without waiting: running calls are stopped, and charged whole."""
        if self._state is None:
            return
        state, now = self._state, _now()
        with self.dispatcher.ledger.lock:
            if state.account.closed:
                return
            self.dispatcher.dismiss(state, now)
            for child in list(self._children):
                child.close(error)
            for call in list(self._live):
                call.stop()
            self.dispatcher.close(state, now, type(error).__name__ if error else None)
            self._closed_at = now
            if self.parent is not None:
                del self.parent._children[self]
            self.scheduler.closed(self)
        self._log.close()

    def __enter__(self) -> Self:
        self.open()
        self._scope = TaskScope(self)
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave_scope(kind, error, trace)
        finally:
            self.close(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave_scope(kind, error, trace)
        finally:
            await self.aclose(error)

    def current(self) -> AbstractContextManager[None]:
        """Make it the current task of a piece of code, without opening or closing it."""
        return TaskScope(self)

    def _leave_scope(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scope is not None:
            self._scope.__exit__(kind, error, trace)

    # Calls

    def call(
        self,
        prompt: Prompt,
        *,
        backend: Backend | None = None,
        kind: str = "call",
        thinking: int | None = None,
        solution: int | None = None,
        final: bool = False,
        weight: float = 1.0,
        sampling: Sampling = DEFAULT_SAMPLING,
        stop: Sequence[str] = (),
        solution_extra: Mapping[str, Any] | None = None,
        priority: int = 0,
        price: Price | None = None,
        on_exhausted: OnExhausted | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        label: str | None = None,
        answer_prompt: Prompt | None = None,
        early_exit: EarlyExit | None = None,
        buffered: bool = False,
        wrap_up: str | None = None,
    ) -> TaskCall:
        """A call of this task; iterate over it, or `await call.run()`.

        Args:
            prompt: text, ids, or a conversation.
            backend: the model; None is the scheduler's.
            kind: what kind of call it is: its curve, its place in the forecast. "final" is the final answer.
            thinking: at most this many thinking tokens; the policy may give less. None: the context's limit.
            solution: at most this many solution tokens; None: what the model's curves were measured with.
            final: it is the task's final answer and may use what is reserved for it.
            weight: how much its success counts against that of other calls, for tokens and at the engine.
            sampling, stop, solution_extra: see `elastic_agent.generation.call.Call`.
            priority: lower goes first, at the engine and among the calls of this task that wait; calls of one
                priority go by deadline and weight (`elastic_agent.scheduler.runtime.engine_priority`).
            price: what this model costs; else the scheduler's.
            on_exhausted: see `OnExhausted`; None: the task's.
            tools: rendered into the prompt by the chat template; see
            `elastic_agent.generation.call.Call`.
            label: what to call it in logs and reports.
            answer_prompt: what to ask instead, unguided, where `on_exhausted="answer"` makes it the final
                answer. None: the same prompt.
            early_exit: end thinking when the answer no longer changes; what its probes may cost is held, too.
            buffered: nobody reads along, as in `run`: the text of a segment comes at its end, decoded once.
            wrap_up: a sentence before the forced close, or a profile's name
            (`elastic_agent.generation.wrap_up`); its
                tokens are held, too. "": none. None: the scheduler's.

        Raises:
            ValueError: no backend here and none on the scheduler.
            ScopeError: this process was forked inside of the task.
            InvalidBudgetError: negative thinking or an empty solution.
        """
        self.check_process()
        backend = backend or self.scheduler.backend
        if backend is None:
            raise ValueError("which model? pass backend= to the call, or make the BudgetScheduler with one")
        check_price(price)
        way = self.on_exhausted if on_exhausted is None else on_exhausted
        most = self.scheduler.solution_for(backend) if solution is None else solution
        return TaskCall(
            self,
            backend,
            prompt,
            Budget(thinking, most),
            CallTerms(kind, final, weight, priority, way, label),
            GenerationOptions(sampling, tuple(stop), solution_extra, tools, early_exit, buffered, wrap_up),
            price,
            answer_prompt,
        )

    async def generate(self, prompt: Prompt, **options: Any) -> Generation:
        """Make a call and run it to its end; options are those of `call`."""
        return await self.call(prompt, **options).run()

    async def set_aside(self, amount: Amount) -> SetAside:
        """Hold a part of what is left for something other than a call, such as a graph in another process.

        Raises:
            CapExceededError: what is left beside the final answer's reserve can't hold the part.
            TaskClosedError: the task has ended.
            StoreUnavailableError: the scheduler's store can't be reached.
        """
        return await hold_part(self, amount)

    async def may_send(self, running: Running) -> None:
        """Right before a request of a call leaves: return if all that the call rests on is still held,
        in the scheduler's store and by the leases of this task and those around it.

        Raises:
            LeaseLostError: something is not: nothing may be sent.
            StoreUnavailableError: the store has to be asked, and can't be reached.
        """
        durable, level = self.scheduler.durable, self if self.lease or self.parent else None
        if durable is not None:
            await durable.assure(running.holds, f"task {self.name!r}, call {running.request.number}")
        while level is not None:
            if level.lease is not None:
                await level.lease.assure()
            level = level.parent

    def expect(self, kinds: Mapping[str, int]) -> None:
        """Declare calls that are still to come, by kind; each call of a kind takes one off."""
        self.dispatcher.expect(self.state, kinds, _now())

    def task(self, caps: Caps, **options: Any) -> Task:
        """A sub-task with caps of its own inside these; options are those of `BudgetScheduler.task`."""
        scheduler = options.pop("scheduler", None) or self.scheduler
        return Task(scheduler, TaskTerms(caps, **options), parent=self)

    # What it knows

    @property
    def closed(self) -> bool:
        """It takes no more calls."""
        return self._state is not None and (self._state.closing or self._state.account.closed)

    @property
    def scheduler(self) -> BudgetScheduler:
        """The scheduler that supplies prices, curves, speeds and the default model."""
        if self._scheduler is None:
            raise RuntimeError(f"task {self.name!r} has not been entered: use `async with` or `with`")
        return self._scheduler

    @property
    def uncounted(self) -> Uncounted:
        """What becomes of models in it that can't be counted."""
        said = (task.terms.uncounted for task in self.lineage())
        return next((way for way in said if way is not None), self.scheduler.uncounted)

    @property
    def state(self) -> TaskState:
        """What the dispatcher knows of the task."""
        if self._state is None:
            raise RuntimeError(f"task {self.name!r} has not been entered: use `async with` or `with`")
        return self._state

    @property
    def left(self) -> CapAmounts:
        """What can still be held, the final answer's reserve included; None in a unit without a cap."""
        room = self.dispatcher.ledger.room(self.state.account, final=True)
        return CapAmounts.of(room, _now() if self._closed_at is None else self._closed_at)

    @property
    def spent(self) -> CapAmounts:
        """What it has used, sub-tasks included; dollars are of calls with a known price."""
        account = self.state.account
        elapsed = (_now() if self._closed_at is None else self._closed_at) - account.opened
        return CapAmounts(account.spent.tokens, to_usd(account.spent.nano), round(elapsed, 6))

    def report(self) -> TaskReport:
        """Every call, sub-tasks included: granted, used, refunded, why."""
        caps = CapAmounts(self.caps.tokens, _usd(self.caps), self.caps.seconds)
        calls = [call if isinstance(call, CallReport) else call.report() for call in self._calls]
        return TaskReport(self.name, caps, self.spent, tuple(calls))

    # For the calls

    def check_process(self) -> None:
        """Refuse what a forked process does with its copy of the task.

        Raises:
            ScopeError: this is another process than the task's: its books and its caps are a copy.
        """
        if self._process != os.getpid():
            raise ScopeError(
                f"task {self.name!r} belongs to process {self._process}, and this one ({os.getpid()}) was "
                f"forked inside of it: a copy of its books would grant its caps again. Share caps among "
                f"processes with a store (BudgetScheduler(store=...)) or remote_budget"
            )

    def track(self, call: HeldCall) -> None:
        """A call of this task has queued up."""
        lock = self.dispatcher.ledger.lock
        with lock:
            index = []
            for task in self.lineage():
                index.append((task, len(task._calls)))
                task._calls.append(call)
            self._live.add(call)

        def over(_: object) -> None:
            with lock:
                self._live.discard(call)
                report = call.report()  # the call itself, with all its text, need not be kept
                for task, at in index:
                    task._calls[at] = report

        call.settled.add_done_callback(over)

    def end(self) -> Callable[[], float] | None:
        """The moment at which a call has to be over, as a function: it moves. None without a deadline."""
        account: Account = self.state.account
        ledger = self.dispatcher.ledger
        if ledger.deadline(account, final=True) == INFINITY:
            return None
        return lambda: ledger.deadline(account, final=True)

    def price_for(self, model: str, own: Price | None) -> Price | None:
        """What a model costs here.

        Raises:
            UnknownPriceError: nobody knows, and a cap on money is set on this task or around it.
        """
        price = find_price(model, own=own, default=self.scheduler.price, prices=self.scheduler.prices)
        if any(account.nano is not None for account in self.state.account.path):
            return require_price(price, model)
        return price

    def lineage(self) -> list[Task]:
        """This task and those around it, the innermost first."""
        found: list[Task] = []
        task: Task | None = self
        while task is not None:
            found.append(task)
            task = task.parent
        return found


def _usd(caps: Caps) -> Any:
    return None if caps.nanodollars is None else to_usd(caps.nanodollars)


def _default_scheduler() -> BudgetScheduler:
    from .scheduler import default_scheduler

    return default_scheduler()
