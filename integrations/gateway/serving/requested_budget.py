"""The budget that a request asks for. Where it says less than both limits:

thinking  `thinking_budget`, else `X-Elastic-Thinking`, else `reasoning_effort` as a share of the model's
          context, else as much as the context or the limit below leaves.
solution  `solution_budget`, else `X-Elastic-Solution`, else the solution with which the model was measured.
together  `max_completion_tokens` (or `max_tokens`) caps thinking, the close and the solution. A solution
          without a limit of its own gets what thinking leaves of it, and at least half of it; thinking
          gets the rest. So an answer is never crowded out by its thinking.
"""

from __future__ import annotations

from collections.abc import Mapping

from elastic_agent.budget import Budget
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.markers import Opening

from ..api.headers import header_tokens
from ..api.request_schema import EFFORTS, ChatRequest, CompletionRequest
from ..errors import bad_request
from ..settings import Upstream


def requested_budget(
    body: ChatRequest | CompletionRequest,
    headers: Mapping[str, str],
    upstream: Upstream,
    default_solution: int,
    wrap_up: str | None = None,
) -> Budget:
    """The budget that a request asks for; see the module."""
    thinking, solution, limit = body.thinking_budget, body.solution_budget, body.max_tokens
    if thinking is None:
        thinking = header_tokens(headers, "X-Elastic-Thinking", 0)
    if thinking is None and body.reasoning_effort is not None:
        share = EFFORTS[body.reasoning_effort]
        thinking = None if share is None else int(share * upstream.backend.context_length)
    if solution is None:
        solution = header_tokens(headers, "X-Elastic-Solution", 1)
    name = "max_tokens"
    if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
        name, limit = "max_completion_tokens", body.max_completion_tokens
    if limit is None:
        return Budget(thinking, solution or default_solution)
    close = markers_for(upstream.backend.codec, wrap_up=wrap_up).close_length(Opening.SELF)
    room = limit - close
    if room < 1:
        raise bad_request(
            name, f"{name}: {limit} hold no answer, since the end-of-thinking marker takes {close}"
        )
    half = (room + 1) // 2
    if solution is not None:
        solution = min(solution, room)
    elif thinking is None:
        solution = min(default_solution, half)
    else:
        solution = max(room - thinking, half)
    return Budget(room - solution if thinking is None else min(thinking, room - solution), solution)
