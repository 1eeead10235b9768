"""What tokens cost: prices in dollars per million tokens, charges in whole nano-dollars, rounded up.

A price is looked up in this order: the call's own, the scheduler's own, the scheduler's mapping by model
name, the notional prices of the embedded models, and the `genai-prices` list (its bundled copy: no network).
A task with a money cap and a model without a price is an error (law 8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache

from elastic_agent.errors import InvalidValueError, UnknownPriceError
from elastic_agent.usage import Usage
from elastic_agent.validation import money, shown

Money = Decimal | str | int | float
_MOST_PRICE = 1_000_000
_PLENTY = 2**62
_SCALE = 1_000_000  # prices are kept as integers of a millionth of a nano-dollar per token


def _rate(name: str, usd_per_million: Money) -> int:
    """USD per million tokens -> 1e-15 USD per token, rounded up."""
    price = money(f"{name} (USD per million tokens)", usd_per_million, most=_MOST_PRICE)
    return int((price * 1_000_000_000).to_integral_value(rounding=ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in USD per million tokens (Decimal or str; a float is read as it prints).

    Args:
        input: input tokens of every pass; the second pass reads prompt, thinking and close again.
        output: sampled tokens; a forced close is input, never output.
        cached_input: input from the upstream's prefix cache; None: the same as `input`. A hold assumes no
            cache hit.
        source: where the price comes from, for people.
        cache_write: input that a provider wrote to its cache; None: the same as `input`. A hold assumes the
            dearest input.

    Raises:
        InvalidValueError: a price is no number, negative, or above 1,000,000 USD per million tokens.
    """

    input: Money
    output: Money
    cached_input: Money | None = None
    source: str = field(default="given", compare=False)
    cache_write: Money | None = None
    _in: int = field(init=False, repr=False, compare=False)
    _out: int = field(init=False, repr=False, compare=False)
    _cached: int = field(init=False, repr=False, compare=False)
    _written: int = field(init=False, repr=False, compare=False)
    _dearest: int = field(init=False, repr=False, compare=False)
    per_thinking_token: float = field(init=False, repr=False, compare=False)
    """Nano-dollars of one more thinking token: sampled in the first pass, read again in the second."""

    def __post_init__(self) -> None:
        into, out = _rate("input", self.input), _rate("output", self.output)
        cached = into if self.cached_input is None else _rate("cached_input", self.cached_input)
        written = into if self.cache_write is None else _rate("cache_write", self.cache_write)
        rates = {"_in": into, "_out": out, "_cached": cached, "_written": written}
        rates["_dearest"] = max(into, cached, written)  # bounds an input token, cached or not
        for name, rate in rates.items():
            object.__setattr__(self, name, rate)
        object.__setattr__(self, "per_thinking_token", (into + out) / _SCALE)

    @classmethod
    def parse(cls, text: str) -> Price:
        """IN:OUT or IN:OUT:CACHED, in USD per million tokens, as commands take prices.

        Raises:
            InvalidValueError: the text is something else.
        """
        parts = text.split(":")
        if len(parts) not in (2, 3):
            raise InvalidValueError(
                f"a price is IN:OUT or IN:OUT:CACHED, in USD per million tokens, such as 0.10:0.40, "
                f"not {shown(text)}"
            )
        return cls(*parts)

    def charge(self, usage: Usage) -> int:
        """Nano-dollars for what was used, rounded up."""
        cached = min(usage.cached, usage.metered_input)
        written = min(usage.cache_written, usage.metered_input - cached)
        fresh = usage.metered_input - cached - written
        read = fresh * self._in + cached * self._cached + written * self._written
        return -(-(read + usage.metered_output * self._out) // _SCALE)

    def worst(self, usage: Usage) -> int:
        """Nano-dollars for this usage if nothing is cached: what a hold takes."""
        return self.bound(usage.metered_input, usage.metered_output)

    def bound(self, input: int, output: int) -> int:
        """Nano-dollars for these metered tokens if nothing is cached."""
        return -(-(input * self._dearest + output * self._out) // _SCALE)

    def more(self, nano: int, input: int, output: int, *, read_again: bool) -> int:
        """How many more sampled tokens `nano` pays for beside this input and output, if nothing is cached.

        Args:
            read_again: a second pass reads the tokens, as it reads thinking.

        Returns:
            below zero if `nano` doesn't pay for this input and output; a huge number if tokens are free.
        """
        left = nano * _SCALE - input * self._dearest - output * self._out
        each = self._out + (self._dearest if read_again else 0)
        return left // each if each else (_PLENTY if left >= 0 else -1)


NOTIONAL: Mapping[str, Price] = {
    name: Price("0.50", "2.00", source="notional") for name in ("e1-tiny", "e1-tiny-base")
}
"""The embedded models are free. So that a money cap means something in a demo or a test, they cost as much as
a small hosted model of 2025; set `price=` to change the price."""


@cache
def listed(model: str) -> Price | None:
    """The `genai-prices` entry of a model, or None. The dearest tier counts: a cap must hold in all tiers."""
    from genai_prices import data_snapshot
    from genai_prices.types import TieredPrices

    try:
        provider, info = data_snapshot.get_snapshot().find_provider_model(model, None, None, None)
    except LookupError:
        return None
    prices = info.get_prices(datetime.now(UTC))

    def dearest(value: Decimal | TieredPrices | None) -> Decimal | None:
        if isinstance(value, TieredPrices):
            return max([value.base, *(tier.price for tier in value.tiers)])
        return value

    into, out = dearest(prices.input_mtok), dearest(prices.output_mtok)
    if into is None or out is None:
        return None
    return Price(
        into,
        out,
        dearest(prices.cache_read_mtok),
        source=f"genai-prices: {provider.id}/{info.id}",
        cache_write=dearest(prices.cache_write_mtok),
    )


def check_price(price: object, name: str = "price") -> None:
    """Refuse anything but a Price or None: a bare number does not say whether it is for input or output.

    Raises:
        InvalidValueError: the value is neither.
    """
    if price is not None and not isinstance(price, Price):
        raise InvalidValueError(
            f"{name} must be Price(input, output), in USD per million tokens, not {shown(price)}"
        )


def find_price(
    model: str,
    *,
    own: Price | None = None,
    default: Price | None = None,
    prices: Mapping[str, Price] | None = None,
) -> Price | None:
    """The price of a model, in the order of the module's docstring; None: no source knows the model."""
    if own is not None:
        return own
    if default is not None:
        return default
    if prices and model in prices:
        return prices[model]
    return NOTIONAL.get(model) or listed(model)


def require_price(price: Price | None, model: str) -> Price:
    """The price, for a task with a money cap.

    Raises:
        UnknownPriceError: there is no price.
    """
    if price is None:
        raise UnknownPriceError(
            f"the task has a usd cap and nothing says what {model!r} costs: pass "
            f"price=Price(input=, output=), in USD per million tokens, to the scheduler or the call, or "
            f"prices={{{model!r}: Price(...)}}; or cap tokens= and seconds= instead"
        )
    return price
