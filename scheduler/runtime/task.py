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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, get_args

from elastic_agent.backends.base import DEFAULT_SAMPLING, Backend, Sampling
from elastic_agent.budget import Caps, to_usd
from elastic_agent.errors import InvalidBudgetError, InvalidCapsError, ScopeError, TaskClosedError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.prepare import Prompt
from elastic_agent.generation.result import Generation
from elastic_agent.validation import integer, one_of, real, shown

from ..allocation.request import MOST_WORTH, OnExhausted, Running, TaskState, check_terms
from ..dispatch.dispatcher import Dispatcher
from ..estimates.workload import Forecast
from ..ledger.accounts import Account
from ..ledger.amounts import INFINITY
from ..ledger.prices import Price, check_price, find_price, require_price
from ..policies.protocol import AllocationPolicy
from ..runlog.events import Log, TaskLog
from ..runlog.recorder import started
from ..runlog.report import CallReport, TaskReport, Units
from .call import TaskCall
from .context import Scope, Uncounted, check_uncounted, current_task

if TYPE_CHECKING:
    from .scheduler import BudgetScheduler

_names = count(1)


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
        self,
        scheduler: BudgetScheduler | None,
        caps: Caps,
        *,
        parent: Task | None = None,
        name: str | None = None,
        expect: Mapping[str, int] | None = None,
        final_solution: int | None = None,
        parallel: Iterable[str] = (),
        key: str | None = None,
        value: float | None = None,
        agent: str | None = None,
        on_exhausted: OnExhausted = "shrink",
        uncounted: Uncounted | None = None,
        policy: AllocationPolicy | None = None,
        log: Log = None,
    ) -> None:
        if final_solution is not None:
            final_solution = integer("final_solution", final_solution, least=1, error=InvalidBudgetError)
        one_of("on_exhausted", on_exhausted, get_args(OnExhausted))
        if value is not None:
            value = real("value", value, above=True, most=MOST_WORTH)
        if not isinstance(caps, Caps):
            raise InvalidCapsError(f"a task takes Caps(usd=, seconds=, tokens=), not {shown(caps)}")
        check_uncounted(uncounted)
        self._uncounted = uncounted
        self.caps = caps
        self.name = name or f"{agent or 'task'}-{next(_names)}"
        self.on_exhausted: OnExhausted = on_exhausted
        self.parent = parent
        self._scheduler, self._policy, self._log = scheduler, policy, log
        self._expect, self._final_solution = dict(expect or {}), final_solution
        self._parallel, self._key, self._value = frozenset(parallel), key, value
        self.agent = agent
        self.lease: Lease | None = None
        self._state: TaskState | None = None
        self._emit: TaskLog
        self._scope: Scope | None = None
        self._process = os.getpid()
        self._children: dict[Task, None] = {}
        self._live: set[TaskCall] = set()
        self._calls: list[TaskCall | CallReport] = []
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
        self._scheduler = self._scheduler or (parent.scheduler if parent else _default_scheduler())
        self.dispatcher: Dispatcher = parent.dispatcher if parent else self._scheduler.dispatcher
        above = parent.state.account if parent else self._scheduler.account()
        dispatcher, now = self.dispatcher, _now()
        Forecast().expect(self._expect)  # before anything is written down
        with dispatcher.ledger.lock:
            if parent is not None and parent.closed:
                raise TaskClosedError(f"task {parent.name!r} has ended: {self.name!r} can't be opened in it")
            self._emit = TaskLog(self._log, parent._emit.sinks if parent else self._scheduler.sinks)
            past = self._scheduler.history_for(self.agent)
            account = dispatcher.ledger.open(
                self.name,
                parent=above,
                tokens=self.caps.tokens,
                nano=self.caps.nanodollars,
                seconds=self.caps.seconds,
                now=now,
            )
            state = TaskState(
                self.name,
                account,
                Forecast(parent.state.forecast if parent else None, past=past),
                self._policy or (parent.state.policy if parent else None) or self._scheduler.policy,
                final_solution=self._final_solution,
                parent=parent.state if parent else None,
                key=self._key or (parent.state.key if parent else account.id),
                parallel=self._parallel,
                zero=parent.state.zero if parent else now,
                emit=self._emit if self._emit.sinks else None,
                value=self._value or (parent.state.value if parent else 1.0),
            )
            backend = self._scheduler.backend
            try:
                dispatcher.open(
                    state,
                    now,
                    self._scheduler.endpoint_for(backend) if backend else None,
                    self._scheduler.close_for(backend) if backend else 1,
                    expect=self._expect,
                    agent=self.agent,
                    started=started(),
                )
            except BaseException:
                self._emit.close()
                raise
            self._state = state
            if parent is not None:
                parent._children[self] = None
            self._scheduler.opened(self)
        return self

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
        self._emit.close()

    def __enter__(self) -> Self:
        self.open()
        self._scope = Scope(self)
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
        return Scope(self)

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
        weight, priority = check_terms(weight, priority, on_exhausted)
        return TaskCall(
            self,
            prompt,
            backend,
            kind=kind,
            thinking=thinking,
            solution=solution,
            final=final,
            weight=weight,
            sampling=sampling,
            stop=stop,
            solution_extra=solution_extra,
            priority=priority,
            price=price,
            on_exhausted=on_exhausted,
            tools=tools,
            label=label,
            answer_prompt=answer_prompt,
            early_exit=early_exit,
            buffered=buffered,
            wrap_up=wrap_up,
        )

    async def generate(self, prompt: Prompt, **options: Any) -> Generation:
        """Make a call and run it to its end; options are those of `call`."""
        return await self.call(prompt, **options).run()

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
        return Task(options.pop("scheduler", None) or self.scheduler, caps, parent=self, **options)

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
        said = (task._uncounted for task in self.line())
        return next((way for way in said if way is not None), self.scheduler.uncounted)

    @property
    def state(self) -> TaskState:
        """Its page at the dispatcher."""
        if self._state is None:
            raise RuntimeError(f"task {self.name!r} has not been entered: use `async with` or `with`")
        return self._state

    @property
    def left(self) -> Units:
        """What can still be held, the final answer's reserve included; None in a unit without a cap."""
        room = self.dispatcher.ledger.room(self.state.account, final=True)
        return Units.of(room, _now() if self._closed_at is None else self._closed_at)

    @property
    def spent(self) -> Units:
        """What it has used, sub-tasks included; dollars are of calls with a known price."""
        account = self.state.account
        elapsed = (_now() if self._closed_at is None else self._closed_at) - account.opened
        return Units(account.spent.tokens, to_usd(account.spent.nano), round(elapsed, 6))

    def report(self) -> TaskReport:
        """Every call, sub-tasks included: granted, used, refunded, why."""
        caps = Units(self.caps.tokens, _usd(self.caps), self.caps.seconds)
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

    def track(self, call: TaskCall) -> None:
        """A call of this task has queued up."""
        lock = self.dispatcher.ledger.lock
        with lock:
            index = []
            for task in self.line():
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

    def line(self) -> list[Task]:
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
