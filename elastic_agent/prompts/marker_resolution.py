"""Finds a model's thinking markers in its tokenizer's vocabulary and its chat template."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ..errors import NoMarkersError
from .marker_profiles import KNOWN_MARKERS, MarkerText, known_markers
from .markers import Markers, Spelling


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
    """The markers of a model: those that its chat template writes, else those that its vocabulary has as
    tokens.

    No id is hard-coded (151649 is `</think>` in the R1-distill vocabulary and another token in Qwen2.5's). A
    plain text model could spell any marker, but has none: resolving fails, unless the caller names the
    markers.

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
