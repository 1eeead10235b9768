"""LoRA adapters as folders that a server loads while they are in training.

A folder's name is the hash of its content, and the folder appears in one step. So a folder that exists is
complete, and two adapters never share a name. vLLM needs the second: it keys its prefix cache by an adapter's
name and path, so new weights under an old path would read keys and values that the old weights computed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...config.schema import TrainConfig
from ...config.trl_arguments import make_adapters

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_adapter(model: Any, folder: Path, weights: dict[str, Any] | None = None) -> Path:
    """Save the adapter of a peft model (or `weights` of its shape) in `folder`, under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    fresh.chmod(0o755)  # mkdtemp's own is for this user alone, and the server may run as another
    # Embeddings are never trained here; looking for them would ask the hub, at every save
    model.save_pretrained(str(fresh), state_dict=weights, save_embedding_layers=False)
    digest = hashlib.sha256(b"".join((fresh / name).read_bytes() for name in _FILES)).hexdigest()[:16]
    if (folder / digest).exists():
        shutil.rmtree(fresh)
        return folder / digest
    return fresh.rename(folder / digest)


def write_blank_adapter(config: TrainConfig, base: str) -> Path:
    """An adapter of the run's shape that changes nothing, written without loading the base."""
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        model = get_peft_model(model, make_adapters(config))
    zeros = {k: torch.zeros(v.shape) for k, v in model.state_dict().items() if "lora_" in k}
    return write_adapter(model, adapters_folder(config), zeros)


def adapters_folder(config: TrainConfig) -> Path:
    """Where this run's adapters go, absolute: a server has a working directory of its own."""
    return (config.rollout.server.folder or config.output / "adapters").expanduser().resolve()
