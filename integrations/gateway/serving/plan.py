"""A request as a call: its prompt, its two budgets, and what the engine is told in the solution's pass.

Where a request says less than both budgets:

    thinking  `thinking_budget`, else `X-Elastic-Thinking`, else `reasoning_effort` as a part of the model's
              context, else as much as the context or the limit below leaves.
    solution  `solution_budget`, else `X-Elastic-Solution`, else what the model was measured with.
    together  `max_completion_tokens` (or `max_tokens`) caps thinking, the close and the solution. A solution
              that nothing else limits gets what thinking leaves of it, and half of it at least; thinking
              gets the rest. An answer is never crowded out by its thinking.

Structured answers and forced tool calls are the engine's guided decoding in the solution's pass, never in the
thinking. Only a vLLM server can do that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elastic_agent.backends.base import DEFAULT_SAMPLING, Sampling
from elastic_agent.budget import Budget
from elastic_agent.errors import UnsupportedError
from elastic_agent.generation.guided_decoding import check_guide
from elastic_agent.generation.prepare import markers_for
from elastic_agent.prompts.markers import Opening
from elastic_agent.tool_calls import ToolFormat

from ...openai_format.guided_decoding import enforced_format, guided_fields
from ...openai_format.schema_check import SchemaError
from ..api.errors import bad
from ..api.request_schema import (
    EFFORTS,
    ChatRequest,
    CompletionRequest,
    Message,
    NamedTool,
    Part,
    header_tokens,
)
from ..settings import Limits, Upstream


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of the model.

    Attributes:
        prompt_ids: what it reads.
        budget: the two limits, as asked.
        choices: how many answers.
        tools: the schemas of those that the model is shown; its solution may hold calls of them.
        format: how these are written.
        guide: for the engine, in the solution's pass.
        stream, usage: as server-sent events; with usage at their end.
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
) -> Plan:
    """The plan of a request.

    Raises:
        GatewayError: 400, naming the field.
    """
    _check_length(body, upstream)
    choices = body.n or 1
    if choices > limits.choices:
        raise bad("n", f"n: at most {limits.choices} answers at once here")
    chat = isinstance(body, ChatRequest)
    tools = _tools(body) if isinstance(body, ChatRequest) else []
    guide = _guide(body, tools, upstream) if isinstance(body, ChatRequest) else {}
    try:
        format = enforced_format(upstream.backend.codec.tool_format, guide)
    except UnsupportedError as error:
        raise bad("tools", f"tools: {error}", "unsupported_value") from None
    prompt = _chat_prompt(body, tools, upstream) if isinstance(body, ChatRequest) else _prompt(body, upstream)
    if guide:
        # A model that opens its thinking itself could skip it, and with it the solution's own pass
        prompt = [*prompt, *upstream.backend.codec.markers.to_open(prompt)]
    options = body.stream_options
    return Plan(
        prompt,
        budget(body, headers, upstream, default_solution, wrap_up),
        Sampling(
            temperature=DEFAULT_SAMPLING.temperature if body.temperature is None else body.temperature,
            top_p=DEFAULT_SAMPLING.top_p if body.top_p is None else body.top_p,
            top_k=max(0, body.top_k or 0),
            seed=body.seed,
            logprobs=bool(body.logprobs) if chat else body.logprobs is not None,
        ),
        () if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        choices,
        tools,
        format,
        guide,
        bool(body.stream),
        bool(options and options.include_usage),
    )


def budget(
    body: ChatRequest | CompletionRequest,
    headers: Mapping[str, str],
    upstream: Upstream,
    default_solution: int,
    wrap_up: str | None = None,
) -> Budget:
    """The Budget that a request asks for; the module says how.

    Raises:
        GatewayError: 400, naming the field.
    """
    thinking, solution, limit = body.thinking_budget, body.solution_budget, body.max_tokens
    if thinking is None:
        thinking = header_tokens(headers, "X-Elastic-Thinking", 0)
    if thinking is None and body.reasoning_effort is not None:
        part = EFFORTS[body.reasoning_effort]
        thinking = None if part is None else int(part * upstream.backend.context_length)
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
        raise bad(name, f"{name}: {limit} hold no answer, since the end-of-thinking marker takes {close}")
    half = (room + 1) // 2
    if solution is not None:
        solution = min(solution, room)
    elif thinking is None:
        solution = min(default_solution, half)
    else:
        solution = max(room - thinking, half)
    return Budget(room - solution if thinking is None else min(thinking, room - solution), solution)


def _check_length(body: ChatRequest | CompletionRequest, upstream: Upstream) -> None:
    """Refuse what can't fit into the context, before any time is spent on encoding it."""
    context = upstream.backend.context_length
    if isinstance(body, CompletionRequest):
        length = _bytes(body.prompt) if isinstance(body.prompt, str) else None
        tokens = len(body.prompt) if length is None else length // upstream.backend.codec.bytes_per_token
    else:
        length = sum(map(_message_bytes, body.messages))
        tokens = max(len(body.messages), length // upstream.backend.codec.bytes_per_token)
    if tokens > context:
        what = f"{tokens:,} tokens" if length is None else f"{length:,} bytes, more than {tokens:,} tokens,"
        raise bad(
            "prompt" if isinstance(body, CompletionRequest) else "messages",
            f"the prompt has {what} and {upstream.name} has a context of {context:,}: shorten it",
            "context_length_exceeded",
        )


def _message_bytes(message: Message) -> int:
    content = message.content
    if isinstance(content, list):
        return sum(_bytes(_part(part)) for part in content)
    return _bytes(content or "")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _prompt(body: CompletionRequest, upstream: Upstream) -> Sequence[int]:
    codec = upstream.backend.codec
    if isinstance(body.prompt, str):
        return codec.encode(body.prompt)
    try:
        codec.decode(body.prompt)
    except Exception:
        raise bad("prompt", "prompt: an id that is no token of this model") from None
    return body.prompt


def _chat_prompt(body: ChatRequest, tools: Sequence[Mapping[str, Any]], upstream: Upstream) -> Sequence[int]:
    messages = [_message(message, at) for at, message in enumerate(body.messages)]
    try:
        return upstream.backend.codec.encode_chat(messages, tools=tools or None)
    except Exception as error:  # templates raise what they like, of jinja2 and of Python
        raise bad(
            "messages", f"messages: the model's chat template refuses them ({str(error)[:200]})", "template"
        ) from error


def _message(message: Message, at: int) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = message.content
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    out: dict[str, Any] = {"role": role, "content": content or ""}
    if role == "assistant":
        if thinking := message.reasoning_content or message.reasoning:
            out["reasoning_content"] = thinking
        if message.tool_calls:
            out["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": _arguments(call.function.arguments, at, number),
                    },
                }
                for number, call in enumerate(message.tool_calls)
            ]
    elif role == "tool":
        out["tool_call_id"] = message.tool_call_id or ""
    if message.name and role in ("tool", "user"):
        out["name"] = message.name
    return out


def _part(part: Part) -> str:
    return (part.text if part.type == "text" else part.refusal) or ""


def _arguments(text: str, at: int, number: int) -> Any:
    """As an object, which is what Hugging Face templates expect."""
    where = f"messages[{at}].tool_calls[{number}].function.arguments"
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise bad(where, f"{where}: not JSON") from None
    if not isinstance(value, dict):
        raise bad(where, f"{where}: not a JSON object")
    return value


def _tools(body: ChatRequest) -> list[dict[str, Any]]:
    """The tools that the model is shown."""
    shown = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
    choice = body.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, NamedTool):
        named = [tool for tool in shown if tool["function"]["name"] == choice.function.name]
        if not named:
            raise bad("tool_choice", f"tool_choice: no tool is called {choice.function.name[:64]!r}")
        return named
    if choice == "required" and not shown:
        raise bad("tool_choice", "tool_choice: required, and there are no tools")
    return shown


def _guide(body: ChatRequest, tools: Sequence[Mapping[str, Any]], upstream: Upstream) -> dict[str, Any]:
    """What the engine is told to keep to in the solution's pass."""
    wanted, choice = body.response_format, body.tool_choice
    shape = None if wanted is None else wanted.json_schema
    if wanted is not None and wanted.type == "json_schema" and (shape is None or shape.schema_ is None):
        raise bad("response_format.json_schema", "response_format.json_schema: a schema is needed")
    try:
        fields = guided_fields(
            tools,
            choice.function.name if isinstance(choice, NamedTool) else choice,
            body.parallel_tool_calls,
            None if wanted is None else wanted.model_dump(by_alias=True, exclude_none=True),
        )
    except SchemaError as error:
        field = "tools" if str(error).startswith("tool ") else "response_format.json_schema.schema"
        raise bad(field, f"{field}: {error}", "invalid_schema") from None
    if fields and not upstream.backend.guided:
        field = _guided_field(body)
        raise bad(
            field,
            f"{field}: this takes guided decoding, and {upstream.name} has an engine that has none. Serve "
            f"it with vLLM, or leave out what needs it (a tool choice, a format, strict tools)",
            "unsupported_value",
        )
    return fields


def _guided_field(body: ChatRequest) -> str:
    """The field because of which a request is guided."""
    wanted = body.response_format
    asked = {
        "tool_choice": body.tool_choice not in (None, "auto", "none"),
        "response_format": wanted is not None and wanted.type != "text",
        "parallel_tool_calls": body.parallel_tool_calls is False,
    }
    return next((name for name, wants in asked.items() if wants), "tools")


async def check_engine(body: ChatRequest | CompletionRequest, asked: Plan, upstream: Upstream) -> None:
    """Make sure that the engine can be guided as a request asks, before anything is held.

    Raises:
        GatewayError: 400, naming the field.
    """
    try:
        await check_guide(upstream.backend, asked.guide)
    except UnsupportedError as error:
        field = _guided_field(body) if isinstance(body, ChatRequest) else None
        raise bad(field, f"{field}: {error}", "unsupported_value") from None
