"""Problem sources and rollout engines by name: what `data.source` and `rollout.engine` in a config stand for.

A new one is an entry in one of the two tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

from elastic_agent.training.data.sources import SOURCES as SETS
from elastic_agent.training.data.told import OWN
from elastic_agent.training.fields import ConfigError
from elastic_agent.training.problems import Source, named_sets, stock
from elastic_agent.training.rollout import Engine, decode_in_process

Named = TypeVar("Named")


SOURCES: dict[str, Source] = {"stock": stock, **dict.fromkeys((OWN, *SETS), named_sets)}
ENGINES: dict[str, Engine] = {"transformers": decode_in_process}


def named(table: Mapping[str, Named], name: str, field: str) -> Named:
    """An entry of one of the tables.

    Raises:
        ConfigError: there is none of this name; with the nearest, and all there are.
    """
    if name in table:
        return table[name]
    near = get_close_matches(name, table, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{field}: there is no {name!r}; {hint}there are {', '.join(sorted(table))}")


def source_of(names: Sequence[str]) -> Source:
    """What makes the problems of `data.source`.

    Raises:
        ConfigError: a name that there is not, or sources that can't be joined.
    """
    makers = list(dict.fromkeys(named(SOURCES, name, "data.source") for name in names))
    if len(makers) > 1:
        raise ConfigError(f"data.source: {', '.join(names)} can't be joined: only sets by name, and own, can")
    return makers[0]
