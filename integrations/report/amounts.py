"""Amounts as people read them."""

from __future__ import annotations

from collections.abc import Mapping

_FORMS = {"usd": "${:.6f}", "tokens": "{:,.0f} tokens", "seconds": "{:.2f} s"}


def amount(unit: str, value: float) -> str:
    """One amount: dollars to a millionth, whole tokens, seconds to a hundredth."""
    return _FORMS[unit].format(value)


def amounts(found: Mapping[str, float]) -> str:
    """Several, by unit, without those that are zero; "" where all are."""
    return ", ".join(amount(unit, value) for unit, value in found.items() if value)
