"""The wire of vLLM's `/v1/completions`: a pass as a request body, and an event of its answer as a chunk."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, cast

from ...charging.provider_usage import token_count
from ...errors import BackendProtocolError, BackendUnavailableError
from ..base import Finish, TokenChunk, TokenRequest
from ..limits_probe import FIELD


def request_body(model: str, request: TokenRequest) -> dict[str, Any]:
    """A pass as the body of a completions request."""
    sampling = request.sampling
    body: dict[str, Any] = {
        **request.extra,
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop_token_ids": sorted(request.stop_ids),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "skip_special_tokens": False,
    }
    if sampling.top_k > 0:
        body["top_k"] = sampling.top_k
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logprobs:
        body["logprobs"] = 0
    if request.priority:
        body["priority"] = request.priority
    if request.limits is not None:
        body["vllm_xargs"] = {**body.get("vllm_xargs", {}), FIELD: list(astuple(request.limits))}
    return body


def tokens_in(event: dict[str, Any]) -> int:
    """How many tokens an event brings; 0 where the event is malformed, which `chunk_of` finds."""
    try:
        return len(event["choices"][0].get("token_ids") or ())
    except (AttributeError, LookupError, TypeError):
        return 0


def usage_of(usage: Any, request: TokenRequest) -> tuple[int, int]:
    """(output, cached) tokens of a usage, as the server says; 0 where it says nothing."""
    said = usage.get("completion_tokens") if isinstance(usage, dict) else usage
    output = token_count(said)
    if output is None and said is not None and not (isinstance(said, int | float) and said < 0):
        raise BackendProtocolError(f"an unexpected usage from the server: {str(usage)[:80]}")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = token_count(details.get("cached_tokens")) if isinstance(details, dict) else None
    output = output or 0
    if output > request.max_tokens:
        raise BackendProtocolError(
            f"the server says that it served {output} tokens, {request.max_tokens} were asked for"
        )
    return output, min(cached or 0, len(request.prompt_ids))


def chunk_of(data: dict[str, Any], request: TokenRequest) -> TokenChunk | None:
    """One event's choice as a chunk; None when it has none."""
    choices = data.get("choices")
    if not choices:
        return None
    try:
        choice = choices[0]
        ids, finish = choice.get("token_ids"), choice.get("finish_reason")
        if ids is None:
            if finish is None and not choice.get("text"):
                return None
            raise BackendProtocolError(
                "the server sent no token ids: it must be a vLLM that knows return_token_ids (0.10.2)"
            )
        ids = tuple(map(int, ids))
        stopped_by = choice.get("stop_reason")
        if finish == "stop" and isinstance(stopped_by, int) and ids[-1:] != (stopped_by,):
            ids = (*ids, stopped_by)  # some versions leave the stop token out
        values: tuple[float | None, ...] | None = None
        if request.sampling.logprobs:
            logprobs = [None if p is None else float(p) for p in choice["logprobs"]["token_logprobs"]]
            values = (*logprobs, *[None] * (len(ids) - len(logprobs)))[: len(ids)]
    except (AttributeError, TypeError, ValueError, LookupError, OverflowError) as error:
        raise BackendProtocolError(f"an unexpected choice from the server: {error!r}") from error
    if finish not in (None, "stop", "length"):
        raise BackendUnavailableError(f"the server ended the stream with {finish!r}")
    return TokenChunk(ids, values, cast("Finish | None", finish))
