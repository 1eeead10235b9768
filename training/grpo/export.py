"""Loading the weights that a run starts from, and writing those that it ends with.

Weights are read one at a time and written in bfloat16 (`write_weights`). The same writer serves a run's end
(`export_model`) and a checkpoint (`export_checkpoint`), so both give the same bytes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from elastic_agent.backends.transformers.lora import SETTINGS
from elastic_agent.errors import UnknownModelError
from elastic_agent.model_location import model_path

from ..rollouts.engines.weight_files import INDEX, write_weights
from .adapters import Adapters, merged, whole_tensor


def load_model(folder: str | Path, **options: Any) -> Any:
    """A saved model in float32 for compute: bfloat16 weights are widened, which loses nothing.

    Args:
        options: of `from_pretrained`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from elastic_agent.backends.transformers.attention import GROUPED

    settings = {"dtype": torch.float32, "attn_implementation": GROUPED} | options
    model = AutoModelForCausalLM.from_pretrained(str(folder), **settings)
    return model.eval()


def export_model(model: Any, tokenizer: Any, folder: str | Path, *, write: bool = True) -> None:
    """Write a trained model of any base as a complete folder, weights in bfloat16, adapters merged.

    The folder loads unchanged in transformers, vLLM and `ChatElasticReasoning(model=...)`. Adapters are kept
    beside it, in `adapter/`. The model handed in is not changed.

    Args:
        write: false in all processes but one. Where weights are sharded, every process must call this.
    """
    folder = Path(folder)
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    adapters = Adapters.of_model(model)
    weights = _weights_of(base, adapters)
    if not write:
        for _ in weights:  # gathers its part
            pass
        return
    folder.mkdir(parents=True, exist_ok=True)
    if adapters.parts:
        adapters.save(folder / "adapter")
    write_weights(weights, folder)
    if not base.config.architectures:  # made anew
        base.config.architectures = [type(base).__name__]
    _write_configs(base.config, base.generation_config, tokenizer, folder)


def export_checkpoint(checkpoint: Path, folder: Path, log: Callable[[str], None] = print) -> None:
    """Write the model of a run's checkpoint as `export_model` would have written it.

    Raises:
        UnknownModelError: no weights in safetensors are there, or the adapters' base is not.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    adapters, source = Adapters(), checkpoint
    if (checkpoint / SETTINGS).is_file():
        adapters = Adapters.of_folder(checkpoint)
        source = _folder_of(adapters.base)
        log(f"merging the adapters of {checkpoint} into {source}")
    config = AutoConfig.from_pretrained(str(source))
    skip = _tied(config)
    weights = ((name, tensor) for name, tensor in _stored(source) if name not in skip)
    folder.mkdir(parents=True, exist_ok=True)
    if adapters.parts:
        adapters.save(folder / "adapter")
    write_weights(merged(weights, adapters), folder)
    generation = None
    if (source / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(str(source))
    _write_configs(config, generation, AutoTokenizer.from_pretrained(str(checkpoint)), folder)


def _weights_of(base: Any, adapters: Adapters) -> Iterator[tuple[str, Any]]:
    """The weights of a model in training, whole and on the CPU, under the names of the base."""
    tied = set(getattr(base, "all_tied_weights_keys", None) or {})
    plain = (
        (clean, parameter)
        for name, parameter in base.state_dict(keep_vars=True).items()
        if "lora_" not in name and (clean := name.replace(".base_layer.", ".")) not in tied
    )
    return merged(((name, whole_tensor(parameter)) for name, parameter in plain), adapters)


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a saved model, each read from the disk when its turn comes."""
    from safetensors import safe_open

    index = folder / INDEX
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    for name in names:
        if not (folder / name).is_file():
            raise UnknownModelError(f"{folder} holds no weights to export: {name} is missing")
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                yield key, file.get_tensor(key)


def _folder_of(name: str) -> Path:
    """The folder of a base: a model of ours, a folder, or a hub id, which is read from the hub's cache."""
    path = Path(model_path(name)).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))


def _tied(config: Any) -> Mapping[str, str]:
    """Names of weights that are written once, under another name."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return getattr(model, "all_tied_weights_keys", None) or {}


def _write_configs(config: Any, generation: Any, tokenizer: Any, folder: Path) -> None:
    import torch

    config = copy.deepcopy(config)
    config.dtype = torch.bfloat16
    config.use_cache = True  # training turns it off
    config.save_pretrained(str(folder))
    if generation is not None:
        generation.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
