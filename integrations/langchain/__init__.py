"""Elastic Reasoning in LangChain and LangGraph.

    from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM

chat_models/      our two models: messages in and out, or text in and out
guarded/          `guard`: other providers' chat models under the same ledger
middleware/       `TaskBudgetMiddleware`: caps on an agent's runs and threads (needs the package `langchain`)
accounts/         parts of an account's caps, for one run or another process
use_client        base URL and key for agents that speak the OpenAI wire
call              one call, inside a task or outside
messages          LangChain messages for a chat template
metadata          what a message says about its call
errors            our errors as LangChain's
blocking_portal   sync calls over async code
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .accounts.remote import joined_budget, remote_budget
from .chat_models.chat import ChatElasticReasoning
from .chat_models.llm import ElasticReasoningLLM
from .guarded.guard import guard
from .use_client import use_client

if TYPE_CHECKING:
    from .middleware.middleware import TaskBudgetMiddleware

__all__ = [
    "ChatElasticReasoning",
    "ElasticReasoningLLM",
    "TaskBudgetMiddleware",
    "guard",
    "joined_budget",
    "remote_budget",
    "use_client",
]


def __getattr__(name: str) -> Any:
    if name != "TaskBudgetMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .middleware.middleware import TaskBudgetMiddleware

    return TaskBudgetMiddleware
