"""What a message says about its call: usage in LangChain's buckets, and the budget and its cost beside it.

Cost is not in `usage_metadata`: LangChain adds its values up as integers and raises on a float. A stream's
last chunk alone carries all of this, because LangChain merges chunks by adding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.tracers.base import AsyncBaseTracer, BaseTracer

from elastic_agent.budget import Budget
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.result import Generation
from elastic_agent.usage import Usage

from .call import CompletedCall

PROVIDER = "elastic_agent"
"""What answers and traces name as the provider of a model."""
_CUT = {ThinkingEnd.BUDGET, ThinkingEnd.DEADLINE, ThinkingEnd.PREEMPTED, ThinkingEnd.ABORTED}
_FINISH = {SolutionEnd.EOS: "stop", SolutionEnd.STOP: "stop", SolutionEnd.LENGTH: "length"}


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Tokens of one call: the prompt once, and the answer.

    `reasoning` is the thinking, and any that the model opened again in its solution. The close (marker
    tokens, forced or sampled) is in `output_tokens` only. `cache_read` counts prompt tokens that the upstream
    had cached. What the upstream bills, the second pass's input included, is in
    `response_metadata["usage"]["billed"]`.
    """
    found = UsageMetadata(
        input_tokens=usage.prompt,
        output_tokens=usage.output,
        total_tokens=usage.prompt + usage.output,
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning),
    )
    if usage.prompt_cached:
        found["input_token_details"] = InputTokenDetails(cache_read=usage.prompt_cached)
    return found


def response_metadata(completed: CompletedCall, *, has_calls: bool = False) -> dict[str, Any]:
    """Model, ending, budget, all usage buckets, and the cost in USD (a decimal string, or None)."""
    result, granted, asked, cost = completed.result, completed.granted, completed.asked, completed.cost
    ended = result.solution_end
    thinking = granted.thinking if granted.thinking is not None else result.budget.thinking
    assert thinking is not None  # `bounded` made it a number
    return {
        "model_name": completed.model,
        "model_provider": PROVIDER,
        "finish_reason": "tool_calls" if has_calls else _finish_reason(ended),
        "budget": {
            "asked": {"thinking": asked.thinking, "solution": asked.solution},
            "thinking": thinking,
            "solution": granted.solution,
            "thinking_end": _name(result.thinking_end),
            "solution_end": _name(ended),
            "forced_close": result.usage.forced > 0,
            "two_passes": result.two_passes,
            "refund": {
                "thinking": max(0, thinking - result.usage.thinking),
                "solution": max(0, granted.solution - result.usage.solution),
            },
            "reason": completed.reason,
            "as_asked": as_asked(asked, result) and not completed.told,
        },
        "usage": {**result.usage.to_dict(), "billed": result.usage.billed()},
        "cost": None if cost is None else {"usd": format(cost, "f")},
    }


def note_budget(manager: BaseRunManager | None, budget: Mapping[str, Any]) -> None:
    """Write a call's budget into the metadata of its run, by which LangSmith and other tracers can filter.

    Args:
        manager: the run's callbacks.
        budget: as an answer's `response_metadata["budget"]`.

    A stream has no manager (LangChain doesn't tell it): there the run's output alone has the budget.
    """
    if manager is None:
        return
    noted = {
        "budget_asked_thinking": budget["asked"]["thinking"],
        "budget_asked_solution": budget["asked"]["solution"],
        "budget_granted_thinking": budget["thinking"],
        "budget_granted_solution": budget["solution"],
        "budget_thinking_end": budget.get("thinking_end"),
        "budget_reason": budget["reason"],
    }
    for handler in manager.handlers:
        if isinstance(handler, BaseTracer | AsyncBaseTracer):
            run = handler.run_map.get(str(manager.run_id))
            if (
                run is not None
            ):  # a dict of its own: the prompts of one `generate` share the one that is there
                run.extra["metadata"] = {**run.extra.get("metadata", {}), **noted}


def as_asked(asked: Budget, result: Generation) -> bool:
    """Whether only the asked Budget limited the answer: no tighter grant and no deadline cut it."""
    usage = result.usage
    thinking_as_asked = result.thinking_end not in _CUT or (
        result.thinking_end is ThinkingEnd.BUDGET
        and asked.thinking is not None
        and usage.thinking >= asked.thinking
    )
    solution_as_asked = result.solution_end in (SolutionEnd.EOS, SolutionEnd.STOP) or (
        result.solution_end is SolutionEnd.LENGTH and usage.solution >= asked.solution
    )
    return thinking_as_asked and solution_as_asked


def _finish_reason(end: SolutionEnd | None) -> str:
    return "aborted" if end is None else _FINISH.get(end, str(end))


def _name(end: ThinkingEnd | SolutionEnd | None) -> str | None:
    return None if end is None else str(end)
