"""The known pairs of thinking markers, as text: add a family of models here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidMarkersError


@dataclass(frozen=True, slots=True)
class MarkerText:
    """A pair of markers as text, with the models that are known to use it.

    Attributes:
        open: what begins thinking; "" where nothing does.
        close: what ends it.
        used_by: the models, for people.
        name: what to call the pair (`marker_text`).
        answer: what a model that answers without thinking writes in place of `open`.
        closes_before: (close, what follows): the first text ends thinking where the second one follows; the
            second one belongs to the solution.
        tokens: a model uses this pair if its vocabulary has all of these as tokens (default: the close).
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
    """The known pairs as a sentence, for error messages."""
    return "; ".join(f"{m.open.strip()} {m.close} ({m.used_by})" for m in KNOWN_MARKERS)
