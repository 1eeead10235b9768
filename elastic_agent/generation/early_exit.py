"""Stop thinking when the answer no longer changes (as Dynasor does, arXiv 2412.20993); off by default.

    stable = EarlyExit(every=256, lead="The final answer is")
    await generate(backend, prompt, Budget(thinking=4096, solution=512), early_exit=stable)

Every `every` thinking tokens the model is probed for its answer as if its thinking were cut there: the close
and the lead are spliced in, and a few tokens are sampled greedily. The probe's tokens are discarded, and
counted. When `patience` answers in a row are the same, thinking ends (`ThinkingEnd.STABLE`) and the solution
follows, under its whole budget. Otherwise thinking goes on in a further pass. The unused part of the hold is
refunded.

Early exit pays where thinking is long beside these answers and the server caches prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidBudgetError
from ..usage import Probes
from ..validation import integer, put

if TYPE_CHECKING:
    from ..backends.base import Codec


def plain(text: str) -> str | None:
    """An answer without case, blanks and final punctuation, so that answers which differ only there are
    equal; None for an empty answer."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".!").casefold() or None


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """When thinking ends because its answer is stable; see the module.

    Attributes:
        every: thinking tokens between two probes.
        patience: how many equal answers in a row end thinking.
        tokens: the most tokens that are sampled for a probe's answer.
        lead: text after the close that begins the answer, so that the answer comes at once.
        read: returns the answer in a probe's text, or None where there is none.

    Raises:
        InvalidBudgetError: fewer than 16 tokens between two probes, patience below 2, or no token for them.
    """

    every: int = 256
    patience: int = 3
    tokens: int = 32
    lead: str = ""
    read: Callable[[str], str | None] = plain

    def __post_init__(self) -> None:
        for name, least in (("every", 16), ("patience", 2), ("tokens", 1)):
            of = "equal answers" if name == "patience" else "tokens"
            put(self, name, integer(name, getattr(self, name), least=least, of=of, error=InvalidBudgetError))

    def to_dict(self) -> dict[str, int | str]:
        """Its fields, for JSON; a function by its name."""
        read = f"{self.read.__module__}.{self.read.__qualname__}"
        return {
            "every": self.every,
            "patience": self.patience,
            "tokens": self.tokens,
            "lead": self.lead,
            "read": read,
        }

    def probes(self, codec: Codec) -> Probes:
        """What the probes cost on a model."""
        return Probes(self.every, self.tokens, len(codec.encode(self.lead)) if self.lead else 0)

    def stable(self, texts: Sequence[str]) -> bool:
        """Whether the latest `patience` probes have the same answer."""
        answers = {self.read(text) for text in texts[-self.patience :]}
        return len(texts) >= self.patience and len(answers) == 1 and None not in answers
