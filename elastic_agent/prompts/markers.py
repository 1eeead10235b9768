"""Where thinking ends: markers as token-id sequences, resolved from the model's own tokenizer.

No id is hard-coded (151649 is `</think>` in the R1-distill vocabulary and another token in Qwen2.5's). A
model has markers when its vocabulary holds them as one token, when its chat template writes them, or when
the caller names them; a plain text model, which could spell any marker, has none and fails loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ..errors import InvalidMarkersError, NoMarkersError
from ..tool_calls.formats import ToolFormat


@dataclass(frozen=True, slots=True)
class MarkerText:
    """A pair of markers as text, with the models that are known to use it.

    Attributes:
        open: what begins thinking; "" where nothing does.
        close: what ends it.
        used_by: the models, for people.
        name: what to call the pair (`marker_text`).
        answer: what a model that answers without thinking writes in place of `open`.
        closes_before: (close, what follows): a text that ends thinking where the other one follows, which
            belongs to the solution.
        tokens: the vocabulary of such a model has all of these as tokens (default: the close).
    """

    open: str
    close: str
    used_by: str = ""
    name: str = ""
    answer: str = ""
    closes_before: tuple[tuple[str, str], ...] = ()
    tokens: tuple[str, ...] = ()


KNOWN_MARKERS: tuple[MarkerText, ...] = (
    MarkerText(
        "<think>",
        "</think>",
        "E1, DeepSeek-R1, its distills and V3.1, DeepScaleR, DeepCoder, Qwen3, QwQ, GLM, Nemotron, SmolLM3",
        "think",
    ),
    MarkerText("[THINK]", "[/THINK]", "Magistral", "magistral"),
    MarkerText("<seed:think>", "</seed:think>", "Seed-OSS", "seed"),
    MarkerText(
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "gpt-oss",
        "gpt-oss",
        answer="<|channel|>final<|message|>",
        closes_before=(
            ("<|end|><|start|>assistant", "<|channel|>commentary"),
            ("<|end|><|start|>assistant", " to"),
        ),
        tokens=("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
    ),
    MarkerText("<|channel>thought\n", "<channel|>", "Gemma 4", "gemma"),
    MarkerText("<reasoning>", "</reasoning>", "models trained on reasoning tags", "reasoning"),
    MarkerText("<thought>", "</thought>", "EXAONE Deep", "thought"),
)


class Opening(StrEnum):
    """How thinking stands when generation starts; read off the prompt."""

    PREFILLED = "prefilled"
    """The prompt ends inside an open thinking block: the first token is thinking."""
    SELF = "self"
    """No block is open: the model opens one itself, or answers without thinking."""
    CLOSED = "closed"
    """The prompt has opened and closed a block already (thinking switched off): only a solution follows."""


class Spelling(NamedTuple):
    """How a tokenizer spells.

    Attributes:
        piece: an id's bytes, as they stand behind other text; control tokens as people write them.
        encode: text as ids, without special tokens around it.
    """

    piece: Callable[[int], bytes]
    encode: Callable[[str], Sequence[int]]


class WrapUpIds(NamedTuple):
    """A wrap-up as ids; see `elastic_agent.generation.wrap_up.WrapUp`."""

    before: tuple[int, ...]
    after: tuple[int, ...] = ()
    unthought: tuple[int, ...] | None = None
    step: int = 1


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of one model, as ids.

    A marker that is a control token, or begins and ends in one, is found by its ids. One that is plain text
    is found in the bytes of the tokens (`open_in_text`, `close_in_text`), since a tokenizer merges it with
    what stands around it: `<think>\n` is `<th` `ink` `>\n` where `<think>` is `<th` `ink` `>`.

    Attributes:
        open_ids: the start-of-thinking marker; empty when the model has none.
        close_ids: the end-of-thinking marker, at least one id; this is what a forced close appends.
        eos_ids: every token that ends a turn.
        turn_ids: tokens that start a turn; `opening` looks no further back than the last of them, or than
            the last turn's end.
        answer_ids: what a model that answers without thinking writes in place of `open_ids`, if anything.
        closes_before: (close, what follows): ids that end thinking where those follow, which belong to the
            solution (a call of a tool).
        open_text, close_text: the markers as people write them; "" where they are known as ids only.
        spelling: how the model's tokenizer spells; needed for markers that are text.
        open_in_text, close_in_text: this marker is plain text.
        wrap_up: what stands around a close that cuts thinking (`elastic_agent.generation.wrap_up`).
        tools: how the model writes tool calls, in a call that has tools: the start of one ends thinking.
        tool_ids: tokens that are such a start.
    """

    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    eos_ids: frozenset[int]
    turn_ids: frozenset[int] = frozenset()
    answer_ids: tuple[int, ...] = ()
    closes_before: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    open_text: str = ""
    close_text: str = ""
    spelling: Spelling | None = field(default=None, compare=False, repr=False)
    open_in_text: bool = False
    close_in_text: bool = False
    wrap_up: WrapUpIds | None = None
    tools: ToolFormat | None = None
    tool_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.close_ids:
            raise NoMarkersError("the end-of-thinking marker is empty")
        if self.eos_ids & set(self.close_ids):
            raise NoMarkersError("the end-of-thinking marker contains an end-of-text token")

    def cut_close(self, *, thought: bool = True) -> tuple[int, ...]:
        """What ends thinking that is cut: the close, with the wrap-up around it.

        Args:
            thought: thinking was granted.
        """
        around = self.wrap_up
        if around is None:
            return self.close_ids
        before = around.before if thought or around.unthought is None else around.unthought
        return (*before, *self.close_ids, *around.after)

    def close_length(self, opening: Opening) -> int:
        """The most tokens of a forced close behind such a prompt: what a hold has to cover."""
        longest = max(len(self.cut_close()), len(self.cut_close(thought=False)))
        return longest + (len(self.open_ids) if opening is Opening.SELF else 0)

    def to_open(self, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """What opens thinking at the end of this prompt; empty where it is open or switched off."""
        return self.open_ids if self.opening(prompt_ids) is Opening.SELF else ()

    def opening(self, prompt_ids: Sequence[int]) -> Opening:
        """How thinking stands at the end of this prompt (looking at the last turn only)."""
        opens, close = self.open_ids, self.close_ids
        for end in range(len(prompt_ids), 0, -1):
            if tuple(prompt_ids[max(0, end - len(close)) : end]) == close:
                return Opening.CLOSED
            if opens and tuple(prompt_ids[max(0, end - len(opens)) : end]) == opens:
                return Opening.PREFILLED
            if (self.open_in_text or self.close_in_text) and (found := self.in_text(prompt_ids, end)):
                return found
            if prompt_ids[end - 1] in self.turn_ids or prompt_ids[end - 1] in self.eos_ids:
                break
        return Opening.SELF

    def in_text(self, ids: Sequence[int], end: int) -> Opening | None:
        """The marker that ends in the last of these tokens, as the tokenizer itself spells it there.

        Text of a user is spelled otherwise (`elastic_agent.prompts.tokenizer`), and isn't taken for a marker.
        """
        for text, is_text, found in (
            (self.close_text, self.close_in_text, Opening.CLOSED),
            (self.open_text, self.open_in_text, Opening.PREFILLED),
        ):
            covered = self._covered(ids, end, text.encode()) if is_text else None
            if covered is None:
                continue
            own = b"".join(map(self.piece, ids[covered[0] : end]))
            # Some tokenizers put a blank before a text by themselves
            if tuple(ids[covered[0] : end]) in (self.spelled(own), self.spelled(own.lstrip(b" "))):
                return found
        return None

    def close_at(self, ids: Sequence[int], end: int) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
        """The close that ends in token `end - 1`: its first token, and ids that spell what its tokens say of
        the thinking before it and of the solution behind it. None if there is none."""
        if not self.close_in_text:
            begin = max(0, end - len(self.close_ids))
            return (begin, (), ()) if tuple(ids[begin:end]) == self.close_ids else None
        covered = self._covered(ids, end, self.close_text.encode())
        return covered and (covered[0], self.spelled(covered[1]), self.spelled(covered[2]))

    def start_of(self, ids: Sequence[int]) -> int | None:
        """How many tokens at the beginning of an answer are the start marker; None if it begins otherwise."""
        if not self.open_in_text:
            return len(self.open_ids) if tuple(ids[: len(self.open_ids)]) == self.open_ids else None
        begun, start = b"", self.open_text.encode()
        for number, token in enumerate(ids, 1):
            begun = (begun + self.piece(token)).lstrip()
            if begun.startswith(start):
                return number
            if not start.startswith(begun):
                break
        return None

    def _covered(self, ids: Sequence[int], end: int, marker: bytes) -> tuple[int, bytes, bytes] | None:
        """A text whose last letter is in token `end - 1`: its first token, what stands before it in that one
        and behind it in the last one."""
        last, at = self.piece(ids[end - 1]), end - 1
        if marker[-1] not in last:
            return None
        data = last
        while at > 0 and len(data) < len(marker) - 1 + len(last):
            at -= 1
            data = self.piece(ids[at]) + data
        begin = data.find(marker, max(0, len(data) - len(last) - len(marker) + 1))
        if begin < 0:
            return None
        after = data[begin + len(marker) :]
        while begin >= len(piece := self.piece(ids[at])):
            begin -= len(piece)
            at += 1
        return at, piece[:begin], after

    def piece(self, token: int) -> bytes:
        """The bytes of a token, as they stand behind other text; b"" where no tokenizer is known."""
        return b"" if self.spelling is None else self.spelling.piece(token)

    def spell(self, ids: Iterable[int]) -> str:
        """Ids as text, control tokens as people write them."""
        return b"".join(map(self.piece, ids)).decode(errors="replace")

    def spelled(self, text: bytes) -> tuple[int, ...]:
        """Text as the tokenizer spells it by itself."""
        if self.spelling is None or not text:
            return ()
        return tuple(self.spelling.encode(text.decode(errors="replace")))


def resolve_markers(
    *,
    vocabulary: Mapping[str, int],
    encode: Callable[[str], Sequence[int]],
    chat_template: str | None,
    eos_ids: Iterable[int],
    turn_ids: Collection[int] = (),
    wanted: MarkerText | None = None,
    model: str = "this model",
    piece: Callable[[int], bytes] | None = None,
    controls: Collection[int] | None = None,
) -> Markers:
    """Find a model's markers.

    Markers that the chat template writes are the model's; else those that its vocabulary has as one token.

    Args:
        vocabulary: token text to id, added tokens included.
        encode: text to ids without special tokens around, for markers of several tokens.
        chat_template: the model's template, or None.
        eos_ids: tokens that end a turn.
        turn_ids: tokens that start a turn.
        wanted: markers named by the caller; these win.
        model: for the error message.
        piece: an id to its bytes; without it markers are found by their ids alone.
        controls: the ids that no tokenizer merges with what stands around them.

    Raises:
        NoMarkersError: the model has no markers that can be relied on.
    """

    def ids(text: str) -> tuple[int, ...]:
        whole = vocabulary.get(text)
        return (whole,) if whole is not None else tuple(encode(text)) if text else ()

    def is_text(marker: tuple[int, ...]) -> bool:
        if not marker or piece is None or controls is None:
            return False
        return not (marker[0] in controls and marker[-1] in controls)

    pair = wanted or _known(vocabulary, chat_template or "")
    if pair is None:
        raise NoMarkersError(
            f"{model} has no end-of-thinking marker in its vocabulary or chat template, so its thinking "
            f"can't be budgeted. Use a reasoning model, or say what begins and ends its thinking: "
            f"markers=MarkerText(open, close), or --open and --close. Known: {known_markers()}"
        )
    opens, close = ids(pair.open), ids(pair.close)
    return Markers(
        opens,
        close,
        frozenset(eos_ids),
        frozenset(turn_ids),
        ids(pair.answer),
        tuple((ids(end), ids(then)) for end, then in pair.closes_before),
        pair.open,
        pair.close,
        None if piece is None else Spelling(piece, encode),
        is_text(opens),
        is_text(close),
    )


def _known(vocabulary: Mapping[str, int], template: str) -> MarkerText | None:
    """The pair that a template writes, or that is in a vocabulary."""

    def there(pair: MarkerText) -> bool:
        return all(token in vocabulary for token in pair.tokens or (pair.close,))

    def writes(pair: MarkerText) -> bool:
        return pair.open in template or pair.close in template

    written = [m for m in KNOWN_MARKERS if writes(m) and (there(m) or not m.tokens)]
    return next((m for m in (*written, *KNOWN_MARKERS) if m in written or there(m)), None)


def marker_text(value: object) -> MarkerText | None:
    """A pair of markers, however it is given: a `MarkerText`, the name of a known pair, (open, close), or a
    mapping with `open` and `close`; None is None.

    Raises:
        InvalidMarkersError: it is none of them.
    """
    if value is None or isinstance(value, MarkerText):
        return value
    if isinstance(value, str) and (known := next((m for m in KNOWN_MARKERS if m.name == value), None)):
        return known
    pair = value
    if isinstance(value, Mapping) and "close" in value and set(value) <= {"open", "close"}:
        pair = (value.get("open") or "", value["close"])
    if isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
        opens, close = pair
        if close.strip() and opens != close:
            known = next((m for m in KNOWN_MARKERS if (m.open, m.close) == (opens, close)), None)
            return known or MarkerText(opens, close)
    names = ", ".join(m.name for m in KNOWN_MARKERS)
    raise InvalidMarkersError(
        f"markers are what begins and ends thinking, as in open: <think>, close: </think> (open may be left "
        f"out, close not, and they differ), or one of {names}; not {value!r}"
    )


def known_markers() -> str:
    """The pairs that are found by themselves, for people."""
    return "; ".join(f"{m.open.strip()} {m.close} ({m.used_by})" for m in KNOWN_MARKERS)
