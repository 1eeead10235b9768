"""Problems of reasoning-gym: any of its families, by name and difficulty, graded by its own scorers.

    problems = gym_problems({"chain_sum": {"max_terms": 4}, "leg_counting": {}}, 200, split="test")

A family makes the same problem from the same seed and number, so a problem carries its `Origin` and nothing
else for its scorer. Splits are disjoint by construction: a hash of the question says which split the question
belongs to, and drawing for a split rejects the others.

Source: https://github.com/open-thought/reasoning-gym, `pip install 'elastic-agent[gym]'`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from elastic_agent.errors import DataError, InvalidValueError, did_you_mean

from .schema import Problem
from .word_problems import Split

GYM = "gym"
"""What `data.source` and `--data` call it."""
Parameters = Mapping[str, Any]
"""Of a family: its configuration in reasoning-gym's own names."""

_OF_SPLIT: Mapping[Split, range] = {"test": range(2), "dev": range(2, 3), "train": range(3, 10)}
"""Tenths of the questions."""
_STARTS: Mapping[Split, int] = {"test": 10_000_000, "dev": 20_000_000, "train": 30_000_000}
"""Where the seeds of a split begin: problem n of seed s is problem 0 of seed s + n in reasoning-gym."""
_DRAWS = 50
"""Problems that are drawn for each that is wanted, at most: small families repeat themselves."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which problem of reasoning-gym it is.

    Attributes:
        family: its name there.
        parameters: of the family, as JSON.
        seed: of the family's data set, whose problem 0 it is.
    """

    family: str
    parameters: str
    seed: int

    def entry(self) -> dict[str, Any]:
        """The problem as its family gives it: question, answer, metadata."""
        found: dict[str, Any] = _family(self.family, self.parameters, self.seed)[0]
        return found

    def score(self, answer: str | None) -> float:
        """What the family's scorer gives an answer, 0 to 1."""
        return float(_family(self.family, self.parameters, self.seed).score_answer(answer, self.entry()))


def gym_problems(
    families: Mapping[str, Parameters], count: int, *, split: Split = "train", seed: int = 0
) -> list[Problem]:
    """Problems of several families in turn, none twice.

    Args:
        families: name -> parameters.
        count: problems of each family.
        split: "train", "dev" or "test".
        seed: another one gives other problems, but for questions that a family makes again.

    Raises:
        DataError: reasoning-gym is missing, a family or a parameter is unknown, no family is named, or a
            family has fewer different questions.
    """
    if not families:
        raise DataError("gym: name at least one family of reasoning-gym, such as chain_sum")
    if split not in _OF_SPLIT:
        raise DataError(f"gym: there is no split {split!r}; there are {', '.join(_OF_SPLIT)}")
    drawn = [_drawn(name, parameters, count, split, seed) for name, parameters in families.items()]
    return list(chain.from_iterable(zip(*drawn, strict=True)))


def parse_family(text: str) -> tuple[str, dict[str, Any]]:
    """Read "chain_sum" or "chain_sum:min_terms=2,max_terms=4"; values are JSON, or else text.

    Raises:
        InvalidValueError: an entry is something else.
    """
    name, colon, rest = text.partition(":")
    found: dict[str, Any] = {}
    for entry in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not (key and equals and value) or key in found:
            raise InvalidValueError(f"expected a family like chain_sum:min_terms=2,max_terms=4, not {text!r}")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return name.strip(), found


def family_text(name: str, parameters: Parameters) -> str:
    """A family as `parse_family` reads it."""
    given = ",".join(f"{key}={json.dumps(value)}" for key, value in parameters.items())
    return f"{name}:{given}" if given else name


def check_families(families: Mapping[str, Parameters]) -> None:
    """Check names and parameters.

    Raises:
        DataError: reasoning-gym is missing, or a family or a parameter is unknown; says which there are.
    """
    for name, parameters in families.items():
        _family(name, json.dumps(dict(parameters), sort_keys=True), 0)


def _drawn(name: str, parameters: Parameters, count: int, split: Split, seed: int) -> list[Problem]:
    text = json.dumps(dict(parameters), sort_keys=True)
    found: dict[str, Problem] = {}
    start = _STARTS[split] + 1_000_003 * seed
    for number in range(start, start + count * _DRAWS):
        if len(found) == count:
            break
        origin = Origin(name, text, number)
        entry = origin.entry()
        question = entry["question"].strip()
        if question not in found and _split_of(question) == split:
            found[question] = Problem(
                id=f"{GYM}/{name}/{number}",
                question=question,
                kind="gym",
                source=GYM,
                split=split,
                answer=str(entry["answer"]),
                meta={"kind": name, "origin": asdict(origin)},
            )
    if len(found) < count:
        raise DataError(
            f"gym: {name} with {text} has {len(found)} different questions of the {split} split among "
            f"{count * _DRAWS} draws, and {count} are wanted: widen its parameters, or ask for fewer"
        )
    return list(found.values())


def _split_of(question: str) -> Split:
    tenth = hashlib.blake2b(question.encode(), digest_size=4).digest()[0] % 10
    return next(split for split, tenths in _OF_SPLIT.items() if tenth in tenths)


@cache
def _families() -> Mapping[str, Any]:
    """reasoning-gym's families by name. It is imported here alone: that takes seconds.

    Raises:
        DataError: it is not installed.
    """
    try:
        with warnings.catch_warnings():  # one of its dependencies has code that newer Pythons warn of
            warnings.simplefilter("ignore")
            from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise DataError("gym: reasoning-gym is not installed: pip install 'elastic-agent[gym]'") from error
    return dict(DATASETS)


@lru_cache(maxsize=4096)
def _family(name: str, parameters: str, seed: int) -> Any:
    """A family's data set of one problem; making one costs less than a millisecond."""
    families = _families()
    if name not in families:
        hint = did_you_mean(name, families)
        raise DataError(
            f"gym: reasoning-gym has no family {name!r}: {hint}it has {', '.join(sorted(families))}"
        )
    from reasoning_gym.factory import create_dataset

    try:
        return create_dataset(name, seed=seed, size=1, **json.loads(parameters))
    except (TypeError, AssertionError, ValueError) as error:
        fields = families[name][1].__dataclass_fields__
        known = ", ".join(field for field in fields if field not in ("seed", "size"))
        raise DataError(f"gym: {name} can't be made with {parameters}: {error}; it has {known}") from error
