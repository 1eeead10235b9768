"""What a message says about its call: usage in LangChain's buckets, and the budget and its cost beside it.

Cost never goes into `usage_metadata`: LangChain adds those up as integers, and a float there makes it raise.
Everything here is attached to one chunk of a stream, the last, because LangChain merges chunks by adding.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata

from elastic_agent.budget import Budget
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.result import Generation
from elastic_agent.usage import Usage

from .call import Outcome

_CUT = {ThinkingEnd.BUDGET, ThinkingEnd.DEADLINE, ThinkingEnd.PREEMPTED, ThinkingEnd.ABORTED}
_FINISH = {SolutionEnd.EOS: "stop", SolutionEnd.STOP: "stop", SolutionEnd.LENGTH: "length"}


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Tokens of one call: the prompt once, and what the answer holds.

    `reasoning` is the thinking, with what the model spent of its solution on more of it; the close (marker
    tokens, forced or sampled) is in `output_tokens` only. `cache_read` is what the upstream had of the prompt
    before the call. What the upstream bills, the second pass's input included, is in
    `response_metadata["usage"]["billed"]`.
    """
    told = UsageMetadata(
        input_tokens=usage.prompt,
        output_tokens=usage.output,
        total_tokens=usage.prompt + usage.output,
        output_token_details=OutputTokenDetails(reasoning=usage.reasoning),
    )
    if usage.prompt_cached:
        told["input_token_details"] = InputTokenDetails(cache_read=usage.prompt_cached)
    return told


def response_metadata(outcome: Outcome, *, tool_calls: bool = False) -> dict[str, Any]:
    """Model, ending, budget, all usage buckets, and the cost in USD (a decimal string, or None)."""
    result, granted = outcome.result, outcome.granted
    ended = result.solution_end
    thinking = granted.thinking if granted.thinking is not None else result.budget.thinking
    assert thinking is not None  # `bounded` made it a number
    return {
        "model_name": outcome.model,
        "finish_reason": "tool_calls"
        if tool_calls
        else _FINISH.get(ended, str(ended))
        if ended
        else "aborted",
        "budget": {
            "asked": {"thinking": outcome.asked.thinking, "solution": outcome.asked.solution},
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
            "reason": outcome.reason,
            "as_asked": as_asked(outcome.asked, result),
        },
        "usage": {**result.usage.to_dict(), "billed": result.usage.billed()},
        "cost": None if outcome.cost is None else {"usd": format(outcome.cost, "f")},
    }


def as_asked(asked: Budget, result: Generation) -> bool:
    """Whether the answer is one that the asked Budget gives: no tighter limit, and no deadline, cut it."""
    usage = result.usage
    thought = result.thinking_end not in _CUT or (
        result.thinking_end is ThinkingEnd.BUDGET
        and asked.thinking is not None
        and usage.thinking >= asked.thinking
    )
    solved = result.solution_end in (SolutionEnd.EOS, SolutionEnd.STOP) or (
        result.solution_end is SolutionEnd.LENGTH and usage.solution >= asked.solution
    )
    return thought and solved


def _name(end: ThinkingEnd | SolutionEnd | None) -> str | None:
    return None if end is None else str(end)
