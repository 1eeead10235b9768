"""Our errors cross LangChain and LangGraph: still ours to catch, and retried only where that can help."""

from __future__ import annotations

import pickle

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
)
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy, default_retry_on

from elastic_agent import errors as core
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.integrations.langchain import errors as ours

NUMBERS = {"needed": {"tokens": 9.0}, "available": {"tokens": 3.0}}
ERRORS = [
    core.CapExceededError("no room", **NUMBERS),
    core.DeadlineError("no time", needed={"seconds": 2.0}),
    core.TaskClosedError("closed"),
    core.BackendUnavailableError("gone"),
    core.BackendProtocolError("nonsense"),
    core.ContextLengthError("too long"),
    core.UnknownModelError("who?"),
    core.InvalidBudgetError("-1"),
    core.NoMarkersError("none"),
    core.UnknownPriceError("free?"),
    core.InvalidCapsError("0"),
]
RETRYABLE = (core.BackendError,)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_an_adapted_error_is_ours_and_langchains(error: core.ElasticError) -> None:
    """Same message and numbers, caught as before; LangChain's and LangGraph's rules agree on retrying."""
    told = ours.adapted(error)
    assert isinstance(told, ModelError)
    assert isinstance(told, core.ElasticError)
    if not isinstance(error, core.InvalidCapsError | core.BackendProtocolError):
        assert isinstance(told, type(error))
    assert str(told) == str(error)
    assert told.is_retryable is isinstance(error, RETRYABLE)
    assert default_retry_on(told) is isinstance(error, RETRYABLE)
    assert ours.adapted(told) is told
    again = pickle.loads(pickle.dumps(told))
    assert (type(again), str(again)) == (type(told), str(told))
    if isinstance(error, core.CapExceededError):
        assert isinstance(told, core.CapExceededError)
        assert (again.needed, again.available) == (error.needed, error.available)


def test_each_kind_is_what_langchain_calls_it() -> None:
    """Overflow handling and connection handling of LangChain apply."""
    kinds = {type(e): type(ours.adapted(e)) for e in ERRORS}
    assert issubclass(kinds[core.ContextLengthError], ContextOverflowError)
    assert issubclass(kinds[core.BackendUnavailableError], ModelConnectionError)
    assert issubclass(kinds[core.UnknownModelError], ModelNotFoundError)
    assert issubclass(kinds[core.InvalidBudgetError], ModelInvalidRequestError)
    assert issubclass(kinds[core.DeadlineError], ours.BudgetExceededError)


class Refusing(ScriptedBackend):
    """A backend whose every pass raises this."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Reply("a", "b"))
        self.error, self.asked = error, 0

    async def ready(self) -> None:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(("error", "tries"), [(ERRORS[0], 1), (ERRORS[2], 1), (ERRORS[3], 3)])
async def test_langgraphs_retry_policy(error: Exception, tries: int) -> None:
    """A budget error ends the graph at once; an upstream that was gone is asked again."""
    backend = Refusing(error)
    model = ChatElasticReasoning(backend=backend)
    graph = StateGraph(dict)

    async def node(state: dict[str, str]) -> dict[str, str]:
        return {"out": (await model.ainvoke("hi")).text}

    graph.add_node(
        "ask", node, retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False)
    )
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    with pytest.raises(type(error)):
        await graph.compile().ainvoke({})
    assert backend.asked == tries


@pytest.mark.parametrize(("error", "tries"), [(ERRORS[0], 1), (ERRORS[7], 1), (ERRORS[3], 3)])
async def test_langchains_retry_middleware(error: Exception, tries: int) -> None:
    """The middleware neither retries a budget error nor turns it into a polite message."""
    backend = Refusing(error)
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.001, jitter=False, on_failure="error")
    agent = create_agent(ChatElasticReasoning(backend=backend), [], middleware=[retry])
    with pytest.raises(type(error)):
        await agent.ainvoke({"messages": [("user", "hi")]})
    assert backend.asked == tries
