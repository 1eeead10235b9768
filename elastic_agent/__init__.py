"""Elastic Agent: thinking and solution budgets for agents built on reasoning models.

    from elastic_agent import Budget, Caps
    from elastic_agent.scheduler import BudgetScheduler, task_budget
    from elastic_agent.integrations.langchain import ChatElasticReasoning

Importing this package loads none of torch, transformers, vllm, trl or langchain; names are loaded when
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Budget": "elastic_agent.budget",
    "Caps": "elastic_agent.budget",
    "Usage": "elastic_agent.usage",
    "ElasticError": "elastic_agent.errors",
    "Generation": "elastic_agent.generation.result",
    "load_backend": "elastic_agent.backends.load",
    "ScriptedBackend": "elastic_agent.backends.scripted",
}

__all__ = [
    "Budget",
    "Caps",
    "ElasticError",
    "Generation",
    "ScriptedBackend",
    "Usage",
    "__version__",
    "load_backend",
]

if TYPE_CHECKING:
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
