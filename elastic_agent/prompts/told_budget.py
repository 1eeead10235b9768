"""What a prompt says of the budget that is left: the same words in training, evaluation and production.

    words = budget_words(True, tokens=812, usd=Decimal("0.0129"))    "(about 810 tokens and $0.012 left)"
    behind([{"role": "user", "content": "2 + 2?"}], words)           its content ends with the words

The words stand behind the last message and nowhere else, so no earlier message holds an old number. Numbers
are rounded down to two significant digits: few different prompts, and never more than there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from string import Formatter
from typing import Any, TypeVar, cast

from ..budget import NANO, to_usd
from ..errors import InvalidValueError
from ..validation import shown

Tell = bool | str
"""Whether a model is told what is left: True (the standard words), False, or words of one's own."""

STANDARD = {"tokens": "{} tokens", "usd": "${}", "seconds": "{} seconds"}
"""The units, each with the standard words for an amount of it."""
FINAL_WORDS = "final answer now"
"""What the standard words add where the call is its task's final answer."""
UNLIMITED = "unlimited"
"""What own words get for a unit without a cap."""

P = TypeVar("P", bound=str | Sequence[int] | Sequence[Mapping[str, Any]])


def check_tell(tell: object) -> None:
    """Refuse what is no `Tell`.

    Raises:
        InvalidValueError: neither True, False nor words, or words with something else than a unit in braces.
    """
    if isinstance(tell, bool):
        return
    known = ", ".join(f"{{{unit}}}" for unit in STANDARD)
    if not isinstance(tell, str) or not tell.strip():
        raise InvalidValueError(f"tell is True, False, or words with {known}, not {shown(tell)}")
    try:
        fields = [field[1:] for field in Formatter().parse(tell)]
    except ValueError:
        fields = [("", "", None)]
    if any(name not in (None, *STANDARD) or spec or conversion for name, spec, conversion in fields):
        raise InvalidValueError(
            f"tell: {shown(tell)} may hold {known} (what is left: the call's own grant isn't known yet), and "
            f"a brace as {{{{ or }}}}"
        )


def budget_words(
    tell: Tell,
    *,
    tokens: int | None = None,
    usd: Decimal | None = None,
    seconds: float | None = None,
    final: bool = False,
) -> str:
    """What a model is told; "" under False.

    Args:
        tokens, usd, seconds: what is left; None: there is no cap. The standard words leave such a unit out.
        final: the call is the final answer. Only the standard words say so.
    """
    if tell is False:
        return ""
    left = {}
    if tokens is not None:
        left["tokens"] = str(_rounded(tokens))
    if usd is not None:
        left["usd"] = f"{to_usd(_rounded(int(usd * NANO))).normalize():f}"
    if seconds is not None:
        left["seconds"] = str(_rounded(int(seconds)))
    if isinstance(tell, str):
        return tell.format(**dict.fromkeys(STANDARD, UNLIMITED) | left)
    *first, last = [STANDARD[unit].format(amount) for unit, amount in left.items()] or [""]
    said = [f"about {', '.join(first)} and {last} left" if first else f"about {last} left"] if last else []
    said += [FINAL_WORDS] if final else []
    return f"({'; '.join(said)})" if said else ""


def _rounded(number: int) -> int:
    """The number rounded down to two significant digits."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def behind(prompt: P, words: str) -> P:
    """The prompt with the words behind it: behind a text, or a conversation's last message.

    Unchanged are ids, which their caller has rendered, and a conversation that the assistant has the last
    word in.
    """
    if not words or not prompt:
        return prompt
    if isinstance(prompt, str):
        return cast("P", content_behind(prompt, words))
    last = prompt[-1]
    if not isinstance(last, Mapping) or last.get("role") == "assistant":
        return prompt
    said = {**last, "content": content_behind(last.get("content"), words)}
    return cast("P", [*prompt[:-1], said])


def content_behind(content: Any, words: str) -> Any:
    """A message's content, text or parts, with the words behind it."""
    if not words or not content:
        return words or content
    if isinstance(content, str):
        return f"{content} {words}"
    return [*content, {"type": "text", "text": f" {words}"}]
