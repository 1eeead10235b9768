"""The names that users type (DESIGN, "The public face"). They stay; a change here is a change for users."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import elastic_agent

# Exactly these.
TOP = {
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
}

# At least these.
PROMISED = {
    "elastic_agent.scheduler": {"BudgetScheduler", "task_budget"},
    "elastic_agent.integrations.langchain": {
        "ChatElasticReasoning",
        "ElasticReasoningLLM",
        "TaskBudgetMiddleware",
        "use_client",
    },
}


def test_the_top_level_names_are_these() -> None:
    """A name that comes or goes does so on purpose."""
    assert set(elastic_agent.__all__) == TOP
    assert set(dir(elastic_agent)) >= TOP


@pytest.mark.parametrize("name", sorted(TOP))
def test_every_top_level_name_loads(name: str) -> None:
    """Names are loaded when first used: each must have a home."""
    assert getattr(elastic_agent, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A lazy package answers like any other."""
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = elastic_agent.Nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_are_where_the_design_says(module: str) -> None:
    """Imports in users' code keep working, and `__all__` says so."""
    loaded = importlib.import_module(module)
    assert PROMISED[module] <= set(loaded.__all__)
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def test_the_command_is_installed() -> None:
    """`elastic-agent` on the command line is a function that exists."""
    (command,) = [point for point in entry_points(group="console_scripts") if point.name == "elastic-agent"]
    assert callable(command.load())


def test_the_citation_names_this_version() -> None:
    """CITATION.cff is what people cite."""
    text = (Path(__file__).resolve().parent.parent / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {elastic_agent.__version__}\n" in text
