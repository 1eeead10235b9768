"""Everything about a run that can be wrong before a weight is loaded, checked in the order of its cost.

The names in the config, the run logs, the tokenizer and its markers, the model's context, the problems and
their columns, that every budget fits behind every prompt, and what samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastic_agent.backends.load import embedded_models, model_path
from elastic_agent.errors import UnknownModelError
from elastic_agent.markers import Markers
from elastic_agent.training.budgets import Budgets, check_context
from elastic_agent.training.config import TrainConfig
from elastic_agent.training.configure import ConfigError
from elastic_agent.training.grants import read_grants
from elastic_agent.training.registry import ENGINES, REWARDS, SOURCES, RewardKind, Row, named
from elastic_agent.training.rollout import Engine, markers_of, prompt_ids_of


@dataclass(frozen=True, slots=True)
class Ready:
    """What the checks found, for the run to use."""

    base: str
    """Folder or hub id of the base."""
    tokenizer: Any
    markers: Markers
    budgets: Budgets
    rows: Sequence[Row]
    """Problems, in the order in which the run takes them: `prompts` a batch."""
    reward: RewardKind
    engine: Engine
    microbatch: int
    """Samples in one pass on one device."""


def preflight(config: TrainConfig, tell: Callable[[str], None] = print) -> Ready:
    """Check a config against what it names.

    Raises:
        ConfigError: a name that is not there, missing columns, an empty set, numbers that do not divide.
        GrantLogError, InvalidBudgetError, NoMarkersError, UnknownModelError: as they say.
    """
    source = named(SOURCES, config.data.source, "data.source")
    reward = named(REWARDS, config.reward.name, "reward.name")
    make_engine = named(ENGINES, config.rollout.engine, "rollout.engine")
    microbatch = micro_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    grants = read_grants(config.budgets.logs, config.budgets.kinds) if config.budgets.kind == "grants" else []
    budgets = config.budgets.distribution(tuple(grants))
    base = _base(config.base)

    from transformers import AutoConfig, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    markers = markers_of(tokenizer)
    if tokenizer.chat_template is None:
        raise ConfigError(f"base: the tokenizer of {config.base} has no chat template to write prompts with")
    most = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", None)
    if most is not None and config.rollout.context > most:
        raise ConfigError(
            f"rollout.context: {config.rollout.context} tokens, but {config.base} was made for {most}"
        )
    check_context(
        budgets, config.rollout.context, close=len(markers.close_ids), prompt=1, longest="a prompt of"
    )
    rows = source(config.data, config.rollout.prompts * config.steps, config.seed)
    _check_columns(rows, ("prompt", *reward.columns), config)
    rows = _check_prompts(rows, tokenizer, markers, budgets, config, tell)
    order = take(len(rows), config.rollout.prompts, config.steps, config.seed)
    engine = make_engine(config, base, tokenizer, tell)
    return Ready(base, tokenizer, markers, budgets, [rows[i] for i in order], reward, engine, microbatch)


def micro_batch(config: TrainConfig, processes: int) -> int:
    """Samples in one pass on one device.

    Raises:
        ConfigError: batch, mini-batches, devices and micro-batches do not divide evenly.
    """
    parts = processes * config.learning.minibatches
    each, left = divmod(config.samples, parts)
    what = f"{config.rollout.prompts} prompts x {config.rollout.group} samples = {config.samples}"
    if left or not each:
        raise ConfigError(
            f"{what} do not divide into learning.minibatches {config.learning.minibatches} on {processes} "
            f"device(s): make rollout.prompts x rollout.group a multiple of {parts}"
        )
    micro = config.device.microbatch or each
    if each % micro:
        raise ConfigError(
            f"device.microbatch: {each} samples a mini-batch and device do not divide into parts of {micro}"
        )
    return micro


def take(rows: int, prompts: int, steps: int, seed: int) -> list[int]:
    """Which problems a run takes, in order: whole passes over the set, each in an order of its own.

    Laid out before the run, so that its position in the data is the number of its step and nothing else.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < prompts * steps:
        order += torch.randperm(rows, generator=generator).tolist()
    return order[: prompts * steps]


def _base(name: str) -> str:
    path = Path(model_path(name)).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UnknownModelError(f"base: {path} holds no model (no config.json)")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UnknownModelError(
            f"base: no model {name!r}: embedded are {', '.join(embedded_models()) or 'none'}; otherwise give "
            f"a folder or a Hugging Face id (owner/name)"
        )
    return name


def _check_columns(rows: Sequence[Row], wanted: Sequence[str], config: TrainConfig) -> None:
    if not rows:
        raise ConfigError(f"data.source {config.data.source} holds no problems")
    for number, row in enumerate(rows, 1):
        missing = [name for name in wanted if row.get(name) is None]
        if missing:
            raise ConfigError(
                f"data.source {config.data.source}: problem {number} lacks {', '.join(missing)}, which the "
                f"reward {config.reward.name} reads; it has {', '.join(row)}"
            )


def _check_prompts(
    rows: Sequence[Row],
    tokenizer: Any,
    markers: Markers,
    budgets: Budgets,
    config: TrainConfig,
    tell: Callable[[str], None],
) -> Sequence[Row]:
    """The problems whose prompts leave room for every budget; as many as are too long are an error."""
    lengths = [len(prompt_ids_of(tokenizer, row["prompt"])) for row in rows]
    limit = config.data.longest_prompt
    if limit is not None and max(lengths) > limit:
        short = [(row, n) for row, n in zip(rows, lengths, strict=True) if n <= limit]
        tell(
            f"{len(rows) - len(short)} of {len(rows)} problems left out: prompts of more than {limit} tokens"
        )
        if not short:
            raise ConfigError(f"data.longest_prompt: no prompt has {limit} tokens or fewer")
        rows, lengths = [row for row, _ in short], [n for _, n in short]
    longest = "the longest prompt" if len(rows) > 1 else "the prompt"
    check_context(
        budgets, config.rollout.context, close=len(markers.close_ids), prompt=max(lengths), longest=longest
    )
    return rows
