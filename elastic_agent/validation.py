"""Numbers that people and clients write: one check for all of them, before any arithmetic.

Every number from outside goes through `integer`, `real` or `money`: constructor arguments, call options,
headers, request bodies, command lines, configs. The rules are the same everywhere:

- a number, or its plain decimal text ("100", "0.05", "1e-3"): ASCII, at most 40 characters, an exponent of at
  most three digits; no bool, no NaN, no infinity, no underscores, no "1,000";
- a whole number is an int (or its text), not 3.0;
- in range; 0 means 0, never "left out".

`argument` makes an argparse type of a check, `field` a pydantic validator.

A huge int or a huge exponent is refused by its length, so no input can make the arithmetic or the message
slow. The limits on money and tokens keep every amount of the ledger exact in all stores: below 2**53, the
largest integer that Redis' scripts can count.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from .errors import ElasticError, InvalidValueError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BeforeValidator

T = TypeVar("T")

MOST_CALL_TOKENS = 2**31 - 1
"""The largest token limit of one call."""
MOST_TOKENS = 10**12
"""The largest token cap of a task or an account."""
MOST_USD = 5_000_000
"""The largest money cap, in dollars: 5e15 nano-dollars."""
MOST_SECONDS = 10**8
"""The longest time limit: three years."""

MOST_PORT = 65_535
"""The largest TCP port; 0 takes a free one."""

_MOST_TEXT = 40
_MOST_BITS = 128
_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", re.ASCII)


def shown(value: object) -> str:
    """A value for an error message: its repr, cut short; huge numbers by their size alone."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, Decimal):
        digits = value.as_tuple().digits
        return repr(str(value)) if len(digits) <= _MOST_TEXT else f"a number of {len(digits)} digits"
    if isinstance(value, list | tuple | dict | set | bytes):
        return f"a {type(value).__name__}"
    if isinstance(value, str) and len(value) > _MOST_TEXT:
        return f"{value[:_MOST_TEXT]!r}... ({len(value)} characters)"
    text = repr(value)
    return text if len(text) <= 2 * _MOST_TEXT else f"{text[: 2 * _MOST_TEXT]}..."


def integer(
    name: str,
    value: object,
    *,
    least: int = 0,
    most: int = MOST_CALL_TOKENS,
    of: str = "tokens",
    error: type[ElasticError] = InvalidValueError,
) -> int:
    """The value as an int from `least` to `most`.

    Args:
        name: what the message calls the value.
        value: an int, or its text.
        least, most: the range, both ends included.
        of: what is counted, for the message ("" for nothing in particular).
        error: what is raised.

    Raises:
        InvalidValueError: or `error`: not a whole number, or out of range. The message says what is allowed.
    """
    found: int | None = None
    if type(value) is int:  # nearly always, and `SupportsIndex` takes 10 microseconds to look for
        found = value
    elif isinstance(value, str):
        text = value.strip()
        if len(text) <= _MOST_TEXT and _WHOLE.fullmatch(text):
            found = int(text)
    elif not _is_bool(value) and isinstance(value, SupportsIndex):
        found = operator.index(value)
    if found is None:
        counted = f"a whole number of {of}" if of else "a whole number"
        raise error(f"{name} must be {counted} from {least} to {most}, not {shown(value)}")
    if found < least:
        raise error(f"{name} must be at least {least} {of}".rstrip() + f", got {shown(found)}")
    if found > most:
        raise error(f"{name} must be at most {most} {of}".rstrip() + f", got {shown(found)}")
    return found


def real(
    name: str,
    value: object,
    *,
    least: float = 0.0,
    most: float = math.inf,
    above: bool = False,
    of: str = "",
    error: type[ElasticError] = InvalidValueError,
) -> float:
    """The value as a finite float from `least` to `most`.

    Args:
        name: what the message calls the value.
        value: an int, a float or another real number, or its text.
        least, most: the range; `most` included, `least` too unless `above` is set.
        above: the value must be more than `least`.
        of: the unit, for the message.
        error: what is raised.

    Raises:
        InvalidValueError: or `error`: not a number, not finite, or out of range.
    """
    exact = _number(name, value, of, error)
    found = float(exact)
    # Compared in Decimal: a positive number that is too small for a float is not 0
    if exact < Decimal(least) or (above and (exact == Decimal(least) or found <= least)):
        bound = f"more than {least:g}" if above else f"at least {least:g}"
        raise error(f"{name} must be {bound} {of}".rstrip() + f", got {shown(value)}")
    if found > most or not math.isfinite(found):
        raise error(f"{name} must be at most {most:g} {of}".rstrip() + f", got {shown(value)}")
    return found


def money(
    name: str,
    value: object,
    *,
    most: int = MOST_USD,
    above: bool = False,
    error: type[ElasticError] = InvalidValueError,
) -> Decimal:
    """The value as an exact amount of dollars, from 0 to `most`.

    Args:
        name: what the message calls the value.
        value: a Decimal, an int, a float (read as it prints), or its text.
        most: the largest amount, in dollars.
        above: the amount must be more than 0.
        error: what is raised.

    Raises:
        InvalidValueError: or `error`: not a number, not finite, negative or above `most`.
    """
    exact = _number(name, value, "dollars", error)
    if exact < 0 or (above and exact == 0):
        bound = "more than" if above else "at least"
        raise error(f"{name} must be {bound} 0 dollars, got {shown(value)}")
    if exact > most:
        raise error(f"{name} must be at most {most} dollars, got {shown(value)}")
    return exact


def one_of(
    name: str, value: object, options: Iterable[str], error: type[ElasticError] = InvalidValueError
) -> str:
    """The value, which is one of the options.

    Raises:
        InvalidValueError: or `error`: it is none of them. The message lists them, the nearest one first.
    """
    known = list(options)
    if isinstance(value, str) and value in known:
        return value
    hint = did_you_mean(value[:_MOST_TEXT], known) if isinstance(value, str) else ""
    raise error(f"{name} must be one of {', '.join(known)}, not {shown(value)}; {hint}".rstrip("; "))


def argument(check: Callable[..., T], **limits: Any) -> Callable[[str], T]:
    """A check as the `type=` of an argparse option; argparse names the option in its message."""
    from argparse import ArgumentTypeError

    def read(text: str) -> T:
        try:
            return check("the value", text, **limits)
        except ElasticError as error:
            raise ArgumentTypeError(str(error).removeprefix("the value ")) from None

    return read


def field(check: Callable[..., Any], **limits: Any) -> BeforeValidator:
    """A check as a pydantic field's validator: `Annotated[int, field(integer, least=1)]`."""
    from pydantic import BeforeValidator, ValidationInfo

    def read(value: object, info: ValidationInfo) -> Any:
        return check(info.field_name or "the value", value, **limits)

    return BeforeValidator(read)


def put(value: object, name: str, checked: object) -> None:
    """Set a field of a frozen dataclass to its checked form, in `__post_init__`."""
    object.__setattr__(value, name, checked)


def _number(name: str, value: object, of: str, error: type[ElasticError]) -> Decimal:
    """A finite number as a Decimal of bounded length."""
    exact = _exact(value)
    if exact is not None:
        return exact
    if _is_endless(value):
        raise error(f"{name} must be finite, got {shown(value)}")
    number = f"a number of {of}" if of else "a number"
    raise error(f"{name} must be {number}, like 20 or 0.05, not {shown(value)}")


def _is_endless(value: object) -> bool:
    """NaN or infinite, as a number or as its text."""
    if isinstance(value, str):
        return value.strip().lstrip("+-").lower() in ("nan", "inf", "infinity")
    if isinstance(value, Decimal):
        return not value.is_finite()
    return isinstance(value, float) and not math.isfinite(value)


def _exact(value: object) -> Decimal | None:
    """A finite number as a Decimal of bounded length; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        return Decimal(text) if len(text) <= _MOST_TEXT and _REAL.fullmatch(text) else None
    if _is_bool(value):
        return None
    if type(value) is int:
        return Decimal(value) if value.bit_length() <= _MOST_BITS else None
    if isinstance(value, Decimal):
        short = value.is_finite() and len(value.as_tuple().digits) <= _MOST_BITS
        return value if short and abs(value.adjusted()) < 1000 else None
    if isinstance(value, SupportsIndex):
        found = operator.index(value)
        return Decimal(found) if found.bit_length() <= _MOST_BITS else None
    if isinstance(value, Real):
        number = float(value)
        return Decimal(repr(number)) if math.isfinite(number) else None
    return None


def _is_bool(value: object) -> bool:
    """True and False, numpy's too: they count as ints in Python, and nobody means them as numbers."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
