"""LangChain's own unit suite, unchanged: no test overridden, none skipped, none expected to fail.

It has no suite for text models (`BaseLLM`); `test_llm.py` holds what the chat suite asks for, for ours.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning
from tests.integrations.langchain.competent import Competent
from tests.wire import Wire, serve_in_thread


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


class Integration(ChatModelIntegrationTests):
    """Every capability of a text model is switched on; pictures, sound, files and VCR are not."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatElasticReasoning

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Any, Any]:
        return {kind: ["reasoning_output"] for kind in ("invoke", "stream")}

    def _ask(self, stream: bool) -> AIMessage:
        model = ChatElasticReasoning(**self.chat_model_params)
        if not stream:
            return model.invoke("Hello")
        whole = reduce(operator.add, model.stream("Hello"))
        assert isinstance(whole, AIMessage)
        return whole

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return self._ask(stream)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with serve_in_thread(Competent(), adapters={"another": ""}) as server:
        yield server


class TestStandardIntegration(Integration):
    """Against a server that speaks vLLM's wire and has a model that does what is asked, by rule."""

    @pytest.fixture(autouse=True)
    def served(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "scripted",
            "base_url": self._wire.base_url,
            "backend_options": {"codec": self._wire.backend.codec},
            "thinking_budget": 64,
            "solution_budget": 128,
        }

    @property
    def model_override_value(self) -> str:
        return "another"


class TestStandardIntegrationByCalls(TestStandardIntegration):
    """Structured output by calls of a tool."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestStandardIntegrationEmbedded(Integration):
    """The embedded model, for all that needs neither competence nor guided decoding: it can't call tools."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "e1-tiny", "thinking_budget": 24, "solution_budget": 24, "seed": 1}

    @property
    def model_override_value(self) -> str:
        return "e1-tiny-base"

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_tool_choice(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_json_mode(self) -> bool:
        return False
