"""Low-rank adapters as they are written: gathered from a model or read from a checkpoint, and merged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elastic_agent.backends.transformers.lora import PREFIX, SETTINGS, WEIGHTS, change_of, read_adapters
from elastic_agent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Adapters:
    """The two matrices of each adapted weight, on the CPU; empty where all weights are trained."""

    parts: dict[str, Any] = field(default_factory=dict)
    """By peft's name in a file: "base_model.model.….q_proj.lora_A.weight"."""
    settings: dict[str, Any] = field(default_factory=dict)
    """adapter_config.json."""

    @classmethod
    def of_model(cls, model: Any) -> Adapters:
        """Those of a peft model in training; every process must call it where weights are sharded."""
        if not hasattr(model, "peft_config"):
            return cls()
        name = model.active_adapter
        settings = model.peft_config[name].to_dict() | {"inference_mode": True}
        found = {
            key.replace(f".{name}.", "."): whole_tensor(parameter)
            for key, parameter in model.state_dict(keep_vars=True).items()
            if ".lora_" in key
        }
        return cls(found, settings)

    @classmethod
    def of_folder(cls, folder: Path) -> Adapters:
        """Those that peft has saved in a checkpoint.

        Raises:
            UnknownModelError: adapters of a kind that this project does not train.
        """
        return cls(*read_adapters(folder))

    @property
    def base(self) -> str:
        return str(self.settings["base_model_name_or_path"])

    def save(self, folder: Path) -> None:
        """Write them as peft does."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.parts, folder / WEIGHTS, metadata={"format": "pt"})
        targets = self.settings["target_modules"]  # a set, in any order
        settings = self.settings | {
            "target_modules": targets if isinstance(targets, str) else sorted(targets)
        }
        text = json.dumps(settings, indent=2, sort_keys=True, default=str)
        (folder / SETTINGS).write_text(text, encoding="utf-8")


def whole_tensor(parameter: Any) -> Any:
    """A parameter on the CPU, gathered from all processes where FSDP2 or ZeRO-3 has spread it."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().cpu().clone()
    found = parameter.detach()
    return (found.full_tensor() if hasattr(found, "full_tensor") else found).cpu()


def merged(weights: Iterable[tuple[str, Any]], adapters: Adapters) -> Iterator[tuple[str, Any]]:
    """The weights, each with what its adapter adds: B A alpha / rank, in float32.

    Raises:
        ConfigError: an adapter is for a weight that is not there.
    """
    left = {name for name in adapters.parts if ".lora_A." in name}
    for name, weight in weights:
        first = f"{PREFIX}{name.removesuffix('.weight')}.lora_A.weight"
        if first not in left:
            yield name, weight
            continue
        left.remove(first)
        yield name, weight.float() + change_of(adapters.parts, adapters.settings, first)
    if left:
        raise ConfigError(f"the base has no weight for the adapter {min(left)}")
