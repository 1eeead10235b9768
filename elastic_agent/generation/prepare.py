"""What a call needs before it starts: its prompt as ids, its markers, a Budget that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..backends.base import (
    Backend,
    Codec,
    Sampling,
)
from ..budget import Budget
from ..errors import ContextLengthError
from ..prompts.markers import Markers, Opening
from .control import Control
from .early_exit import EarlyExit
from .wrap_up import wrapped

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A user's message, prompt ids, or a conversation as OpenAI-style dicts."""


def prompt_ids(
    backend: Backend, prompt: Prompt, tools: Sequence[Mapping[str, Any]] | None = None
) -> list[int]:
    """A prompt of any kind as ids, through the model's chat template unless it is ids already."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if prompt and all(isinstance(item, int) for item in prompt):
        return list(cast("Sequence[int]", prompt))
    return backend.codec.encode_chat(cast("Sequence[Mapping[str, Any]]", prompt), tools=tools)


def two_passes_reason(
    control: Control | None,
    budget: Budget,
    markers: Markers,
    opening: Opening,
    stop: Sequence[str],
    extra: Mapping[str, Any] | None,
    sampling: Sampling,
    early_exit: EarlyExit | None,
) -> str:
    """Why a call can't be one pass even where the engine holds both limits; "" if it can."""
    reasons = {
        # Cut in one pass, it would be charged for a solution that it then has to ask for again
        "its thinking may be cut or raised while it runs": control is not None,
        "its thinking may end before its limit": early_exit is not None,
        "there is no thinking to limit": not budget.thinking or opening is Opening.CLOSED,
        "the model opens its thinking itself": opening is Opening.SELF,
        "the close is several tokens": len(markers.close_ids) > 1 or markers.close_in_text,
        "a stop string may end it at any token": bool(stop),
        "a tool call may end its thinking": markers.tools is not None,
        "a wrap-up stands before the close": markers.wrap_up is not None,
        "the solution has fields of its own": bool(extra),
        "a seed draws the same on every engine": sampling.seed is not None,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def markers_for(codec: Codec, *, tools: bool = False, wrap_up: str | None = None) -> Markers:
    """The model's markers as one call has them: with its tools, and its wrap-up.

    Raises:
        InvalidBudgetError: a wrap-up that can't be written.
    """
    markers = codec.markers
    if tools:
        markers = replace(markers, tools=codec.tool_format, tool_ids=codec.tool_ids)
    return markers if wrap_up is None else wrapped(codec, markers, wrap_up)


def bounded(backend: Backend, prompt_tokens: int, budget: Budget, markers: Markers | None = None) -> Budget:
    """The Budget as it can be obeyed on this model: thinking a number that fits into the context.

    Args:
        markers: the call's own (`markers_for`); None: the model's.

    Raises:
        ContextLengthError: the prompt leaves no room for the close and the solution.
    """
    room = backend.context_length - prompt_tokens
    close = (backend.codec.markers if markers is None else markers).close_length(Opening.SELF)
    if room - close - budget.solution < 0:
        raise ContextLengthError(
            f"{backend.model} has a context of {backend.context_length} tokens; the prompt has "
            f"{prompt_tokens}, the close {close} and the solution {budget.solution}: shorten the prompt or "
            f"lower the solution budget"
        )
    return budget.bounded(room, close)
