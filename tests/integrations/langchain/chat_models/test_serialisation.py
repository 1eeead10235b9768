"""Saving and loading a model: its configuration, never its key, never an injected backend."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.load import dumpd, dumps, load
from pydantic import SecretStr

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.integrations.langchain import ChatElasticReasoning, ElasticReasoningLLM
from elastic_agent.scheduler import Price

KINDS = [ChatElasticReasoning, ElasticReasoningLLM]
FIELDS: dict[str, Any] = {
    "model": "m",
    "base_url": "http://localhost:8000/v1",
    "thinking_budget": 64,
    "solution_budget": 32,
    "stop": ["x"],
    "price": Price("0.5", "2", "0.1"),
    "on_exhausted": "wait",
    "early_exit": EarlyExit(every=64, lead="so"),
}


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_loaded_as_it_was_saved(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its configuration, price included; the key comes from the environment again."""
    model = kind(api_key=SecretStr("sesame"), **FIELDS)
    saved = dumpd(model)
    assert "sesame" not in json.dumps(saved)
    monkeypatch.setenv("ELASTIC_AGENT_API_KEY", "sesame")
    again = load(saved, allowed_objects=[kind], valid_namespaces=["elastic_agent"], secrets_from_env=True)
    assert type(again) is kind
    assert again.api_key.get_secret_value() == "sesame"
    assert again.price == model.price
    assert again.early_exit == model.early_exit
    assert again.asdict() == model.asdict()


@pytest.mark.parametrize("kind", KINDS)
def test_neither_key_nor_backend_is_shown(kind: type[Any]) -> None:
    """Not in a repr, not in what is saved, not in what is traced."""
    model = kind(backend=ScriptedBackend(), api_key="sesame", **FIELDS)
    told = [repr(model), str(model), dumps(model), str(model.asdict()), str(model._get_ls_params())]
    assert not any("sesame" in text or "ScriptedBackend" in text for text in told)
    assert "backend" not in dumpd(model)["kwargs"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_documented(kind: type[Any]) -> None:
    """The string under a field is its description, for people and for schemas."""
    ours = set(ChatElasticReasoning.model_fields) & set(ElasticReasoningLLM.model_fields)
    ours -= {"cache", "verbose", "callbacks", "tags", "metadata", "custom_get_token_ids", "name"}
    assert {"model", "thinking_budget", "solution_budget", "price", "backend"} <= ours
    assert [name for name in ours if not kind.model_fields[name].description] == []
