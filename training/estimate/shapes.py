"""The model of a config without numbers: tensors have shapes and types, and take no memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses import fake_tensor

from elastic_agent.backends.transformers.attention import GROUPED
from elastic_agent.errors import ConfigError, UnknownModelError
from elastic_agent.model_location import hub_or_disk, model_path

from ..config.schema import TrainConfig
from ..config.trl_arguments import make_adapters
from .live_bytes import LiveBytes

_NEEDS_NUMBERS = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
)


@dataclass(frozen=True, slots=True)
class Shapes:
    """A model without numbers, with adapters where the config has some.

    Attributes:
        mode: within it the model can compute.
        masked: attention reads a mask of all pairs of tokens; flash attention does not.
        eager: the mask is of numbers that are added, not of booleans.
    """

    model: Any
    mode: Any
    masked: bool
    eager: bool

    @property
    def weights(self) -> int:
        """Numbers in all weights, adapters included."""
        return _numbers(self.model)

    @property
    def trained(self) -> int:
        """Numbers in the weights that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def layer(self) -> int:
        """Numbers in the largest layer: sharded weights are gathered a layer at a time."""
        stacks = [m for m in self.model.modules() if isinstance(m, torch.nn.ModuleList)]
        return max((_numbers(layer) for stack in stacks for layer in stack), default=0)

    @property
    def head(self) -> int:
        """Numbers in the head."""
        return int(self.model.get_output_embeddings().weight.numel())

    @property
    def ends(self) -> int:
        """Numbers in embeddings and head, counted once where they are tied."""
        model = self.model
        ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
        return sum(weight.numel() for weight in {id(weight): weight for weight in ends}.values())

    @contextmanager
    def counted(self) -> Iterator[LiveBytes]:
        """Within, the model computes without numbers, and what it makes is counted.

        Raises:
            ConfigError: what it computes depends on numbers, as the choice of experts may.
        """
        known = [*self.model.parameters(), *self.model.buffers()]
        try:
            with self.mode, LiveBytes(known) as live:
                yield live
        except _NEEDS_NUMBERS as error:
            name = type(self.model).__name__
            raise ConfigError(
                f"--estimate: what {name} computes depends on more than shapes: {error}"
            ) from None

    def mask(self, rows: int, tokens: int) -> Any:
        """The mask of rows of which some are padded, [rows, 1, tokens, tokens]; None where there is none."""
        if not self.masked or (rows == 1 and not self.eager):  # a single row is not padded
            return None
        dtype = self.model.dtype if self.eager else torch.bool
        return torch.zeros(rows, 1, tokens, tokens, dtype=dtype)


def read_config(base: str) -> Any:
    """The architecture of a base: of the package, a folder with a config.json, or the hub.

    Raises:
        UnknownModelError: none of these has it.
    """
    from transformers import AutoConfig

    place = Path(model_path(base)).expanduser()
    try:
        return AutoConfig.from_pretrained(str(place) if place.is_dir() else hub_or_disk(base))
    except UnknownModelError as error:
        raise UnknownModelError(f"base: {error} (--base FOLDER; a config.json in it is enough)") from None
    except (OSError, ValueError) as error:
        raise UnknownModelError(f"base: no config of {base}: {str(error).splitlines()[0]}") from None


def make_shapes(config: TrainConfig, architecture: Any, dtype: torch.dtype = torch.float32) -> Shapes:
    """The model of an architecture under a config.

    Args:
        dtype: of the weights in a pass.

    Raises:
        ConfigError: the architecture is no causal language model, or has no module that `lora` names.
    """
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    named, adapters, mode = config.device.attention, make_adapters(config), fake_tensor.FakeTensorMode()
    attention = {"eager": "eager", "sdpa": GROUPED}.get(named, "sdpa")
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(
                copy.deepcopy(architecture), attn_implementation=attention, dtype=dtype
            )
            add_fused_lm_head(model, outputs=("log_probs", "entropy"))
            if adapters is not None:
                model = get_peft_model(model, adapters)
                model.enable_input_require_grads()  # as TRL does
    except ValueError as error:
        raise ConfigError(f"--estimate: {str(error).splitlines()[0]}") from None
    with mode:
        _move_to_cpu(model)
    return Shapes(model, mode, masked=named in ("sdpa", "eager"), eager=named == "eager")


def _move_to_cpu(model: Any) -> None:
    """Replace tensors of the device "meta", on which autocast does not work. Tied ones stay tied."""
    made: dict[int, Any] = {}

    def on_cpu(tensor: Any) -> Any:
        new = torch.empty(tensor.shape, dtype=tensor.dtype)
        if isinstance(tensor, torch.nn.Parameter):
            new = torch.nn.Parameter(new, requires_grad=tensor.requires_grad)
        return made.setdefault(id(tensor), new)

    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                store[name] = None if tensor is None else on_cpu(tensor)


def _numbers(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
