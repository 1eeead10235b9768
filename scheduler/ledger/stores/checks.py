"""Checks of the arguments of a store's steps: the limits that protocol.py names. Each raises StoreError."""

from __future__ import annotations

import math
from collections.abc import Sequence

from elastic_agent.errors import StoreError

from ..amounts import Amount
from .protocol import MOST, Spec


def check_path(path: Sequence[Spec]) -> None:
    if not path:
        raise StoreError("open: the path is empty; at least the root account is needed")
    if len({spec.id for spec in path}) < len(path):
        raise StoreError(f"open: an account can't be above itself: {', '.join(spec.id for spec in path)}")
    for spec in path:
        check_name("account", spec.id)
        check_caps(spec.tokens, spec.nano)
        if spec.seconds is not None:
            check_time("seconds", spec.seconds)
        if spec.window not in (None, "day", "month"):
            raise StoreError(f"account {spec.id!r}: window is 'day' or 'month', not {spec.window!r}")


def check_name(what: str, name: str) -> None:
    try:
        name.encode()  # fails on half of a surrogate pair
    except UnicodeEncodeError as error:
        raise StoreError(f"{what} {name[:40]!r}: {error}") from None
    if not 1 <= len(name) <= 500 or "\0" in name:
        raise StoreError(f"{what} {name[:40]!r}: 1 to 500 characters, none of them NUL")


def _whole(what: str, number: object) -> None:
    if not isinstance(number, int) or not 0 <= number <= MOST:
        raise StoreError(f"{what} is a whole number from 0 to {MOST}, not {number!r}")


def check_amount(amount: Amount) -> None:
    _whole("tokens", amount.tokens)
    _whole("nano", amount.nano)


def check_caps(tokens: int | None, nano: int | None) -> None:
    for what, cap in (("tokens", tokens), ("nano", nano)):
        if cap is not None:
            _whole(f"a cap on {what}", cap)


def check_time(what: str, seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise StoreError(f"{what}: finite and not negative, not {seconds!r}")
    return float(seconds)
