"""Whether an engine holds both limits of a call itself: a probe runs into each limit and reads the ids.

A server's own word is not enough, since servers accept unknown fields silently. Each of the probe's two
passes asks for some tokens beyond its limits, which come where the engine does not hold the limits.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol, cast

from ..errors import BackendError, BackendUnavailableError
from .base import GREEDY, Backend, Limits, TokenChunk, TokenRequest

FIELD = "elastic_limits"
"""Where a request's `Limits` go among vLLM's extra arguments (`elastic_agent.backends.vllm.plugin`)."""
UNPROBED = "the engine has not been probed"
PASSED = "the engine has passed limits that it was to hold"
PROBING = "the engine is being probed"
_THINKING, _SOLUTION, _MORE = 5, 3, 4


class Probed(Backend, Protocol):
    """A backend whose engine may hold limits, and can be probed for it."""

    two_passes: str


async def probe_once(backend: Probed) -> None:
    """Probe an engine, unless it has been probed. Calls that come meanwhile take two passes.

    Raises:
        BackendUnavailableError: the engine can't be reached; the next call of this function probes again.
    """
    if backend.two_passes != UNPROBED:
        return
    backend.two_passes = PROBING
    try:
        backend.two_passes = await why_two_passes(backend)
    finally:
        if backend.two_passes == PROBING:
            backend.two_passes = UNPROBED


async def why_two_passes(backend: Backend) -> str:
    """Why the backend's calls take two passes; "" if the engine was seen to hold both limits.

    Costs two short passes, which are on the meter. In the first pass the model can't sample the close or an
    end of text, so a close is the engine's. In the second pass the close comes at once: after a late close
    `max_tokens` alone would end the solution.

    Raises:
        BackendUnavailableError: the engine can't be reached.
    """
    try:
        return await _probe(backend)
    except BackendUnavailableError:
        raise
    except BackendError as error:
        return f"the engine refuses to hold limits: {error}"


async def _probe(backend: Backend) -> str:
    markers = backend.codec.markers
    if len(markers.close_ids) > 1 or markers.close_in_text:
        return "the close is several tokens"
    prompt = backend.codec.encode_chat([{"role": "user", "content": "How many?"}])
    close, end = markers.close_ids[0], min(markers.eos_ids)
    limits = Limits(close, _THINKING, end, _SOLUTION)
    ids = [*prompt, *markers.to_open(prompt)]
    never = {str(i): -100.0 for i in (*markers.eos_ids, close)}
    forced = await _ids(backend, ids, limits, never)
    if forced[_THINKING : _THINKING + 1] != [close] or close in forced[:_THINKING]:
        return f"probed for thinking of {_THINKING} tokens, the engine's close was not after them"
    early = await _ids(backend, ids, limits, {**never, str(close): 100.0})
    if early[0] != close or early[1 + _SOLUTION :] != [end]:
        return f"probed with an early close, the engine did not end the solution after {_SOLUTION} tokens"
    return ""


async def _ids(backend: Backend, prompt: Sequence[int], limits: Limits, bias: dict[str, float]) -> list[int]:
    request = TokenRequest(
        tuple(prompt),
        limits.thinking + limits.solution + _MORE,
        backend.codec.markers.eos_ids,
        GREEDY,
        extra={"logit_bias": bias},
        limits=limits,
    )
    source = cast("AsyncGenerator[TokenChunk]", backend.stream(request))
    async with aclosing(source) as chunks:
        return [i async for chunk in chunks for i in chunk.ids]
