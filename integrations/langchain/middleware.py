"""`TaskBudgetMiddleware`: caps on each run of a `create_agent` agent.

    agent = create_agent(llm, tools, middleware=[TaskBudgetMiddleware(run=Caps(usd="0.05", seconds=20))])

A run is a task. It opens when the agent starts and is made the current task around each of the agent's model
and tool calls, so a tool that asks a model is charged to the run, too. Inside an outer `task_budget` it is
that one's child: the tighter cap wins. Everything else happens inside the models, as under `task_budget`.

Its limits, for now. A run's model has to be one of ours: another would spend without being counted, so it is
refused. A run that is resumed after an interrupt is refused. Middleware that calls a model by itself
(summarisation, say) is not reached. `task_budget` around the agent has none of these limits.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NotRequired

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr, ToolCallRequest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableBinding
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.runtime import Runtime
from langgraph.types import Command

from elastic_agent.budget import Caps
from elastic_agent.errors import TaskClosedError
from elastic_agent.integrations.langchain._model import ElasticFields
from elastic_agent.integrations.langchain.errors import langchain_errors
from elastic_agent.scheduler import Task


class _Run:
    """One run's task. It is closed with the run, or, when the run fails, with the state that holds it."""

    def __init__(self, caps: Caps) -> None:
        self.task = Task(None, caps).open()
        self.close = weakref.finalize(self, self.task.close)


class BudgetState(AgentState[Any]):
    """The agent's state with its run's task; never saved to a checkpoint."""

    elastic_run: NotRequired[Annotated[_Run | None, UntrackedValue, PrivateStateAttr]]


class TaskBudgetMiddleware(AgentMiddleware[BudgetState, Any, Any]):
    """Caps on each run of an agent.

    Args:
        run: what one `invoke` of the agent may spend.
        on_task: called with each run's task when it has ended, for its report.
    """

    state_schema = BudgetState

    def __init__(self, run: Caps, *, on_task: Callable[[Task], None] | None = None) -> None:
        super().__init__()
        if not isinstance(run, Caps):
            raise TypeError(f"run must be Caps, such as Caps(tokens=4000), not {run!r}")
        self.run = run
        self._on_task = on_task

    def before_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        """Open the run's task.

        Raises:
            BudgetExceededError: the caps can't hold even one answer.
        """
        with langchain_errors():
            return {"elastic_run": _Run(self.run)}

    def after_agent(self, state: BudgetState, runtime: Runtime[Any]) -> None:
        """Close it."""
        run = state.get("elastic_run")
        if run is not None:
            run.close()
            if self._on_task is not None:
                self._on_task(run.task)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """A model call of the run."""
        with self._in_run(request.state, request.model):
            return handler(request)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """A model call of the run."""
        with self._in_run(request.state, request.model):
            return await handler(request)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """A tool call of the run."""
        with self._in_run(request.state):
            return handler(request)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """A tool call of the run."""
        with self._in_run(request.state):
            return await handler(request)

    @contextmanager
    def _in_run(self, state: Any, model: object = None) -> Iterator[None]:
        """The run's task as the current one."""
        while isinstance(model, RunnableBinding):
            model = model.bound
        if model is not None and not isinstance(model, ElasticFields):
            raise TypeError(
                f"TaskBudgetMiddleware can't count what a {type(model).__name__} spends: use "
                f"ChatElasticReasoning"
            )
        run: _Run | None = state.get("elastic_run")
        if run is None:
            with langchain_errors():
                raise TaskClosedError(
                    "this run has no task, because it was resumed after an interrupt: put task_budget around "
                    "the agent instead"
                )
        with run.task.current():
            yield
