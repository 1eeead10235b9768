"""Problem sources, rewards, rollout engines and agents' environments by name.

What `data.source`, `reward.name`, `rollout.engine` and `agent.environment` in a config stand for; a new one
is an entry in one of the tables. What a config names as "package.module:name" is imported instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeVar

from elastic_agent.training.agents.environment import Episode
from elastic_agent.training.agents.lookups import look_up, make_lookups
from elastic_agent.training.config import DataConfig, RewardConfig
from elastic_agent.training.configure import ConfigError
from elastic_agent.training.rewards import Decode, Reward, make_reward
from elastic_agent.training.rollout import Engine, decode_in_process
from elastic_agent.training.stock_problems import make_problems

Row = dict[str, Any]
"""One problem: "prompt" (a conversation) and whatever columns the reward reads."""
Source = Callable[[DataConfig, int, int], Sequence[Row]]
"""(config, needed, seed) -> problems. A source without end gives `needed` of them, a set all it has."""
Named = TypeVar("Named")


@dataclass(frozen=True, slots=True)
class RewardKind:
    """A reward: the columns that it reads from each problem, and how it is made."""

    columns: tuple[str, ...]
    make: Callable[[RewardConfig, Decode], Reward]


def stock(config: DataConfig, needed: int, seed: int) -> list[Row]:
    """Fresh stock problems of the train split."""
    problems = make_problems(seed + 1_000_003, needed, split="train")
    return [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in problems]


def lookups(config: DataConfig, needed: int, seed: int) -> list[Row]:
    """Fresh stock problems of the train split whose lines must be looked up; options: steps, as a list."""
    return make_lookups(seed + 1_000_003, needed, split="train", **config.options)


def episode_reward(**columns: Any) -> list[float]:
    """What the episodes' own `score` gave; an episode without a final answer earns nothing."""
    return [score or 0.0 for score in columns["episode_score"]]


SOURCES: dict[str, Source] = {"stock": stock, "lookups": lookups}
REWARDS: dict[str, RewardKind] = {
    "answer": RewardKind(("answer",), lambda _, decode: make_reward(decode)),
    "episode": RewardKind((), lambda _, decode: episode_reward),
}
ENGINES: dict[str, Engine] = {"transformers": decode_in_process}
ENVIRONMENTS: dict[str, Callable[..., Episode]] = {"lookups": look_up}


def imported(name: str, field: str) -> Any:
    """What "package.module:name" stands for.

    Raises:
        ConfigError: it can't be imported.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{field}: {name!r} can't be imported: {error}") from None


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
