"""What other libraries' clients do by themselves: their retries, switched off; requests that leave, watched.

Retries inside a client are billed unseen: `without_retries` takes them from a model's copy, and warns where
it can't. Each of a client's requests passes its event hooks before it is sent, and httpcore tells what it
does with one (the "trace" extension): `Wire` learns from both whether anything of a call may have left.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

_RETRIES = re.compile(r"((max|num|n)_)?retr(ies|y)")
_TRIES = re.compile(r"((max|num|n)_)?(retry_)?attempts")
"""Fields in which models keep how often their clients try again, or try."""
_ONE_IS_NONE = ("ChatGoogleGenerativeAI", "GoogleGenerativeAI")
"""Classes that keep tries as retries: 0 means the client's own default there (langchain-google-genai)."""
_CLIENTS = ("client", "async_client", "root_client", "root_async_client", "_client", "_async_client")
_INSIDE = (*_CLIENTS, "_api_client", "_httpx_client", "_async_httpx_client", "sdk_configuration")
_WATCHED = frozenset(
    f"langchain_{name}"
    for name in (
        "openai",
        "anthropic",
        "groq",
        "mistralai",
        "deepseek",
        "xai",
        "ollama",
        "openrouter",
        "fireworks",
    )
)
"""Packages whose models send everything by the httpx clients that they hold."""


# Retries


def without_retries(model: BaseChatModel) -> None:
    """Take the retries from a model that is a copy; what it shares with its original is not touched.

    Warns where a client keeps retries that can't be taken from it.
    """
    ones = not {base.__name__ for base in type(model).__mro__}.isdisjoint(_ONE_IS_NONE)
    for name in type(model).model_fields:
        retries, tries = _RETRIES.fullmatch(name), _TRIES.fullmatch(name)
        if (retries or tries) and type(getattr(model, name, None)) in (int, type(None)):
            model.__dict__[name] = 1 if ones or tries else 0
    made: dict[int, Any] = {}
    left: list[str] = []
    for name, value in list(model.__dict__.items()):
        if isinstance(value, Mapping) and isinstance(getattr(type(model), name, None), cached_property):
            del model.__dict__[name]  # the parameters of clients to be made, retries among them
        elif name in _CLIENTS and value is not None:
            model.__dict__[name] = quiet = _quiet(value, made)
            if _tries_again(quiet):
                left.append(type(value).__name__)
    if left:
        warnings.warn(
            f"guard can't switch off the retries of {', '.join(left)}: each is billed and none is seen. Make "
            f"the client without them (max_retries=0; in boto3 Config(retries={{'total_max_attempts': 1}})), "
            f"and retry around the call",
            stacklevel=3,
        )


def _quiet(client: Any, made: dict[int, Any]) -> Any:
    """The same client without retries, over the same connections; itself where it has none."""
    if id(client) not in made:
        made[id(client)] = _made_quiet(client, made)
    return made[id(client)]


def _made_quiet(client: Any, made: dict[int, Any]) -> Any:
    inner = getattr(client, "_client", None)
    if _retries(client) and callable(getattr(client, "with_options", None)):  # OpenAI, Anthropic, Groq
        return client.with_options(max_retries=0)
    if _retries(inner) and callable(getattr(inner, "with_options", None)):  # a resource of theirs
        return type(client)(_quiet(inner, made))
    config = getattr(client, "sdk_configuration", None)
    if config is not None and getattr(config, "retry_config", None):  # OpenRouter
        quiet, config = copy.copy(client), copy.copy(config)
        config.retry_config = None
        for name, part in list(vars(quiet).items()):
            if getattr(part, "sdk_configuration", None) is client.sdk_configuration:
                del quiet.__dict__[name]  # made anew, from the new configuration
        quiet.sdk_configuration = config
        quiet.__dict__["_made_of"] = client  # which closes their connections when it is collected
        return quiet
    return client


def _retries(client: Any) -> bool:
    found = getattr(client, "max_retries", 0)
    return isinstance(found, int) and found > 0


def _tries_again(client: Any) -> bool:
    if _retries(client) or _retries(getattr(client, "_client", None)):
        return True
    config = getattr(getattr(client, "meta", None), "config", None)  # boto3: four retries, left alone
    if not type(config).__module__.startswith("botocore"):
        return False
    told = getattr(config, "retries", None) or {}
    return bool(told.get("total_max_attempts", told.get("max_attempts", 4) + 1) > 1)


# What leaves


@dataclass
class Wire:
    """Whether something of one call has left this machine.

    Attributes:
        left: it has, or may have.
    """

    written: bool = False
    pending: bool = False

    @property
    def left(self) -> bool:
        return self.written or self.pending

    def asked(self) -> None:
        """A client is about to send a request."""
        self.written = self.written or self.pending  # of the one before nobody has said that it didn't leave
        self.pending = True

    def saw(self, event: str) -> None:
        """What httpcore says that it does with the request."""
        if event.endswith((".connect_tcp.started", ".connect_unix_socket.started", ".start_tls.started")):
            self.pending = False  # a connection of its own is made first
        elif ".send_" in event:
            self.written = True


inside: ContextVar[Wire | None] = ContextVar("elastic_agent_wire", default=None)
"""That of the guarded call which is being made."""


def watch(model: BaseChatModel, kind: type[BaseChatModel], method: str) -> bool:
    """Have the clients of a model tell the call's `Wire` of each request; whether all of them do.

    Args:
        kind: the model's class, without guard's.
        method: that is about to be called.
    """
    if method.startswith("_a") and getattr(kind, method).__module__.startswith("langchain_core."):
        method = method.replace("_a", "_", 1)  # LangChain runs the sync one on a thread
    if getattr(kind, method).__module__.partition(".")[0] not in _WATCHED:
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


def _get(there: Any, name: str) -> Any:
    try:
        return getattr(there, name, None)
    except Exception:  # a client that can't be made without a key, say
        return None


def _hook(request: Any) -> None:
    wire = inside.get()
    if wire is not None:
        wire.asked()
        request.extensions.setdefault("trace", lambda event, info: wire.saw(event))


async def _ahook(request: Any) -> None:
    wire = inside.get()
    if wire is not None:
        wire.asked()

        async def trace(event: str, info: Any) -> None:
            wire.saw(event)

        request.extensions.setdefault("trace", trace)
