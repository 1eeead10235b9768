"""How a run lies on several processes: what the launcher has started, and that accelerate runs just this.

accelerate decides by itself what to make of the arguments, and says nothing where it does less than was asked
for.
"""

from __future__ import annotations

import os
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from elastic_agent.errors import ConfigError

from ..config.processes import processes
from ..config.schema import TrainConfig

_SHARDED = {"fsdp2": "FSDP", "zero3": "DEEPSPEED"}
"""What accelerate calls each `device.shard`."""


def join(config: TrainConfig) -> None:
    """Meet the other processes on a CPU. On GPUs GRPOConfig does; on a CPU it leaves `device.timeout` out.

    Raises:
        ConfigError: weights are to be sharded over a single process, or by DeepSpeed, which is not here.
    """
    import torch
    from torch import distributed

    if config.device.shard != "none" and processes() == 1:
        raise ConfigError(
            f"device.shard {config.device.shard} is for several processes, and this is one: start them with "
            f"torch's launcher, or set device.shard=none"
        )
    check_deepspeed(config)
    if processes() == 1 or torch.cuda.is_available():
        return
    # accelerate would call the device cpu:0, which torch.load can't restore an optimizer to
    os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(seconds=config.device.timeout))
    if config.device.shard == "zero3":
        _join_deepspeed()


def check_deepspeed(config: TrainConfig) -> None:
    """Raises ConfigError where `device.shard` asks for DeepSpeed and it is not installed."""
    if config.device.shard == "zero3" and find_spec("deepspeed") is None:
        raise ConfigError(
            "device.shard zero3: DeepSpeed is not installed: pip install 'elastic-agent[train,deepspeed]'"
        )


def _join_deepspeed() -> None:
    """Let DeepSpeed take over the processes that torch has brought together on a CPU, and tell accelerate.

    accelerate would do it for GPUs only; TRL's arguments take the state that is made here as it is. The sums
    that DeepSpeed makes in a CPU's shared memory are left out, because they would be compiled first.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from accelerate.state import AcceleratorState, PartialState

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    try:
        PartialState(backend="gloo")
    finally:
        del os.environ["ACCELERATE_USE_DEEPSPEED"]


def let_cpus_shard(config: TrainConfig) -> None:
    """Let accelerate shard weights over processes without GPUs, which torch can and accelerate refuses.

    To be called when GRPOConfig is made and the trainer is not: in between accelerate decides.
    """
    import torch
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    if config.device.shard == "fsdp2" and processes() > 1 and not torch.cuda.is_available():
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def check_launch(config: TrainConfig, accelerator: Any) -> str:
    """A line on what accelerate runs.

    Raises:
        ConfigError: accelerate runs something else than what the launcher and the config have asked for.
    """
    runs, count = accelerator.distributed_type.value, accelerator.num_processes
    shard = config.device.shard
    if count != processes():
        raise ConfigError(f"the launcher started {processes()} processes, and accelerate runs {count}")
    sharded = runs if runs in _SHARDED.values() else None
    if sharded != _SHARDED.get(shard):
        raise ConfigError(
            f"device.shard is {shard}, and accelerate runs {runs} on {count} process(es): launch with "
            f"torch.distributed.run, and leave it to device.shard how weights are held"
        )
    held = "weights whole on each" if shard == "none" else f"weights sharded by {shard}"
    return f"{count} process(es) on {accelerator.device.type}, {held}"


def lost_others(error: BaseException) -> bool:
    """Whether this error says that another process is gone, or did not answer in time."""
    from torch import distributed

    if processes() == 1 or not isinstance(error, RuntimeError):
        return False
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    return isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in words)


def act_alone() -> None:
    """From here on this process counts as the only one, so nothing that it calls waits for a lost one.

    torch forgets the others, too: transformers writes weights only where torch's own rank is 0.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    for state in (PartialState, AcceleratorState):
        state._shared_state.update(
            distributed_type=DistributedType.NO, num_processes=1, process_index=0, local_process_index=0
        )
