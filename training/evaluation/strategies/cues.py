"""The words that strategies put into a model's mouth, and how a probed answer is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cues:
    """The words that strategies put into a model's mouth, and how a probe's answer is read.

    Attributes:
        wait: what S1 writes in place of a close.
        probe: what early exit writes to ask for the answer so far (the default is Dynasor's).
        probe_closes: the probe stands behind a close, as a solution does.
        probe_tokens: at most this many tokens are sampled for an answer.
        read: the answer in them, or None when there is none, or none that is certain.
        wrap_up: what `elastic:wrap_up=1` writes before a forced close, or a profile's name.
    """

    wait: str = "Wait"
    probe: str = "... Oh, I suddenly got the answer to the whole problem, **Final Answer**\n\n\\[ \\boxed{"
    probe_closes: bool = False
    probe_tokens: int = 20
    read: Callable[[str], str | None] = lambda text: boxed_rest(text)
    wrap_up: str = "Time is up: answer now."


HEDGES = ("wait", "hold", "but", "okay", "no", "hmm")
"""A probe's answer that goes on with one of these is none (Dynasor's list)."""


def boxed_rest(text: str) -> str | None:
    """What stands before the brace that closes an already open `\\boxed{`; None with a hedge behind it."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            words = text[i:].lower().replace(",", " ").replace(".", " ").split()
            return text[:i].strip() or None if not set(words) & set(HEDGES) else None
    return None
