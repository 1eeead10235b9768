"""What other servers and clients call a budget: read as ours, or refused; never ignored.

A request that names a limit must get the limit. The names that servers and SDKs really use are translated; a
name that looks like a limit and is none of them is a 400 that says what ours is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from elastic_agent.validation import shown

from .errors import bad

OURS = ("thinking_budget", "solution_budget", "max_completion_tokens", "max_tokens", "reasoning_effort")
"""The limits of this gateway's requests."""
HARMLESS = frozenset(
    {
        "include_reasoning",
        "separate_reasoning",
        "stream_reasoning",
        "return_token_ids",
        "return_tokens_as_token_ids",
    }
)
"""Fields of other servers that look like limits and only say what an answer shows."""
_LIMIT = re.compile(
    r"budget|thinking|reason|effort|think$|max_?(\w*_)?(token|new|output|len|completion)|token_?limit|n(um)?_?predict"
)
_NO_THINKING = {"none", "disabled", "off", "false"}


def translate(value: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields, with other servers' words for limits replaced by ours.

    Args:
        value: the fields, as they came.
        own: the fields that the request's kind has: they stay as they are.

    Raises:
        GatewayError: 400: a limit in a shape that nobody here can obey, or the same limit twice.
    """
    found = {name: given for name, given in value.items() if name in own or name not in _WORDS}
    for name, given in value.items():
        if name in found or given is None:
            continue
        for ours, limit in _WORDS[name](name, given).items():
            if ours not in own:
                raise bad(name, f"{name} can't be obeyed here: leave it out", "unsupported_value")
            if found.get(ours) is not None:
                raise bad(name, f"{name} and {ours} say the same: send one of them", "unsupported_value")
            found[ours] = limit
    return found


def check_unknown(name: str) -> None:
    """Refuse an unknown field that looks like a limit.

    Raises:
        GatewayError: 400, with the nearest of ours.
    """
    if name in HARMLESS:
        return
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", name[:64]).lower()
    near = get_close_matches(plain, OURS, 1, cutoff=0.8)
    if near or _LIMIT.search(plain):
        hint = f"did you mean {near[0]}?" if near else f"limits are {', '.join(OURS)}"
        raise bad(name[:64], f"{name[:64]} is no field of this gateway: {hint}", "unknown_field")


def _limit(name: str, given: Any) -> dict[str, Any]:
    """The number of thinking tokens itself."""
    return {"thinking_budget": given}


def _switch(name: str, given: Any) -> dict[str, Any]:
    """Thinking on or off, or an effort."""
    if isinstance(given, bool):
        return {} if given else {"thinking_budget": 0}
    if isinstance(given, str):
        return {"thinking_budget": 0} if given in _NO_THINKING else {"reasoning_effort": given}
    raise bad(name, f"{name} must be true, false or an effort, not {shown(given)}")


def _thinking(name: str, given: Any) -> dict[str, Any]:
    """Anthropic's `thinking`, which DeepSeek and GLM have as well."""
    if isinstance(given, bool | str):
        return _switch(name, given)
    parts = _parts(name, given, {"type", "budget_tokens", "display"})
    if parts.get("type") == "disabled":
        return {"thinking_budget": 0}
    if parts.get("type") not in ("enabled", "adaptive", "auto"):
        raise bad(f"{name}.type", f"{name}.type must be enabled, adaptive or disabled")
    return {} if parts.get("budget_tokens") is None else {"thinking_budget": parts["budget_tokens"]}


def _reasoning(name: str, given: Any) -> dict[str, Any]:
    """OpenRouter's `reasoning`, and that of OpenAI's Responses in a chat body."""
    parts = _parts(name, given, {"effort", "max_tokens", "enabled", "exclude", "summary", "generate_summary"})
    if parts.get("enabled") is False:
        return {"thinking_budget": 0}
    words = {"effort": "reasoning_effort", "max_tokens": "thinking_budget"}
    return {ours: parts[theirs] for theirs, ours in words.items() if parts.get(theirs) is not None}


def _template(name: str, given: Any) -> dict[str, Any]:
    """vLLM's and SGLang's `chat_template_kwargs`: what turns thinking off there turns it off here."""
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
        raise bad(name, f"{name} must be an object, not {shown(given)}")
    if unknown := sorted(set(given) - known):
        raise bad(name, f"{name}.{unknown[0][:64]} can't be obeyed here: leave it out", "unsupported_value")
    return given


_WORDS: Mapping[str, Callable[[str, Any], dict[str, Any]]] = {
    "thinking_token_budget": _limit,  # vLLM
    "thinking_budget_tokens": _limit,  # llama.cpp
    "think": _switch,  # Ollama
    "enable_thinking": _switch,  # DashScope, SiliconFlow
    "thinking": _thinking,
    "reasoning": _reasoning,
    "chat_template_kwargs": _template,
}
