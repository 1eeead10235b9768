"""The error tree: as drawn, one base, and safe to send between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

from elastic_agent import errors
from elastic_agent.errors import CapExceededError, DeadlineError, ElasticError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def test_the_tree_is_the_one_drawn() -> None:
    """The docstring's drawing names every class, under its parent."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    real = {kind.__name__: kind.__bases__[0].__name__ for kind in ALL}
    assert drawn == real


@pytest.mark.parametrize("kind", ALL)
def test_every_error_can_be_pickled_and_copied(kind: type[ElasticError]) -> None:
    """Worker processes and LangGraph's checkpoints send errors on: kind and message survive."""
    for again in (pickle.loads(pickle.dumps(kind("why"))), copy.copy(kind("why"))):
        assert type(again) is kind
        assert str(again) == "why"


@pytest.mark.parametrize("kind", [CapExceededError, DeadlineError])
def test_numbers_survive(kind: type[CapExceededError]) -> None:
    """Law 4: a refusal carries what would have been needed and what is left, also through a pickle."""
    error = pickle.loads(pickle.dumps(kind("no", needed={"tokens": 9}, available={"tokens": 3})))
    assert type(error) is kind
    assert (error.needed, error.available) == ({"tokens": 9}, {"tokens": 3})


def test_invalid_arguments_are_value_errors() -> None:
    """What a caller typed wrongly is a ValueError too; nothing of ours is a bare TimeoutError or OSError."""
    assert issubclass(errors.InvalidBudgetError, ValueError)
    assert issubclass(errors.InvalidCapsError, ValueError)
    assert not any(issubclass(kind, OSError) for kind in ALL)
