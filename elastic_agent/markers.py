"""Where thinking ends: markers as token-id sequences, resolved from the model's own tokenizer.

No id is hard-coded (151649 is `</think>` in the R1-distill vocabulary and another token in Qwen2.5's). A
model has markers when its vocabulary holds them as one token, when its chat template writes them, or when
the caller names them; a plain text model, which could spell any marker, has none and fails loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from elastic_agent.errors import NoMarkersError


@dataclass(frozen=True, slots=True)
class MarkerText:
    """A pair of markers as text, with the models that are known to use it."""

    open: str
    close: str
    used_by: str = ""


KNOWN_MARKERS: tuple[MarkerText, ...] = (
    MarkerText(
        "<think>", "</think>", "E1, DeepSeek-R1 and its distills, DeepScaleR, DeepCoder, Qwen3, QwQ, GLM"
    ),
    MarkerText("[THINK]", "[/THINK]", "Magistral"),
    MarkerText("<seed:think>", "</seed:think>", "Seed-OSS"),
    MarkerText("<reasoning>", "</reasoning>", "models trained on reasoning tags"),
)


class Opening(StrEnum):
    """How thinking stands when generation starts; read off the prompt."""

    PREFILLED = "prefilled"
    """The prompt ends inside an open thinking block: the first token is thinking."""
    SELF = "self"
    """No block is open: the model opens one itself, or answers without thinking."""
    CLOSED = "closed"
    """The prompt has opened and closed a block already (thinking switched off): only a solution follows."""


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of one model, as ids.

    Attributes:
        open_ids: the start-of-thinking marker; empty when the model has none.
        close_ids: the end-of-thinking marker, at least one id; this is what a forced close appends.
        eos_ids: every token that ends a turn.
        turn_ids: tokens that start a turn; `opening` looks no further back than the last of them, or than
            the last turn's end.
    """

    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    eos_ids: frozenset[int]
    turn_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.close_ids:
            raise NoMarkersError("the end-of-thinking marker is empty")
        if self.eos_ids & set(self.close_ids):
            raise NoMarkersError("the end-of-thinking marker contains an end-of-text token")

    def to_open(self, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """What opens thinking at the end of this prompt; empty where it is open or switched off."""
        return self.open_ids if self.opening(prompt_ids) is Opening.SELF else ()

    def opening(self, prompt_ids: Sequence[int]) -> Opening:
        """How thinking stands at the end of this prompt (looking at the last turn only)."""
        start = 0
        for i in range(len(prompt_ids) - 1, -1, -1):
            if prompt_ids[i] in self.turn_ids or prompt_ids[i] in self.eos_ids:
                start = i
                break
        opened = _last(prompt_ids, self.open_ids, start)
        closed = _last(prompt_ids, self.close_ids, start)
        if closed > opened:
            return Opening.CLOSED
        return Opening.PREFILLED if opened >= 0 else Opening.SELF


def _last(ids: Sequence[int], part: tuple[int, ...], start: int) -> int:
    """Index of the last occurrence of `part` in `ids[start:]`, or -1."""
    if not part:
        return -1
    for i in range(len(ids) - len(part), start - 1, -1):
        if tuple(ids[i : i + len(part)]) == part:
            return i
    return -1


def resolve_markers(
    *,
    vocabulary: Mapping[str, int],
    encode: Callable[[str], Sequence[int]],
    chat_template: str | None,
    eos_ids: Iterable[int],
    turn_ids: Collection[int] = (),
    wanted: MarkerText | None = None,
    model: str = "this model",
) -> Markers:
    """Find a model's markers.

    Args:
        vocabulary: token text to id, added tokens included.
        encode: text to ids without special tokens around, for markers of several tokens.
        chat_template: the model's template, or None.
        eos_ids: tokens that end a turn.
        turn_ids: tokens that start a turn.
        wanted: markers named by the caller; these win.
        model: for the error message.

    Raises:
        NoMarkersError: the model has no markers that can be relied on.
    """
    ends = frozenset(eos_ids)
    for pair in (wanted,) if wanted else KNOWN_MARKERS:
        whole = vocabulary.get(pair.close)
        named = wanted is not None or (chat_template is not None and pair.close in chat_template)
        if whole is None and not named:
            continue
        close = (whole,) if whole is not None else tuple(encode(pair.close))
        start = vocabulary.get(pair.open)
        opens = (start,) if start is not None else tuple(encode(pair.open)) if pair.open else ()
        return Markers(opens, close, ends, frozenset(turn_ids))
    known = ", ".join(f"{m.close} ({m.used_by})" for m in KNOWN_MARKERS)
    raise NoMarkersError(
        f"{model} has no end-of-thinking marker in its vocabulary or chat template, so its thinking can't be "
        f"budgeted. Use a reasoning model, or pass markers=MarkerText(open, close). Known: {known}"
    )
