"""Reference answers as the sets write them, made into one string that a math grader can parse.

The string stays faithful: values are never evaluated or rounded. What changes is notation that a LaTeX parser
misreads: $ signs around a formula, a box around the whole, a full stop at the end, 142.0 for an integer, 1e11
(which reads as 1 times Euler's e times 11).
"""

from __future__ import annotations

import ast
import math
import re
from typing import Any

from .files import Row


class Unusable(Exception):
    """This row can't become a problem; the message says why. `load` counts such rows or makes it an error."""


_FORMULA = re.compile(r"(?<!\\)\$\$?((?:\\.|[^$\\])+)\$\$?", re.DOTALL)
_BETWEEN = re.compile(r"[\s,;.]*")
_EXPONENT = re.compile(r"([+-]?\d+(?:\.\d*)?)[eE]([+-]?\d+)")
# What sets write where there is no answer to check.
_NONE = {"", "proof", "notfound", "none", "null", "nan", "n/a"}


def clean_answer(value: Any) -> str | None:
    """One value as a string, None when there is none. Raises Unusable for what is no value at all."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable(f"the answer must be text or a number, not {type(value).__name__}")
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value
    text = _unboxed(text_of(str(value), "the answer"))
    if text.lower() in _NONE:
        return None
    # Only formulas and commas: the $ signs carry nothing. Beside words ("$x$, where $b$ ...") they do.
    if "$" in text and _BETWEEN.fullmatch(_FORMULA.sub("", text)):
        text = _FORMULA.sub(lambda found: found[1].strip(), text)
    elif len(re.findall(r"(?<!\\)\$", text)) % 2 and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]{3}", text):
        # A $ sign too many ("$221,$8$" in OlympiadBench), or a price.
        text = re.sub(r"(?<!\\)\$", "", text)
    text = text.rstrip(".").strip() or text
    if found := _EXPONENT.fullmatch(text):
        text = f"{found[1]} \\times 10^{{{int(found[2])}}}"
    return text


def _unboxed(text: str) -> str:
    """What is in a \\boxed{...} that spans the whole text."""
    inner = text.strip("$ ")
    if not inner.startswith("\\boxed{") or not inner.endswith("}"):
        return text
    depth = 0
    for at, letter in enumerate(inner):
        depth += (letter == "{") - (letter == "}")
        if letter == "}" and depth == 0:
            return inner[7:-1].strip() if at == len(inner) - 1 else text
    return text


def text_of(value: Any, what: str) -> str:
    """A value that must be text, without white space at its ends. Raises Unusable if it is not."""
    if not isinstance(value, str):
        raise Unusable(f"{what} must be text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Unusable(f"{what} holds half a character (a lone surrogate) at {error.start}") from None
    return value.strip()


def as_list(value: Any) -> list[Any]:
    """A list; also one that is written as text ("['2']"), as CSV exports and some hub copies do."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            read = ast.literal_eval(value.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return [value]  # an interval, [0, 1), or a formula
        # A list of numbers is an answer of its own: the interval [0, 1].
        if isinstance(read, list) and all(isinstance(item, str) for item in read):
            return list(read)
    return list(value) if isinstance(value, list | tuple) else [value]


Answers = tuple[str | None, tuple[str, ...]]
"""The reference answer, and what else is accepted."""


def any_of(row: Row, value: Any) -> Answers:
    """Each entry of a list is accepted (Minerva: roundings and spellings of one value)."""
    found = dict.fromkeys(filter(None, map(clean_answer, as_list(value))))
    first, *others = found or [None]
    return first, tuple(filter(None, others))


def all_of(row: Row, value: Any) -> Answers:
    """A list is an answer in several parts (OlympiadBench): all of them, joined by commas."""
    parts = [part for part in map(clean_answer, as_list(value)) if part]
    return ", ".join(parts) or None, ()


def after_hashes(row: Row, value: Any) -> Answers:
    """GSM8K: the number after "####", in the answer (hub) or the solution (the authors' file)."""
    for text in (value, row.get("solution")):
        if isinstance(text, str) and "####" in text:
            # Only thousands are grouped with commas here, and a parser might read 2,125 as two numbers.
            return clean_answer(text.rsplit("####", 1)[1].replace(",", "").strip().lstrip("$")), ()
    return any_of(row, value)
