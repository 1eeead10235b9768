"""Sets loaded for a run: what `load` warns of is told in a line instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from .load import load
from .schema import DataWarning, Problem

OWN = "own"
"""Names a file of the user's own where a set is named."""


def load_told(
    name: str,
    tell: Callable[[str], None],
    *,
    path: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    allow_duplicates: bool = False,
) -> list[Problem]:
    """`load`, of a set by name or of one's own file ("own"); rows left out and repeats are told.

    Raises:
        DataError: as `load` does.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DataWarning)
        problems = load(
            None if name == OWN else name,
            path=path,
            split=split,
            limit=limit,
            allow_duplicates=allow_duplicates,
        )
    for one in said:
        if issubclass(one.category, DataWarning):
            tell(str(one.message))
    return problems
