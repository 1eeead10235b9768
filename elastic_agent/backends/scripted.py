"""A deterministic model made of text, for tests: yours and ours.

    backend = ScriptedBackend(Reply(thinking="two and two", solution="4"))
    backend = ScriptedBackend(lambda prompt: Reply("hm " * 40, "4", needs=20, otherwise="5"))

It keeps the backend contract like any other: it can be cut anywhere and meters what it serves. On request it
takes time (`ttft`, `tpot`, on the event loop's clock) and fails (`Reply.fail_after`). Every word, with the
space before it, is one token.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BackendUnavailableError
from ..prompts.markers import Markers, Opening, Spelling
from ..tool_calls import HERMES
from .base import NO_LIMITS, Meter, TokenChunk, TokenRequest, check_request

_EOS, _TURN, _OPEN, _CLOSE = 0, 1, 2, 3
_FIRST_WORD = 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What the scripted model says to one prompt.

    Attributes:
        thinking: what it would think if nobody cut it.
        solution: what it answers, given at least `needs` thinking tokens.
        needs: thinking tokens (kept in the prompt of the second pass) without which it answers `otherwise`.
        otherwise: the answer that it gives too early.
        closes: it closes its thinking; False ends its turn while thinking instead.
        fail_after: the stream breaks after this many tokens of a pass.
    """

    thinking: str = ""
    solution: str = "ok"
    needs: int = 0
    otherwise: str = "unsure"
    closes: bool = True
    fail_after: int | None = None


class ScriptedCodec:
    """Words, however long, as tokens. Control tokens have ids of their own that no text maps to.

    Args:
        prefill: the chat template opens the thinking block; otherwise the model opens it itself.
        close: ids of the end-of-thinking marker.
    """

    def __init__(self, *, prefill: bool = True, close: tuple[int, ...] = (_CLOSE,)) -> None:
        self.prefill = prefill
        self.tool_format, self.tool_ids = HERMES, frozenset[int]()
        self.markers = Markers(
            (_OPEN,),
            close,
            frozenset({_EOS}),
            frozenset({_TURN}),
            open_text="<think>",
            close_text="</think>",
            spelling=Spelling(self._piece, self.encode),
        )
        self._ids: dict[str, int] = {}
        self._words: dict[int, str] = {}

    bytes_per_token = 2**31

    def encode(self, text: str) -> list[int]:
        """Plain text as ids."""
        return [self._intern(word) for word in re.findall(r"\s*\S+|\s+$", text)]

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """A conversation as ids: a turn token, the role and the content of each message."""
        ids = []
        for tool in tools or ():
            ids += [_TURN, *self.encode(f"tool {tool}")]
        for message in messages:
            content = message.get("content") or ""
            text = (
                content
                if isinstance(content, str)
                else " ".join(str(part.get("text", "")) for part in content)
            )
            ids += [_TURN, *self.encode(f"{message['role']} {text}")]
        return [*ids, _TURN, *self.encode("assistant"), *([_OPEN] if self.prefill else [])]

    def decode(self, ids: Sequence[int], *, tool_tags: bool = False) -> str:
        """Ids as text, control tokens left out; tags of tool calls are words like any other."""
        return "".join(self._words.get(i, "") for i in ids)

    def _piece(self, token: int) -> bytes:
        return self._words.get(token, "").encode()

    def _intern(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = _FIRST_WORD + len(self._ids)
            self._words[self._ids[word]] = word
        return self._ids[word]


class ScriptedBackend:
    """Plays `Reply`s.

    Args:
        reply: one reply for every prompt, or a function of the prompt's text.
        ttft: seconds before the first token of a pass.
        tpot: seconds before each further token. Both may be changed while it runs.
        model: its name.
        context_length: most tokens of one sequence.
        codec: its codec.

    It takes the fields of guided decoding and says what its script says (`guided`; `reply`).
    """

    def __init__(
        self,
        reply: Reply | Callable[[str], Reply] = Reply(),
        *,
        ttft: float = 0.0,
        tpot: float = 0.0,
        model: str = "scripted",
        context_length: int = 32_768,
        codec: ScriptedCodec | None = None,
    ) -> None:
        self.model = model
        self.codec = codec or ScriptedCodec()
        self.context_length = context_length
        self.meter = Meter()
        self.ttft = ttft
        self.tpot = tpot
        self.running = 0
        self.two_passes = NO_LIMITS
        self.guided = True
        self._reply = reply
        self._closed = False

    async def ready(self) -> None:
        """Return at once."""

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Return "": every field is accepted."""
        return ""

    async def probe(self) -> None:
        """Raise if the backend was closed."""
        if self._closed:
            raise BackendUnavailableError(f"{self.model} has been closed")

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Play one pass; see `Backend.stream`."""
        if self._closed:
            request.receipt.refused = True
            raise BackendUnavailableError(f"{self.model} has been closed")
        check_request(request, self.context_length)
        self.meter.requests += 1
        self.meter.input += len(request.prompt_ids)
        self.running += 1
        served = 0
        request.receipt.output = 0
        try:
            reply, script = self._script(request.prompt_ids, request.extra)
            for token in script:
                await asyncio.sleep(self.tpot if served else self.ttft)
                if served == reply.fail_after or self._closed:
                    raise BackendUnavailableError(f"{self.model}: the stream broke off after {served} tokens")
                served += 1
                self.meter.output += 1
                request.receipt.output = served
                if token in request.stop_ids or token == _EOS:
                    yield TokenChunk((token,), _logprobs(request), "stop")
                    return
                if served == request.max_tokens:
                    yield TokenChunk((token,), _logprobs(request), "length")
                    return
                yield TokenChunk((token,), _logprobs(request))
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        """Close; running streams break off."""
        self._closed = True

    def reply(self, prompt: str, extra: Mapping[str, Any]) -> Reply:
        """What it says to a prompt; a subclass may heed the engine's fields of a pass (guided decoding)."""
        return self._reply(prompt) if callable(self._reply) else self._reply

    def _script(self, prompt: tuple[int, ...], extra: Mapping[str, Any]) -> tuple[Reply, list[int]]:
        """The reply to this prompt, and the tokens that follow this very prefix."""
        markers = self.codec.markers
        opening = markers.opening(prompt)
        turn = max((i for i, token in enumerate(prompt) if token in markers.turn_ids), default=-1)
        # Behind "assistant", where a turn has begun; a prompt of bare ids is all text
        said = min(turn + 2, len(prompt)) if turn >= 0 else len(prompt)
        start = next((i for i in range(turn + 1, len(prompt)) if prompt[i] == _OPEN), said)
        reply = self.reply(self.codec.decode(prompt[:start]), extra)
        thinking = self.codec.encode(reply.thinking)
        end = [*markers.close_ids] if reply.closes else [_EOS]
        if opening is Opening.CLOSED:
            thought = len(prompt) - start - 1 - len(markers.close_ids)
            answer = reply.solution if thought >= reply.needs else reply.otherwise
            return reply, [*self.codec.encode(answer), _EOS]
        rest = [*self.codec.encode(reply.solution), _EOS]
        if opening is Opening.PREFILLED:
            return reply, [*thinking[len(prompt) - start - 1 :], *end, *rest]
        return reply, [_OPEN, *thinking, *end, *rest] if thinking else rest[len(prompt) - said :]


def _logprobs(request: TokenRequest) -> tuple[float, ...] | None:
    return (0.0,) if request.sampling.logprobs else None
