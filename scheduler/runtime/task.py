"""A task: a scope with caps, in which calls are granted tokens.

    async with scheduler.task(Caps(tokens=8000, seconds=20)) as task:
        a, b = await asyncio.gather(task.generate(p1), task.generate(p2))
    print(task.report())

Entering a task opens its account and makes the task current (`elastic_agent.scheduler.runtime.context`): all
code that is awaited, spawned or run in a copied context inside belongs to it. A task that is opened inside
another one is a child, and never spends more than its parent has, whatever its own caps are. When the scope
is left, calls that still run are stopped and settled, calls that wait are refused, nothing stays held, and
later calls raise TaskClosedError.

A plain `with` serves synchronous code. It can't wait for calls that run on other threads, so it stops them
and charges their holds whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from elastic_agent.backends.base import DEFAULT_SAMPLING, Backend, Sampling
from elastic_agent.budget import Budget, Caps
from elastic_agent.errors import TaskClosedError
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.prepare import Prompt
from elastic_agent.generation.result import Generation

from ..allocation.call_terms import CallTerms, OnExhausted
from ..allocation.task_state import TaskState, build_task_state
from ..ledger.accounts import Account
from ..ledger.prices import Price, check_price
from ..runlog.events import TaskLog
from ..runlog.recorder import started
from .call import GenerationOptions, TaskCall
from .clock import loop_time
from .context import TaskScope, current_task
from .task_account import TaskAccount
from .task_terms import TaskTerms

if TYPE_CHECKING:
    from .scheduler import BudgetScheduler


class Task(TaskAccount):
    """See the module; made by `BudgetScheduler.task`, `Task.task` and `task_budget`."""

    _log: TaskLog

    def __init__(
        self, scheduler: BudgetScheduler | None, terms: TaskTerms, *, parent: Task | None = None
    ) -> None:
        super().__init__(scheduler, terms, parent=parent)
        self._scope: TaskScope | None = None
        self._children: dict[Task, None] = {}

    # The scope

    def open(self) -> Self:
        """Open the task's account; entering the scope does this.

        Raises:
            CapExceededError, DeadlineError: the caps can't hold even one answer, or the deadline can't be
                kept beside the promises that other tasks have.
            EndpointBusyError: too many calls wait for the model.
            TaskClosedError: the task around it has ended.
            ScopeError: the task around it belongs to another process.
            RuntimeError: the task was opened before.
        """
        if self._state is not None:
            raise RuntimeError(f"task {self.name!r} was opened before: make a new one")
        parent = self.parent = self.parent or current_task()
        if parent is not None:
            parent.check_process()
        scheduler = self._scheduler = self._scheduler or (
            parent.scheduler if parent is not None else _default_scheduler()
        )
        self.dispatcher = scheduler.dispatcher if parent is None else parent.dispatcher
        above, now = scheduler.account() if parent is None else parent.state.account, loop_time()
        with self.dispatcher.ledger.lock:
            if parent is not None and parent.closed:
                raise TaskClosedError(f"task {parent.name!r} has ended: {self.name!r} can't be opened in it")
            self._log = TaskLog(self.terms.log, scheduler.sinks if parent is None else parent._log.sinks)
            try:
                self._state = self._admit(scheduler, above, now)
            except BaseException:
                self._log.close()
                raise
            if parent is not None:
                parent._children[self] = None
            scheduler.opened(self)
        return self

    def _admit(self, scheduler: BudgetScheduler, above: Account | None, now: float) -> TaskState:
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
        """End the task: stop the calls that still run, wait until they are settled, close the account."""
        if self._state is None or self._closed_at is not None:
            return
        self.dispatcher.dismiss(self._state, loop_time())
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
        """End the task without waiting: running calls are stopped and charged whole."""
        if self._state is None:
            return
        state, now = self._state, loop_time()
        with self.dispatcher.ledger.lock:
            if state.account.closed:
                return
            self.dispatcher.dismiss(state, now)
            for child in list(self._children):
                child.close(error)
            for call in list(self._live):
                call.stop()
            for part in list(self._parts):
                part.settle(part.amount)
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
        """A scope that makes the task current for a piece of code, and neither opens nor closes it."""
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
            backend: the model; None: the scheduler's.
            kind: the kind of call, which chooses its success curve and is counted among the calls that the
                task expects. "final" is the final answer.
            thinking: at most so many thinking tokens; the policy may give less. None: the context's limit.
            solution: at most so many solution tokens; None: what the model's curves were measured with.
            final: the call is the task's final answer and may use the tokens that are reserved for it.
            weight: how much its success counts beside that of other calls, for tokens and at the engine.
            sampling, stop, solution_extra, tools, early_exit, buffered: see
                `elastic_agent.generation.call.Call`; what the probes of an early exit may cost is held, too.
            priority: lower goes first, at the engine and among the waiting calls of this task; calls of one
                priority go by deadline and weight (`elastic_agent.scheduler.runtime.engine_priority`).
            price: what this model costs; None: what the scheduler knows.
            on_exhausted: see `OnExhausted`; None: the task's.
            label: the call's name in logs and reports.
            answer_prompt: the prompt, unguided, of a call that `on_exhausted="answer"` makes the final
                answer; None: the same prompt.
            wrap_up: a sentence before the forced close, or a profile's name
                (`elastic_agent.generation.wrap_up`), whose tokens are held, too. "": none. None: the
                scheduler's.

        Raises:
            ValueError: neither the call nor the scheduler names a backend.
            ScopeError: this process was forked inside the task.
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
        """The answer of a call, run to its end; options are those of `call`."""
        return await self.call(prompt, **options).run()

    def expect(self, kinds: Mapping[str, int]) -> None:
        """Declare more calls to come, by kind; each call of a kind counts down."""
        self.dispatcher.expect(self.state, kinds, loop_time())

    def task(self, caps: Caps, **options: Any) -> Task:
        """A sub-task with caps of its own inside these; options are those of `BudgetScheduler.task`."""
        scheduler = options.pop("scheduler", None) or self.scheduler
        return Task(scheduler, TaskTerms(caps, **options), parent=self)


def _default_scheduler() -> BudgetScheduler:
    from .scheduler import default_scheduler

    return default_scheduler()
