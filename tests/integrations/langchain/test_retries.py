"""LangChain's retries and fallbacks: a budget error is not repeated; another model may do what one can't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.runnables import Runnable

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.errors import BackendUnavailableError, CapExceededError
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM, guard
from elastic_agent.scheduler import Price, task_budget
from tests.integrations.langchain.test_errors import Refusing

QUICK = {"stop_after_attempt": 3, "wait_exponential_jitter": False}
MADE: dict[str, Callable[[Any], Any]] = {
    "model": lambda model: model,
    "bound": lambda model: model.bind(solution_budget=4),
    "with tools": lambda model: model.bind_tools([]),
    "a copy": lambda model: model.with_budget(solution_budget=4),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize(
    ("error", "tries"), [(CapExceededError("no room"), 1), (BackendUnavailableError("gone"), 3)]
)
async def test_with_retry(error: Exception, tries: int, made: str) -> None:
    """A budget error is raised at once, in every form of the model; a server that was gone is asked again."""
    backend = Refusing(error)
    model: Runnable[Any, Any] = MADE[made](ChatElasticReasoning(backend=backend)).with_retry(**QUICK)
    with pytest.raises(type(error)):
        await model.ainvoke("hi")
    assert backend.asked == tries


async def test_kinds_of_ones_own_are_kept() -> None:
    """`retry_if_exception_type=` narrows further, as types or as a function; the text model does it, too."""
    for kinds, tries in (((ValueError,), 1), ((BackendUnavailableError,), 3), (lambda error: False, 1)):
        backend = Refusing(BackendUnavailableError("gone"))
        model = ElasticReasoningLLM(backend=backend).with_retry(retry_if_exception_type=kinds, **QUICK)
        with pytest.raises(BackendUnavailableError):
            await model.ainvoke("hi")
        assert backend.asked == tries


@pytest.mark.parametrize(("cap", "asked"), [(400, 3), (3, 0)])
async def test_a_guarded_models_retries(cap: int, asked: int) -> None:
    """Its provider's own errors are repeated, each try held for and charged; a refusal of its task is not."""
    tries: list[int] = []

    class Failing(FakeListChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            tries.append(1)
            raise ConnectionError("gone")

    model = guard(Failing(responses=["x"]), price=Price("1", "1"), max_tokens=50).with_retry(**QUICK)
    with pytest.raises((ConnectionError, CapExceededError)) as failed:
        async with task_budget(tokens=cap):
            await model.ainvoke("hi")
    assert len(tries) == asked
    assert isinstance(failed.value, ConnectionError if asked else CapExceededError)


async def test_a_fallback_answers_within_the_same_caps() -> None:
    """The dear model is refused unspent, the cheap one answers; both are on one ledger."""
    dear, cheap = ScriptedBackend(Reply("hm", "dear")), ScriptedBackend(Reply("hm", "cheap"))
    big = ChatElasticReasoning(
        backend=dear, solution_budget=40, price=Price("100", "1000"), on_exhausted="raise"
    )
    small = ChatElasticReasoning(backend=cheap, solution_budget=40, price=Price("0.1", "0.1"))
    async with task_budget(usd="0.001") as task:
        said = await big.with_fallbacks([small]).ainvoke("hi")
    assert said.text == "cheap"
    assert dear.meter.requests == 0
    assert task.spent.usd is not None
    assert 0 < task.spent.usd < 0.001


async def test_where_no_model_fits_the_first_error_is_raised() -> None:
    """A fallback is no way around a cap."""
    backend = ScriptedBackend(Reply("hm", "yes"))
    model = ChatElasticReasoning(backend=backend, solution_budget=40)
    with pytest.raises(CapExceededError):
        async with task_budget(tokens=3):
            await model.with_fallbacks([model.with_budget(solution_budget=30)]).ainvoke("hi")
    assert backend.meter.requests == 0
