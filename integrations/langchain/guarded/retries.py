"""The retries of other libraries' clients, switched off: a retry inside a client is billed and never seen."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

_RETRIES = re.compile(r"((max|num|n)_)?retr(ies|y)")
_TRIES = re.compile(r"((max|num|n)_)?(retry_)?attempts")
"""Fields of models that hold how often their clients try again, and how often they try."""
_ONE_MEANS_NONE = ("ChatGoogleGenerativeAI", "GoogleGenerativeAI")
"""Classes that hold tries in a field for retries: 0 means the client's default (langchain-google-genai)."""
CLIENTS = ("client", "async_client", "root_client", "root_async_client", "_client", "_async_client")
"""Fields of models and clients that hold a client."""


def without_retries(model: BaseChatModel) -> None:
    """Switch off the retries of a model that is a copy. Clients that it shares with its original keep theirs.

    Warns where a client's retries can't be switched off.
    """
    one_means_none = not {base.__name__ for base in type(model).__mro__}.isdisjoint(_ONE_MEANS_NONE)
    for name in type(model).model_fields:
        retries, tries = _RETRIES.fullmatch(name), _TRIES.fullmatch(name)
        if (retries or tries) and type(getattr(model, name, None)) in (int, type(None)):
            model.__dict__[name] = 1 if one_means_none or tries else 0
    made: dict[int, Any] = {}
    left: list[str] = []
    for name, value in list(model.__dict__.items()):
        if isinstance(value, Mapping) and isinstance(getattr(type(model), name, None), cached_property):
            del model.__dict__[name]  # the parameters of clients to be made, retries among them
        elif name in CLIENTS and value is not None:
            model.__dict__[name] = single = _without(value, made)
            if _tries_again(single):
                left.append(type(value).__name__)
    if left:
        warnings.warn(
            f"guard can't switch off the retries of {', '.join(left)}: each is billed and none is seen. Make "
            f"the client without them (max_retries=0; in boto3 Config(retries={{'total_max_attempts': 1}})), "
            f"and retry around the call",
            stacklevel=3,
        )


def _without(client: Any, made: dict[int, Any]) -> Any:
    """The same client without retries, over the same connections; the client itself where it has none."""
    if id(client) not in made:
        made[id(client)] = _make_without(client, made)
    return made[id(client)]


def _make_without(client: Any, made: dict[int, Any]) -> Any:
    inner = getattr(client, "_client", None)
    if _has_retries(client) and callable(getattr(client, "with_options", None)):  # OpenAI, Anthropic, Groq
        return client.with_options(max_retries=0)
    if _has_retries(inner) and callable(getattr(inner, "with_options", None)):  # a resource of such a client
        return type(client)(_without(inner, made))
    config = getattr(client, "sdk_configuration", None)
    if config is not None and getattr(config, "retry_config", None):  # OpenRouter
        single, config = copy.copy(client), copy.copy(config)
        config.retry_config = None
        for name, part in list(vars(single).items()):
            if getattr(part, "sdk_configuration", None) is client.sdk_configuration:
                del single.__dict__[name]  # made anew, from the new configuration
        single.sdk_configuration = config
        single.__dict__["_made_of"] = client  # it closes their connections when it is collected
        return single
    return client


def _has_retries(client: Any) -> bool:
    found = getattr(client, "max_retries", 0)
    return isinstance(found, int) and found > 0


def _tries_again(client: Any) -> bool:
    if _has_retries(client) or _has_retries(getattr(client, "_client", None)):
        return True
    config = getattr(getattr(client, "meta", None), "config", None)  # boto3: four retries, left alone
    if not type(config).__module__.startswith("botocore"):
        return False
    retries = getattr(config, "retries", None) or {}
    return bool(retries.get("total_max_attempts", retries.get("max_attempts", 4) + 1) > 1)
