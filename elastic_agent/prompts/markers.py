"""The markers of one model as token ids: what opens thinking and what ends it.

No id is hard-coded (151649 is `</think>` in the R1-distill vocabulary and another token in Qwen2.5's). A
model has markers when its vocabulary holds them as one token, when its chat template writes them, or when
the caller names them; a plain text model, which could spell any marker, has none and fails loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ..errors import NoMarkersError
from ..tool_calls.formats import ToolFormat


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
        token_bytes: an id's bytes, as they stand behind other text; control tokens as people write them.
        encode: text as ids, without special tokens around it.
    """

    token_bytes: Callable[[int], bytes]
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
        """The ids that end thinking which is cut: the close, with the wrap-up around it.

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
        """The ids that open thinking after this prompt; empty where thinking is open or switched off."""
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
            own = b"".join(map(self.token_bytes, ids[covered[0] : end]))
            # Some tokenizers put a blank before a text by themselves
            if tuple(ids[covered[0] : end]) in (self.encode_text(own), self.encode_text(own.lstrip(b" "))):
                return found
        return None

    def close_at(self, ids: Sequence[int], end: int) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
        """The close that ends in token `end - 1`; None if there is none.

        Returns:
            The close's first token, and the ids of the text that its tokens hold of the thinking before it
            and of the solution behind it.
        """
        if not self.close_in_text:
            begin = max(0, end - len(self.close_ids))
            return (begin, (), ()) if tuple(ids[begin:end]) == self.close_ids else None
        covered = self._covered(ids, end, self.close_text.encode())
        return covered and (covered[0], self.encode_text(covered[1]), self.encode_text(covered[2]))

    def start_of(self, ids: Sequence[int]) -> int | None:
        """How many tokens at the beginning of an answer are the start marker; None if it begins otherwise."""
        if not self.open_in_text:
            return len(self.open_ids) if tuple(ids[: len(self.open_ids)]) == self.open_ids else None
        begun, start = b"", self.open_text.encode()
        for number, token in enumerate(ids, 1):
            begun = (begun + self.token_bytes(token)).lstrip()
            if begun.startswith(start):
                return number
            if not start.startswith(begun):
                break
        return None

    def _covered(self, ids: Sequence[int], end: int, marker: bytes) -> tuple[int, bytes, bytes] | None:
        """A marker whose last letter is in token `end - 1`; None if there is none.

        Returns:
            The marker's first token, the bytes before the marker in that token, and the bytes behind the
            marker in the last token.
        """
        last, at = self.token_bytes(ids[end - 1]), end - 1
        if marker[-1] not in last:
            return None
        data = last
        while at > 0 and len(data) < len(marker) - 1 + len(last):
            at -= 1
            data = self.token_bytes(ids[at]) + data
        begin = data.find(marker, max(0, len(data) - len(last) - len(marker) + 1))
        if begin < 0:
            return None
        after = data[begin + len(marker) :]
        while begin >= len(piece := self.token_bytes(ids[at])):
            begin -= len(piece)
            at += 1
        return at, piece[:begin], after

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, as they stand behind other text; b"" where no tokenizer is known."""
        return b"" if self.spelling is None else self.spelling.token_bytes(token)

    def decode_ids(self, ids: Iterable[int]) -> str:
        """Ids as text, control tokens as people write them."""
        return b"".join(map(self.token_bytes, ids)).decode(errors="replace")

    def encode_text(self, text: bytes) -> tuple[int, ...]:
        """Text as the tokenizer spells it by itself."""
        if self.spelling is None or not text:
            return ()
        return tuple(self.spelling.encode(text.decode(errors="replace")))
