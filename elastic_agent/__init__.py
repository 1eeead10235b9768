"""Elastic Agent: thinking and solution budgets for agents built on reasoning models.

    from elastic_agent import Budget, BudgetScheduler, Caps, ChatElasticReasoning, Price, guard, task_budget

What users type is found here, wherever its home is. Importing this package loads none of torch,
transformers, vllm, trl or langchain; names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Budget": "elastic_agent.budget",
    "BudgetScheduler": "elastic_agent.scheduler",
    "Caps": "elastic_agent.budget",
    "ChatElasticReasoning": "elastic_agent.integrations.langchain",
    "ElasticError": "elastic_agent.errors",
    "ElasticReasoningLLM": "elastic_agent.integrations.langchain",
    "Generation": "elastic_agent.generation.result",
    "Price": "elastic_agent.scheduler",
    "ScriptedBackend": "elastic_agent.backends.scripted",
    "TaskBudgetMiddleware": "elastic_agent.integrations.langchain",
    "Usage": "elastic_agent.usage",
    "guard": "elastic_agent.integrations.langchain",
    "load_backend": "elastic_agent.backends.load",
    "task_budget": "elastic_agent.scheduler",
}

__all__ = [
    "Budget",
    "BudgetScheduler",
    "Caps",
    "ChatElasticReasoning",
    "ElasticError",
    "ElasticReasoningLLM",
    "Generation",
    "Price",
    "ScriptedBackend",
    "TaskBudgetMiddleware",
    "Usage",
    "__version__",
    "guard",
    "load_backend",
    "task_budget",
]

if TYPE_CHECKING:
    from elastic_agent.integrations.langchain import (
        ChatElasticReasoning,
        ElasticReasoningLLM,
        TaskBudgetMiddleware,
        guard,
    )
    from elastic_agent.scheduler import BudgetScheduler, Price, task_budget

    from .backends.load import load_backend
    from .backends.scripted import ScriptedBackend
    from .budget import Budget, Caps
    from .errors import ElasticError
    from .generation.result import Generation
    from .usage import Usage


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
