"""`TaskBudgetMiddleware`: caps on each run of a `create_agent` agent, and on each of its threads.

    budget = TaskBudgetMiddleware(run=Caps(usd="0.05", seconds=20), thread=Caps(usd=1), store="spend.db")
    agent = create_agent(llm, tools, middleware=[budget], checkpointer=...)

A run is one `invoke`, or one resumption after an interrupt; it is a task. It opens when the agent starts and
ends with the graph's invocation, however that ends (`invocations`). It is the current task around each of the
agent's model and tool calls, so a tool that asks a model is charged to the run as well. Inside an outer
`task_budget` the run is a child task: the tighter cap wins. Runs of an agent with a name
(`create_agent(name=...)`) are planned by what earlier runs of that agent did (`task(agent=)`).

A thread is a conversation (LangGraph's `thread_id`). Each run takes a lease of its thread's account in a
durable store (`accounts.account_leases`), at most what is left there, and gives back what it does not spend.
So a thread's caps hold over runs, interrupts, processes and crashes. The whole lease of a run whose process
dies is charged.

When the run's caps are used up, the agent's next model call becomes the answer, without tools and within what
was reserved for it (`on_exhausted="answer"`), and the agent ends as usual. A tool whose own model calls don't
fit any more fails with a message that says so.

The agent's model must be counted: one of ours, or one under `guard`. Any other is refused, unless `uncounted`
says otherwise. Middleware that calls a model by itself (summarisation, say) is not reached: put `task_budget`
around the agent for that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired
from weakref import WeakKeyDictionary

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr, ToolCallRequest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableBinding
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command

from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError
from elastic_agent.prompts.told_budget import Tell, check_tell
from elastic_agent.scheduler import Task
from elastic_agent.scheduler.allocation.call_terms import OnExhausted
from elastic_agent.scheduler.ledger.stores.protocol import Store
from elastic_agent.scheduler.runtime.context import Uncounted, check_uncounted
from elastic_agent.scheduler.runtime.task_terms import TaskTerms

from ..accounts.account_leases import AccountLease, LeasedAccounts
from ..blocking_portal import portal
from ..chat_models.fields import ElasticFields
from ..errors import langchain_errors
from ..guarded.guard import is_guarded
from .agent_run import AgentRun
from .invocations import invocations


class BudgetState(AgentState[Any]):
    """The agent's state with its run; never saved to a checkpoint."""

    elastic_run: NotRequired[Annotated[AgentRun | None, UntrackedValue, PrivateStateAttr]]


class TaskBudgetMiddleware(AgentMiddleware[BudgetState, Any, Any]):
    """Caps on each run of an agent, and on each thread.

    Args:
        run: what one run may spend; None: what its thread has left.
        thread: what all runs of a thread may spend together, in `usd` and `tokens`; needs a `thread_id`.
        store: where threads' accounts are kept: a durable ledger, such as "spend.db" or "postgresql://...",
            which other processes may share. None: this process's memory.
        on_exhausted: what the agent's calls do when they don't fit any more, see `OnExhausted`. Calls of its
            tools do the same, except for "answer": they wait, and fail when no tokens come back.
        uncounted: what to do about models that can't be counted, see `Uncounted`. None: the agent's own model
            is refused; models that its tools call bring a warning, or what the task around the agent says.
        tell: whether models are told what is left of the run, see `BudgetScheduler`; None: as the task around
            the agent, or the scheduler.
        on_task: called with each run's task after the run, for its report. Not called for runs that fail or
            are interrupted.

    Raises:
        TypeError: neither `run` nor `thread`, or something else than Caps.
        ValueError: `thread` in seconds, or a `store` without it.
    """

    state_schema = BudgetState

    def __init__(
        self,
        run: Caps | None = None,
        *,
        thread: Caps | None = None,
        store: Store | str | Path | None = None,
        on_exhausted: OnExhausted = "answer",
        uncounted: Uncounted | None = None,
        tell: Tell | None = None,
        on_task: Callable[[Task], None] | None = None,
    ) -> None:
        super().__init__()
        for name, caps in (("run", run), ("thread", thread)):
            if not isinstance(caps, Caps | None):
                raise TypeError(f"{name} must be Caps, such as Caps(tokens=4000), not {caps!r}")
        if run is None and thread is None:
            raise TypeError("set run=Caps(...), thread=Caps(...) or both: without caps there is no budget")
        if thread is None and store is not None:
            raise ValueError("store= is for thread=Caps(...): a run's account ends with the run")
        self.run, self.thread = run, thread
        self._accounts = None if thread is None else LeasedAccounts(store or "memory://", thread)
        check_uncounted(uncounted)
        self._on_exhausted: OnExhausted = on_exhausted
        self._uncounted = uncounted
        if tell is not None:
            check_tell(tell)
        self._tell, self._on_task = tell, on_task
        self._opening = threading.Lock()  # sync tools of one step run on threads
        # By the stream writer, one for each invocation: `before_agent` isn't called when a run is resumed
        self._resumed: WeakKeyDictionary[Any, AgentRun] = WeakKeyDictionary()

    def before_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Open the run's task.

        Raises:
            BudgetExceededError: the caps can't hold even one answer.
        """
        with langchain_errors():
            return {"elastic_run": self._open()}

    async def abefore_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Open the run's task."""
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def after_agent(self, state: BudgetState, runtime: Runtime[Any]) -> None:
        """End the run."""
        if run := self._ended(state, runtime):
            portal.run(run.end())
            if self._on_task is not None:
                self._on_task(run.task)

    async def aafter_agent(self, state: BudgetState, runtime: Runtime[Any]) -> None:
        """End the run."""
        await asyncio.to_thread(self.after_agent, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Make the model call inside the run."""
        self._check(request.model)
        run = self._run(request)
        with run.task.current():
            return handler(self._prepared(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Make the model call inside the run."""
        self._check(request.model)
        run = await self._arun(request)
        with run.task.current():
            return await handler(self._prepared(request))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Make the tool call inside the run."""
        with self._run(request).task.current():
            try:
                return handler(request)
            except CapExceededError as error:
                return self._failed_tool(request, error)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Make the tool call inside the run."""
        run = await self._arun(request)
        with run.task.current():
            try:
                return await handler(request)
            except CapExceededError as error:
                return self._failed_tool(request, error)

    # The run of a call

    def _run(self, request: Any) -> AgentRun:
        """The call's run; a new one where the agent was resumed after an interrupt."""
        known: AgentRun | None = request.state.get("elastic_run")
        if known is not None:
            return known
        invocation = request.runtime.stream_writer
        with langchain_errors(), self._opening:
            if (run := self._resumed.get(invocation)) is None:
                run = self._resumed[invocation] = self._open()
            return run

    async def _arun(self, request: Any) -> AgentRun:
        known: AgentRun | None = request.state.get("elastic_run")
        return await asyncio.to_thread(self._run, request) if known is None else known

    def _lease(self) -> AccountLease | None:
        """A lease of the thread's account; None where only runs have caps."""
        if self._accounts is None:
            return None
        thread = get_config().get("configurable", {}).get("thread_id")
        if thread is None:
            raise ValueError('thread=Caps(...) needs a thread: {"configurable": {"thread_id": ...}}')
        return portal.run(self._accounts.lease(f"thread {thread}", self.run))

    def _open(self) -> AgentRun:
        lease = self._lease()
        caps = self.run if lease is None else lease.caps
        assert caps is not None
        # A tool's call must not take of the reserve: the agent's answer would lack it
        on_exhausted = "wait" if self._on_exhausted == "answer" else self._on_exhausted
        agent = get_config().get("metadata", {}).get("lc_agent_name")  # of `create_agent(name=)`
        terms = TaskTerms(
            caps,
            on_exhausted=on_exhausted,
            uncounted=self._uncounted,
            tell=self._tell,
            agent=None if agent is None else str(agent),
        )
        run = AgentRun(Task(None, terms), lease)
        invocations.end_with_graph(get_config(), run)
        return run

    def _ended(self, state: BudgetState, runtime: Runtime[Any]) -> AgentRun | None:
        return state.get("elastic_run") or self._resumed.pop(runtime.stream_writer, None)

    def _check(self, model: object) -> None:
        """Refuse an agent's model that can't be counted."""
        while isinstance(model, RunnableBinding):
            model = model.bound
        if (
            self._uncounted in (None, "refuse")
            and not isinstance(model, ElasticFields)
            and not is_guarded(model)
        ):
            raise TypeError(
                f"TaskBudgetMiddleware can't count what a {type(model).__name__} spends: use "
                f"ChatElasticReasoning, or put the model under guard(model, price=...)"
            )

    def _failed_tool(self, request: ToolCallRequest, error: CapExceededError) -> ToolMessage:
        """The message of a tool whose own calls had no room; the agent answers next."""
        if self._on_exhausted != "answer":
            raise error
        call = request.tool_call
        return ToolMessage(
            f"no budget is left for this tool ({error})",
            tool_call_id=call["id"],
            name=call["name"],
            status="error",
        )

    def _prepared(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request with the run's `on_exhausted`."""
        settings = {"on_exhausted": self._on_exhausted, **request.model_settings}
        return request.override(model_settings=settings)
