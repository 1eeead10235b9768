"""Whether anything of a call may have left this machine: decides between a refund and a charge.

The event hooks of an httpx client see each request before it is sent; httpcore's "trace" extension tells what
becomes of it. `SentRequests` learns from both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from .retries import CLIENTS

_INSIDE = (*CLIENTS, "_api_client", "_httpx_client", "_async_httpx_client", "sdk_configuration")
_INSTRUMENTED = (
    *("langchain_openai", "langchain_anthropic", "langchain_groq", "langchain_mistralai"),
    *("langchain_deepseek", "langchain_xai", "langchain_ollama", "langchain_openrouter"),
    "langchain_fireworks",
)
"""Packages whose models send every request with an httpx client that they hold."""


@dataclass(slots=True)
class SentRequests:
    """What became of the requests of one call."""

    _written: bool = False
    _pending: bool = False

    @property
    def may_have_left(self) -> bool:
        """Whether anything of the call may have left this machine."""
        return self._written or self._pending

    def about_to_send(self) -> None:
        """A client is about to send a request."""
        self._written = self._written or self._pending  # the request before may have left
        self._pending = True

    def traced(self, event: str) -> None:
        """An event that httpcore reports of the request."""
        if event.endswith((".connect_tcp.started", ".connect_unix_socket.started", ".start_tls.started")):
            self._pending = False  # a new connection is made first
        elif ".send_" in event:
            self._written = True


current_requests: ContextVar[SentRequests | None] = ContextVar("elastic_agent_sent_requests", default=None)
"""The requests of the guarded call that runs here."""


def watch_clients(model: BaseChatModel, kind: type[BaseChatModel], method: str) -> bool:
    """Have the model's clients report to `current_requests`; returns whether all of its clients do.

    Args:
        kind: the model's class, without guard's.
        method: the method that is about to be called.
    """
    if method.startswith("_a") and getattr(kind, method).__module__.startswith("langchain_core."):
        method = method.replace("_a", "_", 1)  # LangChain runs the sync one on a thread
    if getattr(kind, method).__module__.partition(".")[0] not in _INSTRUMENTED:
        return False
    wanted = "AsyncClient" if method.startswith("_a") else "Client"
    found, hook = list(_httpx_clients(model, wanted)), _ahook if wanted == "AsyncClient" else _hook
    for client in found:
        if hook not in client.event_hooks["request"]:
            client.event_hooks["request"].append(hook)
    return bool(found)


def _httpx_clients(model: Any, wanted: str) -> Iterator[Any]:
    seen, todo = set[int](), [(model, 0)]
    while todo:
        one, depth = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        names = [base.__name__ for base in type(one).__mro__ if base.__module__.startswith("httpx")]
        if names:
            if wanted in names:
                yield one
        elif depth < 4:
            todo += [(_get(one, name), depth + 1) for name in _INSIDE]


def _get(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # a client that can't be made without a key, say
        return None


def _hook(request: Any) -> None:
    if (requests := current_requests.get()) is not None:
        requests.about_to_send()
        request.extensions.setdefault("trace", lambda event, info: requests.traced(event))


async def _ahook(request: Any) -> None:
    if (requests := current_requests.get()) is not None:
        requests.about_to_send()

        async def trace(event: str, info: Any) -> None:
            requests.traced(event)

        request.extensions.setdefault("trace", trace)
