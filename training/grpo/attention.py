"""`device.attention`: what computes attention in training, and whether this machine can.

Rollouts in process give the model masks of all pairs of tokens, which flash attention can't read, so they
decode with torch's attention whatever this says (`elastic_agent.training.rollouts.engines.in_process`).
"""

from __future__ import annotations

from importlib.util import find_spec

from elastic_agent.backends.transformers.attention import GROUPED
from elastic_agent.errors import ConfigError

from ..config.schema import TrainConfig

PACKAGES = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
"""The module that an implementation needs, and the package that has it."""


def implementation(config: TrainConfig) -> str:
    """transformers' name for `device.attention`."""
    return GROUPED if config.device.attention == "sdpa" else config.device.attention


def check_attention(config: TrainConfig) -> None:
    """Check that this machine has what `device.attention` needs.

    Raises:
        ConfigError: it lacks the package or a GPU, or the precision is one that the kernels can't compute in.
    """
    name = config.device.attention
    if name not in PACKAGES:
        return
    module, package = PACKAGES[name]
    if config.device.precision != "bfloat16":
        raise ConfigError(f"device.attention {name} computes in bfloat16: set device.precision=bfloat16")
    if find_spec(module) is None:
        raise ConfigError(
            f"device.attention {name} needs the package {package}, which this Python lacks: install it, or "
            f"take device.attention=sdpa"
        )
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"device.attention {name} needs a GPU: take device.attention=sdpa")
