"""Which markers a base gets to think between.

The first of these that there is:

1. Its own: a pair that its vocabulary has as tokens, or that its chat template writes. They stay as they are.
2. Two tokens of its own for a known pair, in spare rows of the embedding: rows behind the tokenizer's last
   id, or tokens that the makers of the vocabulary have reserved and named so (`<|reserved_special_token_0|>`,
   `<unused0>`). No matrix is resized. They are no "special" tokens, as in Qwen3 and DeepSeek-R1: whoever
   decodes without special tokens still sees where thinking ends.
3. The pair as plain text, spelled in several tokens, which is found across the borders of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elastic_agent.errors import NoMarkersError, UsageError
from elastic_agent.prompts.marker_profiles import KNOWN_MARKERS, MarkerText
from elastic_agent.prompts.marker_resolution import resolve_markers

from .base import Base
from .template import END, START

_RESERVED = re.compile(
    "\\W*([\\w\u2581]*(reserved|unused|dummy|place.?holder)[\\w\u2581]*|(special|control)_\\d+)\\W*",
    re.IGNORECASE,
)
"""Names that vocabularies give to tokens which nothing uses; a number is part of each."""
OFFERED: Mapping[str, MarkerText] = {
    m.name: m for m in KNOWN_MARKERS if not m.tokens and m.open.strip() == m.open
}
"""What `--markers` may name: pairs that any model can learn, and that a template tells without options."""


@dataclass(frozen=True, slots=True)
class MarkerPlan:
    """The markers that a prepared model has.

    Attributes:
        pair: the two texts.
        how: a sentence for people.
        rows: text -> the row of the embedding that it gets; () for markers that are there or are plain text.
        renamed: text -> the reserved token that has the row now; the others are behind the last id.
    """

    pair: MarkerText
    how: str
    rows: Mapping[str, int] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


def plan_markers(base: Base, wanted: str | None) -> MarkerPlan:
    """What to do for markers.

    Args:
        wanted: name of a pair in `OFFERED`; None: the base's own, or "think".

    Raises:
        UsageError: the base has other markers than those which are wanted.
    """
    own = _own(base)
    if own is not None:
        if wanted not in (None, own.name):
            raise UsageError(
                f"--markers {wanted}: {base.name} thinks between {own.open} and {own.close} already "
                f"({own.name or 'a pair of its own'}): leave --markers out"
            )
        return MarkerPlan(own, f"{own.open} and {own.close}, which the model has already")
    pair = OFFERED[wanted or "think"]
    texts = [pair.open, pair.close, *_missing_tags(base)]
    free = [*_behind(base), *_reserved(base)]
    if len(free) < 2:
        return MarkerPlan(
            pair,
            f"{pair.open} and {pair.close} as plain text in several tokens: the vocabulary has no spare rows",
        )
    given = dict(zip(texts if len(free) >= len(texts) else texts[:2], free, strict=False))
    rows = {text: row for text, (row, _) in given.items()}
    renamed = {text: name for text, (_, name) in given.items() if name}
    where = "rows that the vocabulary has reserved" if renamed else "spare rows of the embedding"
    return MarkerPlan(pair, f"{pair.open} and {pair.close} as a token each, in {where}", rows, renamed)


def _own(base: Base) -> MarkerText | None:
    tokenizer = base.tokenizer
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else [template]
    for text in texts:
        try:
            found = resolve_markers(
                vocabulary=tokenizer.get_vocab(),
                encode=lambda text: tokenizer.encode(text, add_special_tokens=False),
                chat_template=text,
                eos_ids=(),
            )
        except NoMarkersError:
            continue
        pairs = [m for m in KNOWN_MARKERS if (m.open, m.close) == (found.open_text, found.close_text)]
        return pairs[0]
    return None


def _missing_tags(base: Base) -> Sequence[str]:
    """The tags of ChatML, for a base whose chat template has to be made and whose vocabulary lacks them."""
    if base.tokenizer.chat_template is not None:
        return ()
    return [tag for tag in (START, END) if tag not in base.tokenizer.get_vocab()]


def _behind(base: Base) -> list[tuple[int, str]]:
    """Rows behind the tokenizer's last id."""
    return [(row, "") for row in range(max(base.tokenizer.get_vocab().values()) + 1, base.rows)][:8]


def _reserved(base: Base) -> list[tuple[int, str]]:
    """Reserved tokens that nothing uses, with their rows."""
    tokenizer: Any = base.tokenizer
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return []
    used = {text for text in tokenizer.special_tokens_map.values() if isinstance(text, str)}
    template = str(tokenizer.chat_template)
    return [
        (row, text)
        for row, token in sorted(tokenizer.added_tokens_decoder.items())
        if _RESERVED.fullmatch(text := str(token.content)) and re.search(r"\d", text)
        if row < base.rows and text not in used and text not in template
    ]
