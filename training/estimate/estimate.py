"""All parts of a launch, and their sums: while the run samples, and while it learns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from elastic_agent.backends.vllm.process import CPU_ENVIRONMENT
from elastic_agent.errors import ConfigError

from ..config.schema import TrainConfig
from ..grpo.validate import micro_batch
from ..rollouts.engines.engine import MOST_ROWS
from .sampling import sampling_bytes
from .shapes import Shapes, make_shapes, read_config
from .update import MicroBatch, UpdateBytes, update_bytes

GIB = 1024**3
_STATES = {"adamw": 8, "lion": 4, "rmsprop": 4, "adagrad": 4, "sgd": 0, "adafactor": 0}
"""Bytes of an optimizer's state a trained number, by the beginning of its name."""
_GAPS = 0.1
"""Share of what comes and goes that benchmarks/train_memory.py finds on top of it, on a processor: 5% to 26%
there. GPUs were not measured: the table says that a tenth is to be left free."""
_LARGE = 0.05
"""A change is worth naming if it saves this share."""


@dataclass(frozen=True, slots=True)
class Part:
    """What holds memory, in bytes while the run samples and while it learns."""

    name: str
    samples: float
    learns: float
    why: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The memory of one process of a launch."""

    parts: list[Part]
    changes: list[tuple[str, float]]
    """Settings that save memory where the sum is largest, and about how many bytes; the best first."""
    other_way: float
    """Bytes while the run learns, were device.gradient_checkpointing the other way."""
    base: str
    processes: int
    gpu: float | None
    """GiB of a GPU; None: a CPU."""
    row: int
    """Tokens of the longest row."""

    @property
    def samples(self) -> float:
        """Bytes while the run samples."""
        return sum(part.samples for part in self.parts)

    @property
    def learns(self) -> float:
        """Bytes while the run learns."""
        return sum(part.learns for part in self.parts)

    @property
    def total(self) -> float:
        """Bytes that a process needs."""
        return max(self.samples, self.learns)


@dataclass(frozen=True, slots=True)
class _Launch:
    """A config on its processes, with the shapes of its model."""

    config: TrainConfig
    processes: int
    gpu: float | None
    shapes: Shapes
    batch: MicroBatch

    @property
    def sharded(self) -> bool:
        return self.config.device.shard != "none"

    @property
    def share(self) -> int:
        """Processes among which weights, gradients and optimizer are spread."""
        return self.processes if self.sharded else 1

    @property
    def width(self) -> int:
        """Bytes of a number in the passes."""
        return 2 if self.config.device.precision == "bfloat16" else 4


def estimate(config: TrainConfig, processes: int, gpu: float | None) -> Estimate:
    """The memory of a process of a run, for the longest row that `rollout.context` allows.

    Args:
        gpu: GiB of a GPU; None: the run is on a CPU.

    Raises:
        ConfigError: the batch does not divide among the processes, or weights are to be sharded over one.
        UnknownModelError: the base's config.json can't be had.
    """
    batch = _micro_batch(config, processes, gpu)
    architecture, sharded = read_config(config.base), config.device.shard != "none"
    dtype = torch.bfloat16 if sharded and batch.autocast else torch.float32
    launch = _Launch(config, processes, gpu, make_shapes(config, architecture, dtype), batch)
    ways = {way: update_bytes(launch.shapes, batch, checkpointing=way) for way in (False, True)}
    on = config.device.gradient_checkpointing
    passing = [*_update(launch, ways[on]), *_sampling(launch, architecture)]
    parts = [*_held(launch), *passing, *([] if gpu else [_gaps(passing)])]
    parts = [part for part in parts if part.samples or part.learns]
    more = (ways[not on].peak - ways[on].peak) * (1 if gpu else 1 + _GAPS)
    other = sum(part.learns for part in parts) + more
    found = Estimate(parts, [], other, config.base, processes, gpu, config.rollout.context)
    return replace(found, changes=_changes(launch, found, ways[on]))


def _micro_batch(config: TrainConfig, processes: int, gpu: float | None) -> MicroBatch:
    """The largest micro-batch of a launch: all its rows as long as `rollout.context`."""
    rows, device = micro_batch(config, processes), config.device
    if device.shard != "none" and processes == 1:
        raise ConfigError(f"device.shard {device.shard} is for several processes: give --processes N")
    an_update = config.rows // (processes * config.learning.minibatches)
    return MicroBatch(
        rows=rows,
        together=max(1, min(rows, device.bucket_tokens // config.rollout.context)),
        tokens=config.rollout.context,
        autocast=device.precision == "bfloat16",
        gradients=an_update == rows and device.shard == "none",
        gpu=gpu is not None,
    )


def _held(launch: _Launch) -> Iterator[Part]:
    """What stays: weights, optimizer, reference; and gradients."""
    config, shapes, share = launch.config, launch.shapes, launch.share
    of = f" / {share}" if share > 1 else ""
    weights, trained = shapes.weights * 4 / share, shapes.trained * 4 / share
    yield Part("weights", weights, weights, f"{shapes.weights / 1e6:,.1f}M x 4 B{of}, float32")
    name = str(config.trl.get("optim", "adamw"))
    state = next((size for start, size in _STATES.items() if start in name), 8)
    state = state // 4 if "8bit" in name else state
    optimizer = shapes.trained * state / share
    yield Part("optimizer", optimizer, optimizer, f"{name}: {state} B x {shapes.trained / 1e6:,.1f}M{of}")
    yield Part("gradients", 0, trained, f"4 B x {shapes.trained / 1e6:,.1f}M trained{of}")
    if launch.processes > 1 and not launch.sharded:
        yield Part("DDP's buckets", trained, trained, "gradients once more, to be summed")
    if config.learning.kl and config.lora is None:
        yield Part("reference", weights, weights, f"learning.kl: the base once more{of}")
    if launch.sharded:
        layers = (shapes.ends + 2 * shapes.layer) * launch.width
        head = shapes.head * launch.width
        gathers = config.rollout.engine == "transformers"
        whole = shapes.weights * launch.width if gathers else 0
        why = f"{'all to sample; ' if gathers else ''}2 layers, ends to learn"
        yield Part("gathered weights", whole, layers + head, why)


def _update(launch: _Launch, update: UpdateBytes) -> Iterator[Part]:
    """The activations of a micro-batch."""
    batch = launch.batch
    gradients = launch.shapes.trained * 4 if batch.gradients else 0  # counted already
    work = max(0, update.peak - update.kept - gradients)
    on = "on" if launch.config.device.gradient_checkpointing else "off"
    yield Part(
        "activations kept",
        0,
        update.peak - gradients - work,
        f"{batch.rows} rows x {batch.tokens} tokens, checkpointing {on}",
    )
    yield Part("one layer's work", 0, work, "in backward: a layer, or the head's tiles")


def _sampling(launch: _Launch, architecture: Any) -> Iterator[Part]:
    """What samples: a copy of the weights, keys and values; or vLLM."""
    config, rollout = launch.config, launch.config.rollout
    width = {"float32": 4, "bfloat16": 2}
    if rollout.engine == "vllm":
        yield _vllm(launch)
    if rollout.engine != "transformers":
        return
    shapes, autocast = launch.shapes, launch.batch.autocast
    if rollout.dtype is not None:
        shapes = make_shapes(config, architecture, getattr(torch, rollout.dtype))
        size = shapes.weights * width[rollout.dtype]
        yield Part("sampling copy", size, size, f"rollout.dtype {rollout.dtype}")
        autocast = False
    found = sampling_bytes(
        shapes,
        calls=-(-max(config.rows, config.validation.calls) // launch.processes),
        most=MOST_ROWS,
        context=rollout.context,
        prompt=min(config.data.longest_prompt or rollout.context, rollout.context),
        autocast=autocast,
    )
    yield Part("keys and values", found.cache, 0, f"{found.slots} slots x {found.room} tokens")
    yield Part("a step of decoding", found.work, 0, "prompts that are read, or logits")


def _gaps(passing: list[Part]) -> Part:
    """What a processor's allocator can't use again at once, by what comes and goes."""
    goes = [part for part in passing if part.samples != part.learns]  # a copy of the weights stays
    samples, learns = sum(part.samples for part in goes), sum(part.learns for part in goes)
    return Part("gaps", _GAPS * samples, _GAPS * learns, "between tensors: a tenth, as measured")


def _vllm(launch: _Launch) -> Part:
    settings = launch.config.rollout.vllm
    if launch.gpu is not None:
        size = settings.memory * launch.gpu * GIB
        why = f"rollout.vllm.memory {settings.memory:g} of {launch.gpu:g} GiB"
        return Part("vLLM", size, 0 if settings.sleep else size, why)
    narrow = (settings.dtype or launch.config.device.precision) == "bfloat16"
    name = "VLLM_CPU_KVCACHE_SPACE"
    space = float(os.environ.get(name, CPU_ENVIRONMENT[name]))
    size = launch.shapes.weights * (2 if narrow else 4) + space * GIB
    return Part("vLLM", size, size, f"a copy, and {name} {space:g} GiB")


def _changes(launch: _Launch, found: Estimate, update: UpdateBytes) -> list[tuple[str, float]]:
    """What to change first: the settings that save most where the sum is largest."""
    config, device = launch.config, launch.config.device
    learns = found.learns >= found.samples
    at = {part.name: part.learns if learns else part.samples for part in found.parts}
    saved: dict[str, float] = {}
    if not device.gradient_checkpointing and learns:
        saved["device.gradient_checkpointing=true"] = found.learns - found.other_way
    if launch.batch.rows > 1 and learns:
        saved["device.microbatch=1"] = update.kept * (1 - 1 / launch.batch.rows)
    spread = sum(at.get(name, 0) for name in ("weights", "optimizer", "gradients", "reference"))
    if not launch.sharded and (learns or config.rollout.engine != "transformers"):
        several = max(2, launch.processes)
        of = "" if launch.processes > 1 else f" and --processes {several}"
        saved[f"device.shard=fsdp2{of}"] = spread * (1 - 1 / several) + at.get("DDP's buckets", 0)
    if config.lora is None:
        saved["lora.rank=16"] = sum(
            at.get(name, 0) for name in ("optimizer", "gradients", "reference", "DDP's buckets")
        )
    if at.get("keys and values"):
        saved["rollout.prompts or rollout.group halved"] = at["keys and values"] / 2
    large = [(name, size) for name, size in saved.items() if size > _LARGE * found.total]
    return sorted(large, key=lambda change: -change[1])
