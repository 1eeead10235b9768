"""The demo's work: days with chains of word problems, and a question that combines each day's.

One JSON object a line:

    {"name": "Monday",
     "chains": [{"name": "apples",
                 "steps": ["A shop has 37 apples . ...", "A shop has {previous} apples . ..."],
                 "answers": [25, 31]}, ...],
     "combine": "A shop has {0} apples . #1 It gets {1} pears . ... How many items are left ?",
     "answer": 80}

`{previous}` stands for the answer to the step before, `{0}`, `{1}` for the chains' last answers. The shipped
file was drawn from the test split, which e1-tiny never saw (`tools/draw_shop_week.py`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOP_WEEK = Path(__file__).with_name("shop_week.jsonl")


class ProblemsError(ValueError):
    """A problems file is unusable; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Problems that each start from the answer to the one before. `answers` has each step's true answer."""

    name: str
    steps: tuple[str, ...]
    answers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """Chains that can run side by side, and the question over their answers."""

    name: str
    chains: tuple[Chain, ...]
    combine: str
    answer: int

    @property
    def truth(self) -> list[int]:
        """The chains' last answers, then the total."""
        return [*(chain.answers[-1] for chain in self.chains), self.answer]


def kind_of(text: str) -> str:
    """The kind of a call: how many numbered lines its problem has (the key of the success curves)."""
    return f"steps-{len(re.findall(r'#[0-9]+', text))}"


def count_kinds(days: list[Day]) -> Counter[str]:
    """The calls that a file needs, by kind."""
    texts = [step for day in days for chain in day.chains for step in chain.steps]
    return Counter(kind_of(text) for text in [*texts, *(day.combine for day in days)])


def load_days(path: str | Path) -> list[Day]:
    """Read a problems file.

    Raises:
        ProblemsError: it is missing, empty or malformed; says which line and what is wrong with it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemsError(f"can't read the problems file {path}: {error}") from error
    days = [_day(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line.strip()]
    if not days:
        raise ProblemsError(f"the problems file {path} is empty: it needs one JSON object a line")
    return days


def _day(where: str, line: str) -> Day:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ProblemsError(f"{where}: not JSON ({error})") from error
    try:
        chains = tuple(_chain(where, chain) for chain in data["chains"])
        day = Day(str(data["name"]), chains, str(data["combine"]), int(data["answer"]))
    except KeyError as error:
        raise ProblemsError(f"{where}: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, ProblemsError) else ProblemsError(f"{where}: {error}") from error
    if not chains:
        raise ProblemsError(f"{where}: 'chains' is empty")
    wanted = [f"{{{i}}}" for i in range(len(chains))]
    if any(place not in day.combine for place in wanted):
        raise ProblemsError(
            f"{where}: 'combine' must contain {', '.join(wanted)}, one for each chain's answer"
        )
    return day


def _chain(where: str, data: dict[str, Any]) -> Chain:
    chain = Chain(str(data["name"]), tuple(map(str, data["steps"])), tuple(map(int, data["answers"])))
    if not chain.steps or isinstance(data["steps"], str):
        raise ProblemsError(
            f"{where}: 'steps' of chain {chain.name!r} must be a list with at least one problem"
        )
    if len(chain.steps) != len(chain.answers):
        raise ProblemsError(
            f"{where}: chain {chain.name!r} has {len(chain.steps)} steps and {len(chain.answers)} answers"
        )
    if any("{previous}" not in step for step in chain.steps[1:]):
        raise ProblemsError(
            f"{where}: every step of chain {chain.name!r} after the first must contain {{previous}}"
        )
    return chain
