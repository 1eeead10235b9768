"""Other servers' names for budgets: translated to ours, or refused, but never ignored.

A request that names a limit must get the limit. The names that servers and SDKs really use are translated. An
unknown name that looks like a limit is a 400 with our names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from elastic_agent.validation import shown

from ..errors import bad_request

LIMITS = ("thinking_budget", "solution_budget", "max_completion_tokens", "max_tokens", "reasoning_effort")
"""The limits that a request to this gateway can name."""
NOT_LIMITS = frozenset(
    {
        "include_reasoning",
        "separate_reasoning",
        "stream_reasoning",
        "return_token_ids",
        "return_tokens_as_token_ids",
    }
)
"""Fields of other servers that look like limits, but only choose what an answer shows."""
_LIKE_A_LIMIT = re.compile(
    r"budget|thinking|reason|effort|think$|max_?(\w*_)?(token|new|output|len|completion)|token_?limit|n(um)?_?predict"
)
_NO_THINKING = {"none", "disabled", "off", "false"}


def translate(value: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields, with other servers' names for limits replaced by ours.

    Args:
        value: the fields that were sent.
        own: the fields of the request's schema: they stay.

    Raises:
        GatewayError: 400: a limit of a form that can't be obeyed here, or the same limit twice.
    """
    found = {name: given for name, given in value.items() if name in own or name not in _ALIASES}
    for name, given in value.items():
        if name in found or given is None:
            continue
        for ours, limit in _ALIASES[name](name, given).items():
            if ours not in own:
                raise bad_request(name, f"{name} can't be obeyed here: leave it out", "unsupported_value")
            if found.get(ours) is not None:
                raise bad_request(
                    name, f"{name} and {ours} say the same: send one of them", "unsupported_value"
                )
            found[ours] = limit
    return found


def check_unknown(name: str) -> None:
    """Refuse an unknown field that looks like a limit.

    Raises:
        GatewayError: 400, with our nearest name.
    """
    if name in NOT_LIMITS:
        return
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name[:64]).lower()
    near = get_close_matches(plain, LIMITS, 1, cutoff=0.8)
    if near or _LIKE_A_LIMIT.search(plain):
        hint = f"did you mean {near[0]}?" if near else f"limits are {', '.join(LIMITS)}"
        raise bad_request(name[:64], f"{name[:64]} is no field of this gateway: {hint}", "unknown_field")


def _limit(name: str, given: Any) -> dict[str, Any]:
    """A number of thinking tokens."""
    return {"thinking_budget": given}


def _switch(name: str, given: Any) -> dict[str, Any]:
    """Thinking on or off, or an effort."""
    if isinstance(given, bool):
        return {} if given else {"thinking_budget": 0}
    if isinstance(given, str):
        return {"thinking_budget": 0} if given in _NO_THINKING else {"reasoning_effort": given}
    raise bad_request(name, f"{name} must be true, false or an effort, not {shown(given)}")


def _thinking(name: str, given: Any) -> dict[str, Any]:
    """Anthropic's `thinking`, also of DeepSeek and GLM."""
    if isinstance(given, bool | str):
        return _switch(name, given)
    parts = _parts(name, given, {"type", "budget_tokens", "display"})
    if parts.get("type") == "disabled":
        return {"thinking_budget": 0}
    if parts.get("type") not in ("enabled", "adaptive", "auto"):
        raise bad_request(f"{name}.type", f"{name}.type must be enabled, adaptive or disabled")
    return {} if parts.get("budget_tokens") is None else {"thinking_budget": parts["budget_tokens"]}


def _reasoning(name: str, given: Any) -> dict[str, Any]:
    """OpenRouter's `reasoning`, and the one of OpenAI's Responses API in a chat body."""
    parts = _parts(name, given, {"effort", "max_tokens", "enabled", "exclude", "summary", "generate_summary"})
    if parts.get("enabled") is False:
        return {"thinking_budget": 0}
    words = {"effort": "reasoning_effort", "max_tokens": "thinking_budget"}
    return {ours: parts[theirs] for theirs, ours in words.items() if parts.get(theirs) is not None}


def _template(name: str, given: Any) -> dict[str, Any]:
    """`chat_template_kwargs` of vLLM and SGLang, where they turn thinking off or limit it."""
    parts = _parts(name, given, {"enable_thinking", "thinking", "thinking_budget", "reasoning_effort"})
    found: dict[str, Any] = {}
    for theirs in ("enable_thinking", "thinking"):
        if theirs in parts:
            found |= _switch(f"{name}.{theirs}", parts[theirs])
    for theirs in ("thinking_budget", "reasoning_effort"):
        if parts.get(theirs) is not None and found.get("thinking_budget") != 0:
            found[theirs] = parts[theirs]
    return found


def _parts(name: str, given: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise bad_request(name, f"{name} must be an object, not {shown(given)}")
    if unknown := sorted(set(given) - known):
        raise bad_request(
            name, f"{name}.{unknown[0][:64]} can't be obeyed here: leave it out", "unsupported_value"
        )
    return given


_ALIASES: Mapping[str, Callable[[str, Any], dict[str, Any]]] = {
    "thinking_token_budget": _limit,  # vLLM
    "thinking_budget_tokens": _limit,  # llama.cpp
    "think": _switch,  # Ollama
    "enable_thinking": _switch,  # DashScope, SiliconFlow
    "thinking": _thinking,
    "reasoning": _reasoning,
    "chat_template_kwargs": _template,
}
