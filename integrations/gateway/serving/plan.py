"""A request as a plan of its calls: the prompt, the two budgets, the tools, and what guides the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import DEFAULT_SAMPLING, Sampling
from elastic_agent.budget import Budget
from elastic_agent.errors import UnsupportedError
from elastic_agent.tool_calls import ToolFormat

from ...openai_format.guided_decoding import enforced_format, opened_prompt
from ..api.request_schema import ChatRequest, CompletionRequest
from ..errors import bad_request
from ..settings import Limits, Upstream
from .guides import guide_for, shown_tools
from .prompt import chat_prompt, check_length, completion_prompt
from .requested_budget import requested_budget


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of the model.

    Attributes:
        prompt_ids: the prompt.
        budget: the two limits, as requested.
        choices: how many answers.
        tools: the schemas of the tools in the prompt, whose calls the solution may hold.
        format: how the model writes tool calls.
        guide: fields for the engine in the solution's pass.
        stream, usage: whether to send events, and usage at their end.
    """

    prompt_ids: Sequence[int]
    budget: Budget
    sampling: Sampling
    stop: tuple[str, ...]
    choices: int
    tools: Sequence[Mapping[str, Any]]
    format: ToolFormat
    guide: Mapping[str, Any]
    stream: bool
    usage: bool


def plan(
    body: ChatRequest | CompletionRequest,
    headers: Mapping[str, str],
    upstream: Upstream,
    limits: Limits,
    default_solution: int,
    wrap_up: str | None = None,
    words: str = "",
) -> Plan:
    """The plan of a request; `words` tell the model what is left of its task."""
    check_length(body, upstream)
    choices = body.n or 1
    if choices > limits.choices:
        raise bad_request("n", f"n: at most {limits.choices} answers at once here")
    codec = upstream.backend.codec
    tools: list[dict[str, Any]] = []
    guide: dict[str, Any] = {}
    if isinstance(body, ChatRequest):
        tools = shown_tools(body)
        guide = guide_for(body, tools, upstream)
    try:
        format = enforced_format(codec.tool_format, guide)
    except UnsupportedError as error:
        raise bad_request("tools", f"tools: {error}", "unsupported_value") from None
    if isinstance(body, ChatRequest):
        prompt, logprobs = chat_prompt(body, tools, upstream, words), bool(body.logprobs)
    else:
        prompt, logprobs = completion_prompt(body, upstream), body.logprobs is not None
    return Plan(
        opened_prompt(prompt, codec, guide),
        requested_budget(body, headers, upstream, default_solution, wrap_up),
        _sampling(body, logprobs),
        () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        choices,
        tools,
        format,
        guide,
        bool(body.stream),
        bool(body.stream_options and body.stream_options.include_usage),
    )


def _sampling(body: ChatRequest | CompletionRequest, logprobs: bool) -> Sampling:
    return Sampling(
        temperature=DEFAULT_SAMPLING.temperature if body.temperature is None else body.temperature,
        top_p=DEFAULT_SAMPLING.top_p if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        seed=body.seed,
        logprobs=logprobs,
    )
