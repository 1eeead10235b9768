"""Problem sources, rewards and rollout engines by name.

What `data.source`, `reward.name` and `rollout.engine` in a config stand for; a new one is an entry in one of
the three tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from elastic_agent.training.config import DataConfig, RewardConfig, TrainConfig
from elastic_agent.training.configure import ConfigError
from elastic_agent.training.rewards import Decode, Reward, make_reward
from elastic_agent.training.rollout import Engine, decode_in_process
from elastic_agent.training.served_rollouts import make_served_rollouts
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


MakeEngine = Callable[[TrainConfig, str, Any, Callable[[str], None]], Engine]
"""(config, base, tokenizer, tell) -> an engine, what it needs checked; ConfigError where that is missing."""

SOURCES: dict[str, Source] = {"stock": stock}
REWARDS: dict[str, RewardKind] = {"answer": RewardKind(("answer",), lambda _, decode: make_reward(decode))}
ENGINES: dict[str, MakeEngine] = {
    "transformers": lambda config, base, tokenizer, tell: decode_in_process,
    "vllm-server": make_served_rollouts,
}


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
