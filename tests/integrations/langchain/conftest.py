"""A scripted model for the LangChain tests, and a look at what it did."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning

THINKING = "one two three four five six seven eight"


def numbered(prompt: str) -> Reply:
    """Says the number that the prompt ends with: parallel calls can't be mixed up unseen."""
    found = re.findall(r"\d+", prompt)
    return Reply(THINKING, f"\n\nthe answer is {found[-1] if found else 'none'}")


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend(numbered)


@pytest.fixture
def chat(backend: ScriptedBackend) -> Callable[..., ChatElasticReasoning]:
    """Makes chat models on the scripted backend."""

    def make(**fields: Any) -> ChatElasticReasoning:
        return ChatElasticReasoning(
            **{"backend": backend, "thinking_budget": 4, "solution_budget": 8, **fields}
        )

    return make
