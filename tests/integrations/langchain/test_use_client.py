"""`use_client`: where a client of the OpenAI wire finds the model of an `llm`."""

from __future__ import annotations

import openai
import pytest
from pydantic import SecretStr

from elastic_agent.backends.scripted import ScriptedBackend
from elastic_agent.integrations.langchain import ChatElasticReasoning, use_client
from elastic_agent.integrations.langchain.use_client import hosted_client


async def test_in_production_it_is_the_model_s_server() -> None:
    """Base URL and key of the model, as arguments of openai's clients."""
    url = "http://localhost:8000/v1"
    llm = ChatElasticReasoning(model="e1", base_url=url, api_key=SecretStr("ea-1"))
    assert use_client(llm) == {"base_url": url, "api_key": "ea-1"}
    assert use_client(ChatElasticReasoning(model="e1", base_url=url, api_key=None))["api_key"] == "none"
    async with openai.AsyncOpenAI(**use_client(llm)) as client:
        assert (str(client.base_url), client.api_key) == (f"{url}/", "ea-1")


def test_a_model_without_a_server_says_what_to_do() -> None:
    """In this process nothing answers; several servers are no base URL."""
    with pytest.raises(ValueError, match=r"e1-tiny runs in this process.*serve --model e1-tiny"):
        use_client(ChatElasticReasoning(model="e1-tiny"))
    with pytest.raises(ValueError, match="several: put a gateway"):
        use_client(ChatElasticReasoning(model="e1", base_url="http://a/v1,http://b/v1"))


def test_in_an_episode_it_is_the_runs_gateway_for_the_runs_model_alone() -> None:
    """The agent's other models stay where they are."""
    backend, url = ScriptedBackend(), "http://localhost:8000/v1"
    token = hosted_client.set(
        lambda wanted: {"base_url": "http://hosted/v1", "api_key": "eh-1" if wanted is backend else "?"}
    )
    try:
        assert use_client(ChatElasticReasoning(backend=backend))["api_key"] == "eh-1"
        assert use_client(ChatElasticReasoning(model="helper", base_url=url))["base_url"] == url
        with pytest.raises(ValueError, match="in this process"):
            use_client(ChatElasticReasoning(model="e1-tiny"))
    finally:
        hosted_client.reset(token)
