"""Checks everything about a run that can be wrong before a weight is loaded, cheap checks first.

The order: the names in the config, the arguments of TRL, the run logs, the tokenizer and its markers, the
model's context, the problems and their columns, whether every budget fits behind every prompt, and the engine
that samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from elastic_agent.errors import ConfigError
from elastic_agent.generation.prepare import markers_for
from elastic_agent.model_location import folder_or_hub_id
from elastic_agent.prompts.markers import Markers
from elastic_agent.prompts.model_files import load_tokenizer
from elastic_agent.prompts.tokenizer import HFCodec

from ..agents.agent import AgentRun, make_agent
from ..budgets.distributions import Budgets, check_context
from ..budgets.run_logs import read_grants
from ..config.budgets import GrantedBudgets, MixtureBudgets
from ..config.fields import named
from ..config.processes import processes
from ..config.schema import TrainConfig
from ..config.trl_arguments import make_arguments
from ..data.sources import SOURCES as SETS
from ..data.training_set import Row, source_of
from ..rewards.functions import episode_reward, make_reward_function
from ..rollouts.ahead import AheadEngine, check_ahead
from ..rollouts.engines.engine import Engine
from ..rollouts.engines.registry import ENGINES
from ..rollouts.prompts import codec_of, prompt_ids_of
from .attention import check_attention
from .launch import join, let_cpus_shard
from .validation import Validation, hold_out, make_validation

_PROMPT = [{"role": "user", "content": "x"}]
"""A conversation that shows how the chat template begins an answer."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a validated config stands for: everything that the run needs but the weights."""

    base: str
    """Folder or hub id of the base."""
    tokenizer: Any
    markers: Markers
    budgets: Budgets | None
    """None: an agent's calls get theirs from the scheduler."""
    rows: Sequence[Row]
    """Problems, in the order of the run: `prompts` a batch."""
    numbers: Sequence[int]
    """Of each of these rows its number in the source, from 1."""
    reward: Callable[..., Any]
    engine: Engine
    arguments: Any
    """The GRPOConfig."""
    agent: AgentRun | None = None
    """The agent that makes the calls; None: single calls."""
    validation: Validation | None = None
    """What is asked of problems held out; None: nothing."""


def validate(config: TrainConfig, log: Callable[[str], None] = print) -> RunContext:
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
    _check_anytime(config)
    check_ahead(config)
    check_attention(config)
    microbatch = micro_batch(config, processes())
    join(config)
    arguments = make_arguments(config, microbatch)
    let_cpus_shard(config)
    base = folder_or_hub_id(config.base, "base")
    tokenizer: Any = load_tokenizer(base, name=config.base)
    codec = _codec(config, tokenizer)
    _check_model_context(config, base)
    markers = markers_for(codec, wrap_up=config.rollout.wrap_up)
    close = markers.close_length(markers.opening(prompt_ids_of(tokenizer, _PROMPT, config.named_markers)))
    budgets, agent = _budgets(config), None
    if config.agent is not None:
        agent = make_agent(config.agent)
        _check_groups(config)
    if budgets is not None:
        check_context(budgets, config.rollout.context, close=close, prompt=1, longest="a prompt of")
    held = config.validation.problems if config.validation.every else 0
    data = config.data
    if agent is not None and data.instruction is None:  # "within \\boxed{}" is for single calls
        data = data.model_copy(update={"instruction": ""})
    rows = source(data, config.rollout.prompts * config.steps + held, config.seed, log)
    kept: Sequence[Row] = ()
    if budgets is not None:
        rows = _checked(rows, tokenizer, close, budgets, config, log)
    if held:
        rows, kept = hold_out(rows, held)
    order = row_order(len(rows), config.rollout.prompts, config.steps, config.seed)
    reward: Callable[..., Any] = episode_reward
    if agent is None:
        reward = make_reward_function(
            config.reward,
            partial(tokenizer.decode, skip_special_tokens=True),  # else "<|im_end|>" is part of a solution
            close_ids=markers.close_ids,
            close_text=markers.close_text if markers.close_in_text else "",
        )
    validation = None
    if budgets is not None and held:
        validation = make_validation(config, kept, tokenizer, markers, budgets.largest()[1], reward)
    engine: Any = make_engine(config, base, tokenizer, log)
    return RunContext(
        base=base,
        tokenizer=tokenizer,
        markers=markers,
        budgets=budgets,
        rows=[rows[i] for i in order],
        numbers=[i + 1 for i in order],
        reward=reward,
        engine=AheadEngine(engine) if config.rollout.ahead else engine,
        arguments=arguments,
        agent=agent,
        validation=validation,
    )


def micro_batch(config: TrainConfig, processes: int) -> int:
    """Samples (rows, under anytime rewards) in one pass on one device.

    Raises:
        ConfigError: batch, mini-batches, devices and micro-batches do not divide evenly.
    """
    parts = processes * config.learning.minibatches
    each, left = divmod(config.rows, parts)
    what = f"{config.rollout.prompts} prompts x {config.rollout.group} samples"
    if config.anytime is not None:
        what += f" x {config.anytime.cuts} cuts x {config.anytime.solutions} solutions"
        if config.samples % processes:
            raise ConfigError(
                f"anytime: the rows of a sample stay on one device, and {config.samples} samples do not "
                f"divide among {processes}: make rollout.prompts x rollout.group a multiple"
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


def row_order(rows: int, prompts: int, steps: int, seed: int) -> list[int]:
    """The rows of a run in order: whole passes over the set, each in a random order of its own.

    The order is fixed before the run, so the number of a step alone says which rows the step takes.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < prompts * steps:
        order += torch.randperm(rows, generator=generator).tolist()
    return order[: prompts * steps]


def _check_anytime(config: TrainConfig) -> None:
    if config.anytime is None:
        return
    if config.authors_compat:
        raise ConfigError("authors_compat: the authors train on no anytime rewards; leave one of the two out")
    if config.budgets is not None and config.budgets.stated:
        raise ConfigError(
            "anytime: probes cut thinking, budgets.stated cuts nothing; leave one of the two out"
        )
    if isinstance(config.budgets, MixtureBudgets) and len(set(config.budgets.thinking)) == 1:
        raise ConfigError(
            f"anytime: every cut would be at {config.budgets.thinking[0]}; give budgets.thinking several t*, "
            f"or take budgets of another kind"
        )


def _budgets(config: TrainConfig) -> Budgets | None:
    """The distribution of budgets, from the run logs where the config names some; None for an agent."""
    if config.budgets is None:
        return None
    if not isinstance(config.budgets, GrantedBudgets):
        return config.budgets.distribution()
    return config.budgets.distribution(tuple(read_grants(config.budgets.logs, config.budgets.kinds)))


def _codec(config: TrainConfig, tokenizer: Any) -> HFCodec:
    codec = codec_of(tokenizer, config.named_markers)
    if tokenizer.chat_template is None:
        raise ConfigError(f"base: the tokenizer of {config.base} has no chat template to write prompts with")
    codec.check_opening()
    return codec


def _check_model_context(config: TrainConfig, base: str) -> None:
    from transformers import AutoConfig

    most = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", None)
    if most is not None and config.rollout.context > most:
        raise ConfigError(
            f"rollout.context: {config.rollout.context} tokens, but {config.base} was made for {most}"
        )


def _checked(
    rows: Sequence[Row],
    tokenizer: Any,
    close: int,
    budgets: Budgets,
    config: TrainConfig,
    log: Callable[[str], None],
) -> Sequence[Row]:
    """The problems of single calls that can be trained on."""
    _check_columns(rows, ("prompt", *config.reward.columns), config)
    lengths = [len(prompt_ids_of(tokenizer, row["prompt"], config.named_markers)) for row in rows]
    return _check_prompts(rows, lengths, close, budgets, config, log)


def _check_groups(config: TrainConfig) -> None:
    """Refuse to sample groups again that lie across processes: each process sees its own rewards."""
    assert config.agent is not None
    each = config.samples // processes()
    if config.agent.resample and each % config.rollout.group:
        raise ConfigError(
            f"agent.resample: a group of {config.rollout.group} samples would lie across processes of {each} "
            f"samples each: make rollout.prompts a multiple of the processes, or set agent.resample=0"
        )


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
    log: Callable[[str], None],
) -> Sequence[Row]:
    """The problems whose prompts, of these lengths, leave room for every budget; the others are an error."""
    limit = config.data.longest_prompt
    if limit is not None and max(lengths) > limit:
        short = [(row, n) for row, n in zip(rows, lengths, strict=True) if n <= limit]
        log(f"{len(rows) - len(short)} of {len(rows)} problems left out: prompts of more than {limit} tokens")
        if not short:
            raise ConfigError(f"data.longest_prompt: no prompt has {limit} tokens or fewer")
        rows, lengths = [row for row, _ in short], [n for _, n in short]
    longest = "the longest prompt" if len(rows) > 1 else "the prompt"
    check_context(budgets, config.rollout.context, close=close, prompt=max(lengths), longest=longest)
    return rows
