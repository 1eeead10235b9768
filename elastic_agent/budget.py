"""What a call and a task may spend.

`Budget` limits one call in tokens, per segment (thinking, solution). `Caps` limits a whole task in any
subset of money, time and tokens. Both are values: checked when made, never changed afterwards.

Money is integer nano-dollars inside (1 USD = 1_000_000_000), `Decimal` at the edge, never float
arithmetic: a float given as `usd=` is read through its shortest decimal form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Context, Decimal

from .errors import InvalidBudgetError, InvalidCapsError
from .validation import MOST_SECONDS, MOST_TOKENS, integer, money, put, real, shown

NANO = 1_000_000_000
_FLOOR = Context(prec=60, rounding=ROUND_FLOOR)
"""Wide enough for every amount that `money` lets through: no rounding before the floor."""


def to_nanodollars(usd: Decimal | float | int | str) -> int:
    """Dollars as whole nano-dollars, rounded down (a cap is never loosened by rounding).

    Raises:
        InvalidCapsError: `usd` is not a number, not finite, negative or above `validation.MOST_USD`.
    """
    exact = money("usd", usd, error=InvalidCapsError)
    return int(exact.scaleb(9, _FLOOR).to_integral_value(ROUND_FLOOR, _FLOOR))


def to_usd(nanodollars: int) -> Decimal:
    """Nano-dollars as exact decimal dollars."""
    return Decimal(nanodollars) / NANO


@dataclass(frozen=True, slots=True)
class Budget:
    """The two limits of one call, in tokens (Elastic Reasoning, arXiv 2505.05315, section 3).

    Args:
        thinking: at most this many sampled tokens before the forced close; 0 closes at once; None leaves
            thinking limited by the model's context alone (`bounded` turns it into a number).
        solution: at most this many tokens after the close, the end-of-text token included; at least 1.

    Raises:
        InvalidBudgetError: a negative or non-integer limit, or a solution of less than one token.
    """

    thinking: int | None
    solution: int

    def __post_init__(self) -> None:
        if self.thinking is not None:
            put(self, "thinking", integer("thinking", self.thinking, error=InvalidBudgetError))
        put(self, "solution", integer("solution", self.solution, least=1, error=InvalidBudgetError))

    def bounded(self, room: int, close: int) -> Budget:
        """This budget with thinking as a number that fits into `room` tokens together with the close.

        Args:
            room: tokens that the model's context has left after the prompt.
            close: length of the close marker, in tokens.

        Raises:
            InvalidBudgetError: not even the solution fits.
        """
        most = room - close - self.solution
        if most < 0:
            raise InvalidBudgetError(
                f"the prompt leaves {room} tokens of context; the close ({close}) and the solution "
                f"({self.solution}) do not fit: shorten the prompt or lower the solution budget"
            )
        thinking = most if self.thinking is None else min(self.thinking, most)
        return replace(self, thinking=thinking)


@dataclass(frozen=True, slots=True)
class Caps:
    """What a task may spend, in any subset of three units.

    Args:
        usd: money, in dollars; covers everything that the upstream bills, input included.
        seconds: wall-clock time from the task's start to its last token.
        tokens: tokens generated or forced: thinking, close and solution of every call. Prompts are
            limited through `usd`.

    Raises:
        InvalidCapsError: no cap at all, or one that is negative, zero, not finite or of the wrong type.
    """

    usd: Decimal | float | int | str | None = None
    seconds: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.usd is None and self.seconds is None and self.tokens is None:
            raise InvalidCapsError(
                "set at least one of usd=, seconds=, tokens=: a task without a cap is not capped"
            )
        if self.usd is not None:
            money("usd", self.usd, above=True, error=InvalidCapsError)
            if to_nanodollars(self.usd) == 0:
                raise InvalidCapsError(f"usd must be at least 0.000000001 dollars, got {shown(self.usd)}")
        if self.seconds is not None:
            seconds = real(
                "seconds", self.seconds, above=True, most=MOST_SECONDS, of="seconds", error=InvalidCapsError
            )
            put(self, "seconds", seconds)
        if self.tokens is not None:
            tokens = integer("tokens", self.tokens, least=1, most=MOST_TOKENS, error=InvalidCapsError)
            put(self, "tokens", tokens)

    @property
    def nanodollars(self) -> int | None:
        """The money cap in nano-dollars, or None."""
        return None if self.usd is None else to_nanodollars(self.usd)
