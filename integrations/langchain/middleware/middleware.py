"""`TaskBudgetMiddleware`: caps on each run of a `create_agent` agent, and on each of its threads.

    budget = TaskBudgetMiddleware(run=Caps(usd="0.05", seconds=20), thread=Caps(usd=1), store="spend.db")
    agent = create_agent(llm, tools, middleware=[budget], checkpointer=...)

A run is one `invoke`, or one resumption after an interrupt; it is a task. It opens when the agent starts and
ends when the invocation ends, however that is (`_invocations`). It is made the current task around each of
the agent's model and tool calls, so a tool that asks a model is charged to the run, too. Inside an outer
`task_budget` it is that one's child: the tighter cap wins. Runs of an agent with a name
(`create_agent(name=...)`) are planned by what those before them did (`task(agent=)`).

A thread is a conversation (LangGraph's `thread_id`). Each run takes a share of its thread's account in a
durable store (`_shares`), at most what is left of it, and gives back what it does not spend. So a thread's
caps hold over runs, interrupts, processes and crashes; a run whose process dies is charged whole.

When the run's caps are used up, the agent's next model call is turned into the answer, without tools and
within what was kept for it (`on_exhausted="answer"`), and the agent ends as if it had been done. A tool whose
own model calls don't fit any more fails with a message that says so.

The agent's model has to be counted: ours, or one under `guard`; another is refused, unless `uncounted` says
otherwise. Middleware that calls a model by itself (summarisation, say) is not reached: put `task_budget`
around the agent for that.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr, ToolCallRequest
from langchain_core.messages import SystemMessage, ToolMessage
from langchain_core.runnables import RunnableBinding
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command

from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import Task
from elastic_agent.scheduler.allocation.request import OnExhausted
from elastic_agent.scheduler.ledger.amounts import NOTHING
from elastic_agent.scheduler.ledger.stores.protocol import Store
from elastic_agent.scheduler.runtime.context import Uncounted, check_uncounted

from ..accounts.leases import Share, Shares
from ..blocking_portal import portal
from ..chat_models.fields import ElasticFields
from ..errors import langchain_errors
from ..guarded.guard import is_guarded
from .invocations import invocations


class _Run:
    """One run's task, and its share of the thread. It ends with the graph's invocation, however that ends;
    where callbacks don't tell, when LangGraph lets go of it."""

    def __init__(self, task: Task, share: Share | None) -> None:
        self.task, self.share = task, share
        task.lease = share
        self._over = weakref.finalize(self, _over, task, share)
        _RUNS.add(self)
        try:
            task.open()
        except BaseException:
            self._over()
            raise

    def end(self) -> Coroutine[Any, Any, None]:
        """End it now; what comes back settles the thread's account."""
        self._over.detach()
        self.task.close()
        return _settle(self.task, self.share)

    def invocation_over(self) -> None:
        """End it, unless it has ended, and settle soon."""
        self._over()

    def forget(self) -> None:
        """It is another process's."""
        self._over.detach()


_RUNS: weakref.WeakSet[_Run] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    """Runs that nobody has ended yet give back what they did not spend."""
    for run in list(_RUNS):
        run.invocation_over()
    portal.finish()


def _after_fork() -> None:
    for run in list(_RUNS):
        run.forget()
    _RUNS.clear()


os.register_at_fork(after_in_child=_after_fork)


def _over(task: Task, share: Share | None) -> None:
    task.close()
    if share is not None:
        portal.soon(_settle(task, share))


async def _settle(task: Task, share: Share | None) -> None:
    if share is not None:
        await share.settle(task.state.account.spent if task.closed else NOTHING)


class BudgetState(AgentState[Any]):
    """The agent's state with its run's task; never saved to a checkpoint."""

    elastic_run: NotRequired[Annotated[_Run | None, UntrackedValue, PrivateStateAttr]]


class TaskBudgetMiddleware(AgentMiddleware[BudgetState, Any, Any]):
    """Caps on each run of an agent, and on each thread.

    Args:
        run: what one run may spend; None: what its thread has left.
        thread: what all runs of a thread may spend together, in `usd` and `tokens`; needs a `thread_id`.
        store: where threads' accounts are kept: a durable ledger, such as "spend.db" or "postgresql://...",
            which other processes may share. None: this process's memory.
        on_exhausted: what the agent's calls do that don't fit any more, see `OnExhausted`. Those of its
            tools do the same, but with "answer" they wait, and fail when nothing comes back.
        uncounted: what becomes of models that can't be counted, see `Uncounted`. None: the agent's own model
            is refused; those that its tools call are told by a warning, or as the task around it says.
        tell: end the system prompt of each model call with what is left.
        on_task: called with each run's task when it has ended, for its report; not for runs that fail or are
            interrupted.

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
        tell: bool = False,
        on_task: Callable[[Task], None] | None = None,
    ) -> None:
        super().__init__()
        for name, caps in (("run", run), ("thread", thread)):
            if not isinstance(caps, Caps | None):
                raise TypeError(f"{name} must be Caps, such as Caps(tokens=4000), not {caps!r}")
        if run is None and thread is None:
            raise TypeError("set run=Caps(...), thread=Caps(...) or both: without caps there is no budget")
        if thread is None and store is not None:
            raise ValueError("store= is for thread=Caps(...): a run's books end with it")
        self.run, self.thread = run, thread
        self._shares = None if thread is None else Shares(store or "memory://", thread)
        check_uncounted(uncounted)
        self._way: OnExhausted = on_exhausted
        self._uncounted = uncounted
        self._tell, self._on_task = tell, on_task
        self._opening = threading.Lock()  # sync tools of one step run on threads
        # By what LangGraph makes for each invocation: a resumed one has no `before_agent`
        self._resumed: weakref.WeakKeyDictionary[Any, _Run] = weakref.WeakKeyDictionary()

    def before_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Open the run's task.

        Raises:
            BudgetExceededError: the caps can't hold even one answer.
        """
        with langchain_errors():
            return {"elastic_run": self._open(self._take())}

    async def abefore_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        """The same."""
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def after_agent(self, state: BudgetState, runtime: Runtime[Any]) -> None:
        """Close it."""
        if run := self._ended(state, runtime):
            portal.run(run.end())
            if self._on_task is not None:
                self._on_task(run.task)

    async def aafter_agent(self, state: BudgetState, runtime: Runtime[Any]) -> None:
        """Close it."""
        await asyncio.to_thread(self.after_agent, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """A model call of the run."""
        self._check(request.model)
        run = self._run(request)
        with run.task.current():
            return handler(self._told(request, run))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """A model call of the run."""
        self._check(request.model)
        run = await self._arun(request)
        with run.task.current():
            return await handler(self._told(request, run))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """A tool call of the run."""
        with self._run(request).task.current():
            try:
                return handler(request)
            except CapExceededError as error:
                return self._failed(request, error)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """A tool call of the run."""
        run = await self._arun(request)
        with run.task.current():
            try:
                return await handler(request)
            except CapExceededError as error:
                return self._failed(request, error)

    # The run of a call

    def _run(self, request: Any) -> _Run:
        """The call's run; a new one where the agent was resumed after an interrupt."""
        known: _Run | None = request.state.get("elastic_run")
        if known is not None:
            return known
        invocation = request.runtime.stream_writer
        with langchain_errors(), self._opening:
            if (run := self._resumed.get(invocation)) is None:
                run = self._resumed[invocation] = self._open(self._take())
            return run

    async def _arun(self, request: Any) -> _Run:
        known: _Run | None = request.state.get("elastic_run")
        return await asyncio.to_thread(self._run, request) if known is None else known

    def _take(self) -> Share | None:
        """A share of the thread's account."""
        if self._shares is None:
            return None
        if (thread := _thread()) is None:
            raise ValueError('thread=Caps(...) needs a thread: {"configurable": {"thread_id": ...}}')
        return portal.run(self._shares.take(f"thread {thread}", self.run))

    def _open(self, share: Share | None) -> _Run:
        caps = self.run if share is None else share.caps
        assert caps is not None
        # What a tool's call would take of the reserve, the agent's answer would lack
        way = "wait" if self._way == "answer" else self._way
        task = Task(None, caps, on_exhausted=way, uncounted=self._uncounted, agent=_agent())
        run = _Run(task, share)
        invocations.end_with_graph(get_config(), run)
        return run

    def _ended(self, state: BudgetState, runtime: Runtime[Any]) -> _Run | None:
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

    def _failed(self, request: ToolCallRequest, error: CapExceededError) -> ToolMessage:
        """What a tool whose own calls had no room says; the agent answers next."""
        if self._way != "answer":
            raise error
        call = request.tool_call
        return ToolMessage(
            f"no budget is left for this tool ({error})",
            tool_call_id=call["id"],
            name=call["name"],
            status="error",
        )

    def _told(self, request: ModelRequest[Any], run: _Run) -> ModelRequest[Any]:
        request = request.override(model_settings={"on_exhausted": self._way, **request.model_settings})
        if not self._tell:
            return request
        left = run.task.left
        words = [f"{left.tokens} tokens"] if left.tokens is not None else []
        words += [f"{left.usd:f} USD"] if left.usd is not None else []
        words += [f"{left.seconds:.0f} seconds"] if left.seconds is not None else []
        said = "" if request.system_message is None else f"{request.system_message.text}\n\n"
        note = SystemMessage(f"{said}What is left of your budget: {', '.join(words)}.")
        return request.override(system_message=note)


def _thread() -> str | None:
    thread = get_config().get("configurable", {}).get("thread_id")
    return None if thread is None else str(thread)


def _agent() -> str | None:
    """The name that `create_agent` was given."""
    name = get_config().get("metadata", {}).get("lc_agent_name")
    return None if name is None else str(name)
