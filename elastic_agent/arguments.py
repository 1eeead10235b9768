"""What commands share: a parser whose refusals are one sentence, and what their options take.

The options' types are argparse types, one for each meaning, all checked by `values`.
"""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from elastic_agent.backends.base import MOST_SEED, MOST_TEMPERATURE
from elastic_agent.errors import UsageError
from elastic_agent.values import MOST_PORT, MOST_SECONDS, MOST_TOKENS, argument, integer, money, real


class Parser(argparse.ArgumentParser):
    """A command line that raises for bad usage; argparse's own prints all usage and ends the process."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError: "--usd must be more than 0 dollars, got '-1'"."""
        sentence = re.sub(r"^argument (\S+): must", r"\1 must", message)
        raise UsageError(f"{sentence} (see {self.prog} --help)")


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
