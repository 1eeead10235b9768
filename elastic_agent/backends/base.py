"""The protocol of every backend: token ids in, a stream of token ids out.

A backend knows nothing of budgets or money. It serves one pass at a time: a `TokenRequest` in, `TokenChunk`s
out. The two-phase machine (`elastic_agent.generation.phases`) decides what the passes are. An engine that
holds both limits of a call itself (`Limits`) may be asked for both segments in one pass. A new backend must
pass `tests/core/backends/contract.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from ..charging.delivery import Delivery
from ..errors import BackendError
from ..prompts.markers import Markers
from ..tool_calls.formats import ToolFormat
from ..validation import integer, put, real

Finish = Literal["stop", "length"]


MOST_TEMPERATURE = 100.0
MOST_SEED = 2**62


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy. The paper uses T=0.6, top_p=0.95.

    Raises:
        InvalidValueError: a negative temperature, a `top_p` outside of (0, 1], a `top_k` below -1 (0 and -1:
            all tokens), or a seed of more than 62 bits.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    seed: int | None = None
    logprobs: bool = False

    def __post_init__(self) -> None:
        put(self, "temperature", real("temperature", self.temperature, most=MOST_TEMPERATURE))
        put(self, "top_p", real("top_p", self.top_p, above=True, most=1.0))
        put(self, "top_k", integer("top_k", self.top_k, least=-1))
        if self.seed is not None:
            put(self, "seed", integer("seed", self.seed, least=-MOST_SEED, most=MOST_SEED, of=""))


NO_LIMITS = "the engine holds no limits itself"
"""`Backend.two_passes` of most."""
DEFAULT_SAMPLING = Sampling()
GREEDY = Sampling(temperature=0.0, top_p=1.0)


def no_call_waits() -> bool:
    """The default of `Receipt.call_waits`: no call waits for an abandoned pass."""
    return False


@dataclass(slots=True)
class Receipt:
    """What a pass served in all; the backend fills it in when the stream ends, however it ends.

    Attributes:
        output: tokens sampled, including those that nobody read; None when the backend can't know (a
            connection that broke).
        output_bound: where `output` is None: the most tokens that were served, which is what is charged;
            None: every token that the pass asked for.
        call_waits: asked when a pass is abandoned before its end. True: its call goes on with another pass
            at once, so the backend must find out soon, or not at all, how much the pass served.
        refused: the request provably never reached the engine, which has not even read the prompt: nothing is
            charged. `elastic_agent.charging.delivery` decides this where something was sent.
    """

    output: int | None = None
    refused: bool = False
    output_bound: int | None = None
    call_waits: Callable[[], bool] = no_call_waits

    def unknown(self, asked: int, read: int) -> int:
        """Tokens beyond those read that the pass may have served, where nobody can say how many.

        Args:
            asked: the tokens that the pass asked for.
            read: the tokens that were read.
        """
        if self.output is not None:
            return 0
        return max(0, (asked if self.output_bound is None else min(asked, self.output_bound)) - read)

    @property
    def delivery(self) -> Delivery:
        """What became of the request."""
        if self.refused:
            return Delivery.REFUSED
        return Delivery.UNKNOWN if self.output is None else Delivery.SERVED


@dataclass(frozen=True, slots=True)
class Limits:
    """Both limits of a call, held by the engine in one pass.

    Attributes:
        close: the end-of-thinking marker, which the engine writes when thinking has reached its limit.
        thinking: at most this many tokens before the close.
        end: the token that the engine writes when the solution has reached its limit. The token is in the
            stream, beyond the limit, and ends the pass.
        solution: at most this many tokens after the close.
    """

    close: int
    thinking: int
    end: int
    solution: int

    def kept(self, ids: Sequence[int]) -> bool:
        """Whether a pass that brought these ids kept the limits."""
        closed = ids.index(self.close) if self.close in ids else len(ids)
        beyond = list(ids[closed + 1 + self.solution :])
        return closed <= self.thinking and beyond in ([], [self.end])


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One pass.

    Attributes:
        prompt_ids: what the model has read, spliced by id; at least one token.
        max_tokens: at most this many tokens are sampled; at least 1.
        stop_ids: sampling ends with the first of these tokens, which is part of the stream.
        sampling: how tokens are drawn.
        priority: lower goes first where the engine can choose.
        extra: fields passed to the engine unchanged (guided decoding and the like).
        limits: the engine is to hold these itself; only for a backend whose `two_passes` is "".
        before_send: awaited right before each sending of the request (`confirm_send`). If it raises, nothing
            is sent. None: nothing to ask.
        receipt: filled in by the backend.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = DEFAULT_SAMPLING
    priority: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits | None = None
    before_send: Callable[[], Awaitable[None]] | None = field(default=None, compare=False)
    receipt: Receipt = field(default_factory=Receipt, compare=False)


async def confirm_send(request: TokenRequest) -> None:
    """Ask the caller (`before_send`) whether a request may still be sent.

    The driver asks before it opens a stream. A backend that waits in between, or sends a request again, asks
    before each sending. If the answer is no, the receipt says that nothing was sent.

    Raises:
        ElasticError: the caller's own error; nothing is sent.
    """
    if request.before_send is not None:
        before, request.receipt.refused = request.receipt.refused, True
        await request.before_send()
        request.receipt.refused = before


def check_request(request: TokenRequest, context_length: int) -> None:
    """Refuse what no backend can serve, before a token is sampled; the receipt says so.

    Raises:
        BackendError: an empty prompt, no tokens asked for, or more than the context holds.
    """
    prompt, asked = len(request.prompt_ids), request.max_tokens
    request.receipt.refused = True
    if not prompt or asked < 1:
        raise BackendError("a pass needs at least one prompt token and max_tokens of at least 1")
    if prompt + asked > context_length:
        raise BackendError(
            f"{prompt} prompt tokens and max_tokens={asked} exceed the context of {context_length}"
        )
    request.receipt.refused = False


class TokenChunk(NamedTuple):
    """Some tokens of a pass.

    Attributes:
        ids: the sampled tokens, in order; may be empty on the last chunk.
        logprobs: one for each token when asked for (None where the engine gives none), else None.
        finish: None while more follows; "stop" (a stop id or end of text, included in `ids`) or
            "length" on the last chunk.
        cached: input tokens that the engine's prefix cache held; not 0 in at most one chunk of a pass.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...] | None = None
    finish: Finish | None = None
    cached: int = 0


@dataclass(slots=True)
class Meter:
    """An upstream's own count of what it served: the ground truth that our books are held against.

    A token counts when the backend has produced it, whether or not anybody read it.
    """

    requests: int = 0
    input: int = 0
    output: int = 0


class Codec(Protocol):
    """Text to ids and back, for one model.

    `encode_chat` renders the model's own chat template, generation prompt included. Whatever stands in a
    message's content stays text: no control token can come out of it (law 7).
    """

    @property
    def markers(self) -> Markers: ...

    @property
    def bytes_per_token(self) -> int:
        """The most bytes of text that one token stands for. A text longer than a context of such tokens can
        be refused without being encoded."""
        ...

    def encode(self, text: str) -> list[int]:
        """Plain text as ids; control strings in it stay text."""
        ...

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """A conversation (OpenAI-style dicts with role and content) as prompt ids."""
        ...

    def decode(self, ids: Sequence[int], *, tool_tags: bool = False) -> str:
        """Ids as text, control tokens left out; with `tool_tags` but for those of `tool_format`."""
        ...

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls."""
        ...

    @property
    def tool_ids(self) -> frozenset[int]:
        """Tokens that are, by themselves, the start of a tool call."""
        ...


class Backend(Protocol):
    """A model that can be asked for tokens.

    `stream` is an async generator: closing it (or cancelling the task that reads it) stops the sampling
    before the next token and frees what the pass held. It raises `BackendError` and its kinds, and
    nothing else.
    """

    @property
    def model(self) -> str:
        """The model's name, for prices, curves and logs."""
        ...

    @property
    def codec(self) -> Codec: ...

    @property
    def context_length(self) -> int:
        """Most tokens, prompt included, that one sequence may have."""
        ...

    @property
    def meter(self) -> Meter: ...

    @property
    def guided(self) -> bool:
        """Whether the engine takes `TokenRequest.extra`: guided decoding, by vLLM's fields."""
        ...

    @property
    def two_passes(self) -> str:
        """Why a call takes two passes here; "" where a probe has seen that the engine holds both limits
        itself (`TokenRequest.limits`). Known after `ready`."""
        ...

    async def ready(self) -> None:
        """Make sure that the model can be reached, and know its context length; cheap when called again."""
        ...

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Why the engine refuses these fields of guided decoding; "" where the engine accepts them, or can't
        be asked. Costs no token of a call."""
        ...

    async def probe(self) -> None:
        """Ask anew whether the model can answer now.

        Raises:
            BackendError: the model can't.
        """
        ...

    def stream(self, request: TokenRequest) -> AsyncIterator[TokenChunk]: ...

    async def aclose(self) -> None:
        """Free everything; running streams end with `BackendUnavailableError`."""
        ...
