"""LangChain's own unit suite, unchanged: no test overridden, none skipped, none expected to fail.

It has no suite for text models (`BaseLLM`); `test_llm.py` holds what the chat suite asks for, for ours.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning


class TestStandardUnit(ChatModelUnitTests):
    """Init, environment, tools, structured output, tracing parameters, serialisation."""

    @pytest.fixture(autouse=True)
    def trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`test_serdes` loads with `allowed_objects="all"`: a list that LangChain keeps of packages it knows.

        A library must not add itself to it behind its user's back: that is the user's decision
        (`allowed_objects=[ChatElasticReasoning]`, see test_serialisation.py). Here it is taken.
        """
        load = import_module("langchain_core.load.load")
        known = load._get_default_allowed_class_paths("all")
        monkeypatch.setitem(
            load._default_class_paths_cache, "all", known | {tuple(ChatElasticReasoning.lc_id())}
        )

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatElasticReasoning

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "e1-tiny", "thinking_budget": 64, "solution_budget": 32}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"ELASTIC_AGENT_API_KEY": "secret"},
            {"model": "some-model", "base_url": "http://localhost:8000/v1"},
            {"api_key": "secret"},
        )


class TestStandardUnitInjected(TestStandardUnit):
    """The same with a backend of the caller's."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "backend": ScriptedBackend()}
