"""The wire of llama.cpp's `/completion`: a pass as a request body, and an event of its answer.

The server ends a generation by itself at every end-of-text token of its vocabulary, and at texts (`stop`). It
shows the text of a control token only where that text is among `preserved_tokens`. So the texts of the stop
ids are sent as both. An event brings the ids of its tokens (`return_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import BackendError, BackendProtocolError, BackendUnavailableError
from ..base import Finish, Sampling, TokenChunk, TokenRequest

SEEDS = 2**32 - 1
"""Seeds of the server; the last stands for a random one."""
_FIELDS = {
    "frequency_penalty": "frequency_penalty",
    "logit_bias": "logit_bias",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
}
"""Further fields of a request, by vLLM's names -> llama.cpp's."""


def request_body(
    request: TokenRequest, ids: Iterable[int], tokens: int, stops: Iterable[str]
) -> dict[str, Any]:
    """A pass, or the rest of one, as the body of a request.

    Args:
        ids: the prompt, and what was sampled already.
        tokens: how many may still be sampled.
        stops: the texts of the stop ids.

    Raises:
        BackendError: a further field that llama.cpp doesn't know.
    """
    sampling, stop = request.sampling, sorted(stops)
    return {
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "repeat_last_n": request.max_tokens + len(request.prompt_ids),  # penalties see all of the text
        **engine_fields(request.extra),
        "prompt": list(ids),
        "n_predict": tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": max(0, sampling.top_k),
        # As vLLM and the paper draw: the temperature comes first
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        "seed": seed_of(sampling),
        "n_probs": int(sampling.logprobs),
        "stop": stop,
        "preserved_tokens": stop,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": True,
    }


def seed_of(sampling: Sampling) -> int:
    """The server's seed for a call's."""
    assert sampling.seed is not None
    return sampling.seed % SEEDS


def engine_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Further fields of a request in llama.cpp's words.

    Raises:
        BackendError: there is no such field.
    """
    found: dict[str, Any] = {}
    for name, value in extra.items():
        if name == "structured_outputs":
            found |= _guide(value)
        elif name in _FIELDS:
            found[_FIELDS[name]] = value
        else:
            raise BackendError(f"llama.cpp has no field {name!r}; known are {', '.join(sorted(_FIELDS))}")
    return found


def _guide(guide: Mapping[str, Any]) -> dict[str, Any]:
    """Guided decoding: a JSON schema, any JSON object, a choice or a grammar."""
    if "json" in guide:
        return {"json_schema": guide["json"]}
    if guide.get("json_object"):
        return {"json_schema": {"type": "object"}}
    if "choice" in guide:
        return {"grammar": "root ::= " + " | ".join(map(_literal, guide["choice"]))}
    if "grammar" in guide:
        return {"grammar": guide["grammar"]}
    raise BackendError(
        f"llama.cpp guides by json, json_object, choice or grammar, not by {', '.join(guide) or 'nothing'}"
    )


def _literal(text: str) -> str:
    """A text as a literal of llama.cpp's grammars."""
    escaped = "".join(one if one.isprintable() and one not in '"\\' else f"\\U{ord(one):08X}" for one in text)
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class Event:
    """An event of an answer.

    Attributes:
        chunk: its tokens; the finish is that of the generation, which may have ended at a text.
        by_text: the generation ended where its text had one of the `stop` texts.
        predicted: on the last event: all tokens that were sampled.
    """

    chunk: TokenChunk
    by_text: bool = False
    predicted: int | None = None


def event_of(data: Mapping[str, Any], request: TokenRequest) -> Event:
    """An event.

    Raises:
        BackendProtocolError: it is of another form.
        BackendUnavailableError: the generation ended for none of the reasons of a pass.
    """
    try:
        ids = tuple(map(int, data["tokens"]))
        values: tuple[float | None, ...] | None = None
        if request.sampling.logprobs:
            rows = data.get("completion_probabilities") or ()
            values = tuple(float(row["logprob"]) for row in rows)[: len(ids)]
            values += (None,) * (len(ids) - len(values))
        if not data["stop"]:
            return Event(TokenChunk(ids, values))
        cached, predicted = int((data.get("timings") or {}).get("cache_n", 0)), int(data["tokens_predicted"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise BackendProtocolError(
            f"an unexpected event from the server ({error!r}): it must be a llama.cpp that knows "
            f"return_tokens (January 2025)"
        ) from error
    ended = data.get("stop_type")
    finishes: dict[Any, Finish] = {"eos": "stop", "word": "stop", "limit": "length"}
    if ended not in finishes:
        raise BackendUnavailableError(f"the server ended the stream with {ended!r}")
    cached = max(0, min(cached, len(request.prompt_ids)))
    return Event(TokenChunk(ids, values, finishes[ended], cached), ended == "word", predicted)
