"""Low-rank adapters from a folder, as peft writes them: read, checked, and added to a model's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UnknownModelError

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""Before the name of a weight in the file of weights."""
_PLAIN = {"bias": "none", "use_dora": False, "use_rslora": False, "fan_in_fan_out": False}
"""What the settings must say for a weight to be what `change_of` says; those that this project writes do."""


def adapted(folder: str | Path) -> str | None:
    """The name of the model that the adapters in a folder are for; None: it holds none, or a whole model."""
    path = Path(folder)
    if not (path / SETTINGS).is_file() or (path / "config.json").is_file():
        return None
    return str(json.loads((path / SETTINGS).read_text(encoding="utf-8"))["base_model_name_or_path"])


def read_adapters(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The matrices by peft's name ("base_model.model.….q_proj.lora_A.weight"), and the settings.

    Raises:
        UnknownModelError: adapters of another kind, or a file is missing.
    """
    from safetensors.torch import load_file

    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        parts = load_file(folder / WEIGHTS)
    except OSError as error:
        raise UnknownModelError(f"{folder} holds no adapters: {error}") from None
    for key, value in _PLAIN.items():
        if settings.get(key, value) != value:
            raise UnknownModelError(f"{folder}: adapters with {key} {settings[key]} can't be added here")
    return parts, settings


def change_of(parts: Mapping[str, Any], settings: Mapping[str, Any], first: str) -> Any:
    """What the adapter adds to its weight: B A alpha / rank, in float32.

    Args:
        first: the name of its matrix A.
    """
    down, up = parts[first], parts[first.replace("lora_A", "lora_B")]
    return (up.float() @ down.float()) * (settings["lora_alpha"] / settings["r"])


def add_adapters(model: Any, folder: Path) -> None:
    """Add the adapters of a folder to the weights of a model.

    Raises:
        UnknownModelError: the model has no such weight, or one of another shape: it is not their base.
    """
    parts, settings = read_adapters(folder)
    weights = dict(model.named_parameters())
    for first in sorted(name for name in parts if ".lora_A." in name):
        name = first.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")
        change = change_of(parts, settings, first)
        weight = weights.get(name)
        if weight is None or weight.shape != change.shape:
            raise UnknownModelError(
                f"{folder} adapts {name} of {settings['base_model_name_or_path']}, and the model given as "
                f"its base has no such weight"
            )
        weight.data = (weight.data.float() + change.to(weight.device)).to(weight.dtype)
