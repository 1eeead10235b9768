"""Shared by all command lines: a parser that refuses in one sentence, and the types of options.

The types are argparse types, one for each meaning; `validation` checks them all.
"""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from .backends.base import MOST_SEED, MOST_TEMPERATURE
from .errors import UsageError
from .prompts.marker_profiles import KNOWN_MARKERS, MarkerText, marker_text
from .validation import MOST_PORT, MOST_SECONDS, MOST_TOKENS, argument, integer, money, real


class Parser(argparse.ArgumentParser):
    """A command line that raises for bad usage; argparse's own prints all usage and ends the process."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError: "--usd must be more than 0 dollars, got '-1'"."""
        sentence = re.sub(r"^argument (\S+): must", r"\1 must", message)
        raise UsageError(f"{sentence} (see {self.prog} --help)")


def add_marker_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what begins and ends a model's thinking."""
    begins = "what begins the model's thinking, where that can't be found, like '<think>'"
    parser.add_argument("--open", metavar="TEXT", help=begins)
    names = ", ".join(m.name for m in KNOWN_MARKERS)
    ends = f"what ends it, like '</think>'; alone, it may be the name of a known pair: {names}"
    parser.add_argument("--close", metavar="TEXT", help=ends)


def given_markers(options: argparse.Namespace) -> MarkerText | None:
    """The markers that a command line names, if any.

    Raises:
        UsageError: a start without an end.
        InvalidMarkersError: no pair of markers.
    """
    if options.close is None and options.open is not None:
        raise UsageError("--open says what begins thinking: say what ends it, too, with --close")
    return chosen_markers(options.open, options.close)


def chosen_markers(open: str | None, close: str | None) -> MarkerText | None:
    """The markers of these texts; a `close` alone may be the name of a known pair. Without it None.

    Raises:
        InvalidMarkersError: no pair of markers.
    """
    if close is None:
        return None
    if open is None and any(m.name == close for m in KNOWN_MARKERS):
        return marker_text(close)
    return marker_text((open or "", close))


COUNT = argument(integer, least=1, of="")
"""How many of something, at least 1."""
CAP = argument(integer, least=1, most=MOST_TOKENS)
"""A cap in tokens."""
PORT = argument(integer, most=MOST_PORT, of="")
"""A TCP port; 0 takes a free one."""
PAUSE = argument(real, most=MOST_SECONDS, of="seconds")
"""Seconds, at least 0."""
SECONDS = argument(real, above=True, most=MOST_SECONDS, of="seconds")
"""Seconds, more than 0."""
SEED = argument(integer, least=-MOST_SEED, most=MOST_SEED, of="")
"""The seed of a generator of random numbers."""
SOLUTION = argument(integer, least=1)
"""A solution budget."""
TEMPERATURE = argument(real, most=MOST_TEMPERATURE)
"""A sampling temperature; 0 is greedy."""
TOKENS = argument(integer)
"""Tokens, at least 0."""
TOP_P = argument(real, above=True, most=1.0)
"""Nucleus sampling."""
USD = argument(money, above=True)
"""A cap in dollars."""
