"""What providers' chat models take: their own controls of thinking, and what their errors say.

t thinking and s solution tokens become:

- Claude (`ChatAnthropic`): `thinking={"type": "enabled", "budget_tokens": t}` and `max_tokens=t+s`; below
  Anthropic's least, 1,024 thinking tokens, no thinking and `max_tokens=s`. The sum holds; t is its own aim.
- OpenAI's reasoning models: `reasoning_effort` low, medium or high, and `max_completion_tokens=t+s`. The sum
  holds; the effort is advice.
- Gemini (`ChatGoogleGenerativeAI`): `thinking_budget=t` and `max_output_tokens=t+s`. The sum holds; t is
  soft.
- Any other: `max_tokens=t+s`. The sum holds if the model obeys it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel

from elastic_agent.budget import Budget

Controls = Callable[[Budget], Mapping[str, Any]]
"""A Budget as call options of a provider's model."""

_LEAST_CLAUDE = 1024
"""Anthropic's smallest thinking budget (docs, "Extended thinking")."""
_REASONERS = re.compile(r"(^|/)(o\d|gpt-5(?!-chat)|gpt-oss)")


def model_name(model: BaseChatModel) -> str:
    """What the provider calls it."""
    for name in ("model_name", "model", "model_id", "deployment_name"):
        if isinstance(found := getattr(model, name, None), str) and found:
            return found.removeprefix("models/")
    return type(model).__name__


def family(model: BaseChatModel) -> str:
    """Which row of the table: "claude", "openai", "gemini" or "other"."""
    bases = {base.__name__ for base in type(model).__mro__}
    if "ChatAnthropic" in bases:
        return "claude"
    if "ChatGoogleGenerativeAI" in bases:
        return "gemini"
    return "openai" if "BaseChatOpenAI" in bases else "other"


def thinks(model: BaseChatModel) -> bool:
    """Whether it has thinking that can be controlled."""
    kind = family(model)
    if kind == "openai":
        return bool(getattr(model, "reasoning_effort", None) or _REASONERS.search(model_name(model)))
    return kind != "other"


def known_controls(model: BaseChatModel) -> Controls:
    """How this model is told a Budget."""
    kind, reasons = family(model), thinks(model)

    def told(budget: Budget) -> Mapping[str, Any]:
        thinking, most = budget.thinking or 0, (budget.thinking or 0) + budget.solution
        if kind == "gemini":
            return {"max_output_tokens": most, "thinking_budget": thinking}
        if kind == "claude" and thinking >= _LEAST_CLAUDE:
            return {"max_tokens": most, "thinking": {"type": "enabled", "budget_tokens": thinking}}
        if kind == "claude":
            return {"max_tokens": budget.solution, "thinking": {"type": "disabled"}}
        if kind == "openai" and reasons:
            return {"max_tokens": most, "reasoning_effort": _effort(thinking)}
        return {"max_tokens": most}

    return told


def _effort(thinking: int) -> str:
    return "low" if thinking < 1024 else "medium" if thinking < 8192 else "high"


def was_refused(error: BaseException) -> bool:
    """Whether the provider answered that it did not run the request: a status of 4xx other than a timeout."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 499)
