"""Everything about a run that can be wrong before a weight is loaded, checked in the order of its cost.

The names in the config, the run logs, the tokenizer and its markers, the model's context, the problems and
their columns, that every budget fits behind every prompt, and what samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from elastic_agent.errors import ElasticError, UnknownModelError
from elastic_agent.generation.prepare import markers_for
from elastic_agent.model_location import embedded_models, model_path
from elastic_agent.prompts.markers import Markers
from elastic_agent.prompts.model_files import load_tokenizer
from elastic_agent.prompts.tokenizer import HFCodec

from ..agents.environment import Episode
from ..agents.episode_runner import Rules
from ..agents.fields import AgentConfig
from ..agents.rollouts import Agent
from ..agents.turn_renderer import Splicer
from ..budgets.distributions import Budgets, check_context
from ..budgets.run_logs import read_grants
from ..config.fields import ConfigError, imported
from ..config.schema import TrainConfig
from ..data.problems import Row
from ..data.sources import SOURCES as SETS
from ..rewards import make_reward_function
from ..rollouts.registry import ENGINES, ENVIRONMENTS, named, source_of
from ..rollouts.two_phase import Engine, codec_of, prompt_ids_of

ASKED = [{"role": "user", "content": "x"}]
"""A conversation, to see how the chat template begins an answer."""


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
    reward: Callable[..., list[float]]
    engine: Engine
    microbatch: int
    """Samples in one pass on one device."""
    agent: Agent | None = None
    """Episodes with tools; None: single calls."""


def preflight(config: TrainConfig, tell: Callable[[str], None] = print) -> Ready:
    """Check a config against what it names.

    Raises:
        ConfigError: a name that is not there, missing columns, an empty set, numbers that do not divide.
        DataError: a set that can't be had or read, is empty, or mostly repeats itself.
        GrantLogError, InvalidBudgetError, NoMarkersError, UnknownModelError: as they say.
    """
    source = source_of(config.data.source)
    for name in config.data.decontaminate:
        named(SETS, name, "data.decontaminate")
    make_engine = named(ENGINES, config.rollout.engine, "rollout.engine")
    _check_dense(config)
    microbatch = micro_batch(config, int(os.environ.get("WORLD_SIZE", "1")))
    grants = read_grants(config.budgets.logs, config.budgets.kinds) if config.budgets.kind == "grants" else []
    budgets = config.budgets.distribution(tuple(grants))
    base = _base(config.base)

    from transformers import AutoConfig

    tokenizer: Any = load_tokenizer(base, name=config.base)
    codec = codec_of(tokenizer, config.named_markers)
    if tokenizer.chat_template is None:
        raise ConfigError(f"base: the tokenizer of {config.base} has no chat template to write prompts with")
    codec.check_opening()
    markers = markers_for(codec, wrap_up=config.rollout.wrap_up)
    close = markers.close_length(markers.opening(prompt_ids_of(tokenizer, ASKED, config.named_markers)))
    most = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", None)
    if most is not None and config.rollout.context > most:
        raise ConfigError(
            f"rollout.context: {config.rollout.context} tokens, but {config.base} was made for {most}"
        )
    check_context(budgets, config.rollout.context, close=close, prompt=1, longest="a prompt of")
    rows = source(config.data, config.rollout.prompts * config.steps, config.seed, tell)
    _check_columns(rows, ("prompt", *config.reward.columns), config)
    if config.agent is None:
        agent, score = None, None
        lengths = [len(prompt_ids_of(tokenizer, row["prompt"], config.named_markers)) for row in rows]
    else:
        agent = _agent(config.agent, config, codec, budgets, rows[0])
        first = agent.environment(rows[0])
        score, lengths = first.score, [len(agent.prompt(row, first.schemas)) for row in rows]
    if config.reward.kind == "episode" and score is None:
        raise ConfigError("reward.kind: episode is for an agent whose environment gives its episodes a score")
    rows = _check_prompts(rows, lengths, close, budgets, config, tell)
    order = take(len(rows), config.rollout.prompts, config.steps, config.seed)
    decode = partial(tokenizer.decode, skip_special_tokens=True)  # else "<|im_end|>" is part of a solution
    reward = make_reward_function(
        config.reward,
        decode,
        close_ids=markers.close_ids,
        close_text=markers.close_text if markers.close_in_text else "",
    )
    engine = make_engine(config, base, tokenizer, tell)
    return Ready(
        base, tokenizer, markers, budgets, [rows[i] for i in order], reward, engine, microbatch, agent
    )


def micro_batch(config: TrainConfig, processes: int) -> int:
    """Samples (rows, under dense rewards) in one pass on one device.

    Raises:
        ConfigError: batch, mini-batches, devices and micro-batches do not divide evenly.
    """
    parts = processes * config.learning.minibatches
    each, left = divmod(config.rows, parts)
    what = f"{config.rollout.prompts} prompts x {config.rollout.group} samples"
    if config.dense is not None:
        what += f" x {config.dense.cuts} cuts x {config.dense.solutions} solutions"
        if config.samples % processes:
            raise ConfigError(
                f"dense: the rows of a sample stay on one device, and {config.samples} samples do not divide "
                f"among {processes}: make rollout.prompts x rollout.group a multiple"
            )
    what += f" = {config.rows}"
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


def _check_dense(config: TrainConfig) -> None:
    if config.dense is None:
        return
    if config.authors_compat:
        raise ConfigError("authors_compat: the authors train on no dense rewards; leave one of the two out")
    if config.budgets.stated:
        raise ConfigError("dense: probes cut thinking, budgets.stated cuts nothing; leave one of the two out")
    if config.budgets.kind == "mixture" and len(set(config.budgets.thinking)) == 1:
        raise ConfigError(
            f"dense: every cut would be at {config.budgets.thinking[0]}; give budgets.thinking several t*, "
            f"or take budgets of another kind"
        )


def _agent(section: AgentConfig, config: TrainConfig, codec: HFCodec, budgets: Budgets, row: Row) -> Agent:
    """An agent whose first episode, of this row, can start under the lowest cap."""
    name = section.environment
    environment: Callable[..., Episode] = (
        imported(name, "agent.environment") if ":" in name else named(ENVIRONMENTS, name, "agent.environment")
    )
    scheduler = imported(section.scheduler, "agent.scheduler")
    splicer = Splicer(codec, config.rollout.wrap_up)
    agent = Agent(
        section,
        partial(environment, **section.options),
        partial(scheduler, close=splicer.close, **section.scheduler_options),
        splicer,
        Rules(section.turns, config.rollout.context, section.tool_seconds, section.tool_characters),
    )
    try:
        first = agent.player(row, section.cap_at(0.0))
        splicer.between(first.episode.role, ["x"])
        first.ask(budgets.at(0.0, 0), agent.rules, splicer.close)
    except (ElasticError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"agent: the first episode can't start: {type(error).__name__}: {error}") from error
    return agent


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
    source = ", ".join(config.data.source)
    if not rows:
        raise ConfigError(f"data.source {source} holds no problems")
    for number, row in enumerate(rows, 1):
        if "kind" in row and config.reward.graded and row["kind"] != config.reward.kind:
            raise ConfigError(
                f"data.source {source}: {row['id']} is a {row['kind']} problem, and reward.kind is "
                f"{config.reward.kind}"
            )
        has = [name for name, value in row.items() if value not in (None, "", [])]
        missing = [name for name in wanted if name not in has]
        if missing:
            raise ConfigError(
                f"data.source {source}: problem {row.get('id', number)} lacks {', '.join(missing)}, "
                f"which the reward {config.reward.kind} reads; it has {', '.join(has)}"
            )


def _check_prompts(
    rows: Sequence[Row],
    lengths: list[int],
    close: int,
    budgets: Budgets,
    config: TrainConfig,
    tell: Callable[[str], None],
) -> Sequence[Row]:
    """The problems whose prompts, of these lengths, leave room for every budget; the others are an error."""
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
    check_context(budgets, config.rollout.context, close=close, prompt=max(lengths), longest=longest)
    return rows
