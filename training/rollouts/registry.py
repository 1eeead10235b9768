"""Problem sources, rollout engines and agents' environments by name.

What `data.source`, `rollout.engine` and `agent.environment` in a config stand for; a new one is an entry in
one of the tables. What a config names as "package.module:name" is imported instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from elastic_agent.errors import did_you_mean

from ..agents.environment import Episode
from ..agents.lookup_environment import lookup_environment
from ..config.fields import ConfigError
from ..config.schema import TrainConfig
from ..data.rows import OWN_FILE
from ..data.sources import SOURCES as SETS
from ..data.training_set import Source, fresh_lookups, fresh_word_problems, named_sets
from .two_phase import Engine, decode_in_process
from .vllm_servers import make_served_rollouts

Named = TypeVar("Named")


MakeEngine = Callable[[TrainConfig, str, Any, Callable[[str], None]], Engine]
"""(config, base, tokenizer, log) -> an engine, what it needs checked; ConfigError where that is missing."""

SOURCES: dict[str, Source] = {
    "word-problems": fresh_word_problems,
    "lookups": fresh_lookups,
    **dict.fromkeys((OWN_FILE, *SETS), named_sets),
}
ENGINES: dict[str, MakeEngine] = {
    "transformers": lambda config, base, tokenizer, log: decode_in_process,
    "vllm-server": make_served_rollouts,
}
ENVIRONMENTS: dict[str, Callable[..., Episode]] = {"lookups": lookup_environment}


def named(table: Mapping[str, Named], name: str, field: str) -> Named:
    """An entry of one of the tables.

    Raises:
        ConfigError: there is none of this name; with the nearest, and all there are.
    """
    if name in table:
        return table[name]
    hint = did_you_mean(name, table)
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
