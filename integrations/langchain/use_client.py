"""Base URL and key for clients of the OpenAI wire, wherever an agent's model is.

    client = AsyncOpenAI(**use_client(llm))

An agent that was written for another framework, or with a plain client, keeps its code in all three places:

training, evaluation    the run's own gateway: what is sent there are calls of the agent's task, on the model
                        of the run
production              the server at `llm.base_url`: a gateway or vLLM

In a coroutine take `AsyncOpenAI`: the client that blocks would stop the event loop that answers it in
training. A plain function runs in a thread, and may take `OpenAI`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypedDict

from elastic_agent.backends.base import Backend

from .chat_models.base import ElasticModel


class Client(TypedDict):
    """Arguments of `openai.OpenAI` and `openai.AsyncOpenAI`."""

    base_url: str
    api_key: str


hosted_client: ContextVar[Callable[[Backend], Client] | None] = ContextVar("hosted_client", default=None)
"""Inside an episode: what a client of the current task needs for calls of this backend."""


def use_client(llm: ElasticModel) -> Client:
    """What a client of the OpenAI wire needs, to call the model of `llm` inside the current task.

    Requests may name any model. Their options are their own: those of `llm` (`thinking_budget`, say) aren't
    sent along.

    Raises:
        ValueError: the model runs in this process outside of an episode, so no server answers for it; or it
            has several servers.
    """
    hosted = hosted_client.get()
    if hosted is not None and llm.backend is not None:
        return hosted(llm.backend)
    if llm.base_url is None:
        raise ValueError(
            f"{llm.model} runs in this process, where a client of the OpenAI wire can't reach it: start a "
            f"server (`elastic-agent serve --model {llm.model}`) and pass base_url= to the model. In "
            f"`elastic-agent train` and `eval` use the llm that the agent is given"
        )
    if "," in llm.base_url:
        raise ValueError(
            f"a client has one base_url, and {llm.model} has several: put a gateway before the servers "
            f"(`elastic-agent serve --upstream {llm.model}={llm.base_url.split(',')[0]}`, say)"
        )
    key = None if llm.api_key is None else llm.api_key.get_secret_value()
    return {"base_url": llm.base_url, "api_key": key or "none"}
