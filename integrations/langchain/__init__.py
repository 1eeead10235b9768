"""Elastic Reasoning in LangChain and LangGraph.

    from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM

`chat` and `llm` hold the two models, `_guard` puts other providers' models under the same ledger, `errors` is
what they raise, `middleware` the caps on an agent's runs (the only part that needs the package `langchain`,
so it is loaded when first used).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .accounts.remote import joined_budget, remote_budget
from .chat_models.chat import ChatElasticReasoning
from .chat_models.llm import ElasticReasoningLLM
from .guarded.guard import guard

if TYPE_CHECKING:
    from .middleware.middleware import TaskBudgetMiddleware

__all__ = [
    "ChatElasticReasoning",
    "ElasticReasoningLLM",
    "TaskBudgetMiddleware",
    "guard",
    "joined_budget",
    "remote_budget",
]


def __getattr__(name: str) -> Any:
    if name != "TaskBudgetMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .middleware.middleware import TaskBudgetMiddleware

    return TaskBudgetMiddleware
