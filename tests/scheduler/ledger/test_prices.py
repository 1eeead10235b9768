"""Prices: where they come from, and that rounding never loosens a cap."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given

from elastic_agent.errors import UnknownPriceError
from elastic_agent.scheduler.ledger.prices import NOTIONAL, Price, find_price, listed, require_price
from elastic_agent.usage import Usage, worst_case

PRICES = st.decimals(0, 1000, places=4, allow_nan=False, allow_infinity=False)
TOKENS = st.integers(0, 10**7)


@given(PRICES, PRICES, PRICES, TOKENS, TOKENS, TOKENS)
def test_charges_are_exact_and_rounded_up(
    into: Decimal, out: Decimal, cached: Decimal, input: int, output: int, hits: int
) -> None:
    """The charge is the smallest whole number of nano-dollars that covers the exact price."""
    usage = Usage(thinking=output, input=input, cached=min(hits, input))
    fresh = input - usage.cached
    exact = 1000 * (fresh * Fraction(into) + usage.cached * Fraction(cached) + output * Fraction(out))
    charge = Price(into, out, cached).charge(usage)
    assert exact <= charge < exact + 1
    assert charge <= Price(into, out, cached).worst(usage)


@given(
    PRICES,
    PRICES,
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(0, 3),
    st.integers(1, 200),
    st.data(),
)
def test_a_hold_covers_whatever_the_call_comes_to(
    into: Decimal, out: Decimal, prompt: int, thinking: int, close: int, solution: int, data: st.DataObject
) -> None:
    """The worst case of a budget costs at least as much as every usage within it."""
    used = data.draw(st.integers(0, thinking))
    forced = data.draw(st.booleans())
    answer = data.draw(st.integers(0, solution))
    passes = 2 if thinking else 1
    usage = Usage(
        prompt=prompt,
        thinking=used,
        close=close,
        forced=close if forced else 0,
        solution=answer,
        input=(prompt if thinking else 0) + prompt + used + close,
        passes=passes,
    )
    if not forced and used + close > thinking:
        return  # a natural close is sampled within the limit
    assert Price(into, out).charge(usage) <= Price(into, out).worst(
        worst_case(prompt, thinking, close, solution)
    )


def test_the_order_of_look_up() -> None:
    """The call's own, the scheduler's, the mapping, the notional one, the list."""
    own, default, mapped = Price(1, 1), Price(2, 2), Price(3, 3)
    prices = {"e1-tiny": mapped}
    assert find_price("e1-tiny", own=own, default=default, prices=prices) is own
    assert find_price("e1-tiny", default=default, prices=prices) is default
    assert find_price("e1-tiny", prices=prices) is mapped
    assert find_price("e1-tiny") is NOTIONAL["e1-tiny"]
    assert find_price("no-such-model-anywhere") is None


def test_hosted_models_are_priced_by_the_list() -> None:
    """genai-prices, per million tokens, its dearest tier."""
    price = listed("gpt-4o")
    assert price is not None
    assert (price.input, price.output, price.cached_input) == (Decimal("2.5"), Decimal(10), Decimal("1.25"))
    assert "genai-prices" in price.source
    tiered = listed("claude-sonnet-4-5")
    assert tiered is not None
    assert Decimal(str(tiered.input)) > 3


def test_cached_input_has_its_own_price_but_a_hold_never_counts_on_it() -> None:
    """1000 tokens, 900 of them cached."""
    price = Price("1", "2", "0.1")
    usage = Usage(input=1000, cached=900)
    assert price.charge(usage) == 100 * 1000 + 900 * 100
    assert price.worst(usage) == 1000 * 1000


def test_input_that_is_written_to_a_cache_may_be_dearer() -> None:
    """Claude and some of OpenAI's bill it so; a hold counts on it. Without a price of its own it is input."""
    usage = Usage(input=1000, cached=300, cache_written=600)
    dear = Price("4", "2", "0.4", cache_write="5")
    assert dear.charge(usage) == 100 * 4000 + 300 * 400 + 600 * 5000
    assert dear.worst(usage) == 1000 * 5000
    assert Price("4", "2", "0.4").charge(usage) == 700 * 4000 + 300 * 400
    found = listed("claude-opus-4-5")
    assert found is not None
    assert (found.input, found.cache_write) == (Decimal(5), Decimal("6.25"))


def test_an_unknown_price_says_what_to_set() -> None:
    """Law 8."""
    with pytest.raises(UnknownPriceError, match=r"price=Price\(input=, output=\).*'m'"):
        require_price(None, "m")


@pytest.mark.parametrize("bad", ["-1", "nan", "x", "inf"])
def test_bad_prices(bad: str) -> None:
    """Refused when made."""
    with pytest.raises(ValueError, match="USD per million tokens"):
        Price(bad, 1)
