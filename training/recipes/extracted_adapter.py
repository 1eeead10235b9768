"""What a model learnt, as one LoRA adapter of the model that it began as.

A cold start of all weights and the training after it change every weight. Of each linear layer's change the
largest `rank` singular values are kept; changes of embeddings and norms are left out. So the adapter is an
approximation, and how much of the changes it holds is said: measure it before it is shipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elastic_agent.backends.transformers.lora import PREFIX
from elastic_agent.model_location import model_path

from ..grpo.adapters import Adapters

_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "chat_template*", "generation_config.json")
"""What a model folder holds beside weights that a caller of the adapter needs."""
_OVERSAMPLED, _ROUNDS = 16, 4
"""Of the randomised decomposition: further directions, and rounds that sharpen it."""


def extract_adapter(
    base: str, model: Path, output: Path, rank: int, *, name: str, log: Callable[[str], None] = print
) -> dict[str, float]:
    """Write the adapter in bfloat16, with scale 1, and beside it the model's tokenizer and chat template.

    Args:
        base: folder or hub id of the model that `model` was made from.
        name: what the adapter calls it.
        rank: of each layer's two matrices.

    Returns:
        `kept`, the share of the squared change of all linear layers that the adapter holds, and `outside`,
        the share of the whole squared change that lies in embeddings and norms.

    Raises:
        OSError: no weights there.
    """
    import torch
    from torch import nn

    from ..grpo.export import load_model

    before, after = load_model(model_path(base)), load_model(model)
    linear = [name for name, module in before.named_modules() if isinstance(module, nn.Linear)]
    head = next((n for n, m in before.named_modules() if m is before.get_output_embeddings()), "")
    changes = _changes(before.state_dict(), after.state_dict())
    layers = {layer: changes.pop(f"{layer}.weight") for layer in linear if layer != head}
    generator = torch.Generator().manual_seed(0)
    parts, kept = {}, 0.0
    for layer, change in layers.items():
        up, down = _factors(change, rank, generator)
        parts[f"{PREFIX}{layer}.lora_B.weight"] = up.to(torch.bfloat16).contiguous()
        parts[f"{PREFIX}{layer}.lora_A.weight"] = down.to(torch.bfloat16).contiguous()
        kept += float(change.square().sum() - (change - up @ down).square().sum())
    inside = sum(float(change.square().sum()) for change in layers.values())
    outside = sum(float(change.square().sum()) for change in changes.values())
    found = {"kept": kept / max(inside, 1e-30), "outside": outside / max(inside + outside, 1e-30)}
    targets = sorted({layer.rpartition(".")[2] for layer in layers})
    Adapters(parts, _settings(name, targets, rank)).save(output)
    for pattern in _TOKENIZER:
        for file in model.glob(pattern):
            shutil.copy(file, output)
    log(
        f"wrote {output}: rank {rank}, {found['kept']:.0%} of the change of linear layers; "
        f"{found['outside']:.0%} of the whole change lies outside of them"
    )
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What each weight has gained; tied ones once."""
    seen: set[int] = set()
    found = {}
    for name, weight in after.items():
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            found[name] = weight.float() - before[name].float()
    return found


def _factors(change: Any, rank: int, generator: Any) -> tuple[Any, Any]:
    """The two matrices whose product is nearest to a change, by randomised decomposition."""
    import torch

    width = min(rank + _OVERSAMPLED, *change.shape)
    basis = change @ torch.randn(change.shape[1], width, generator=generator)
    for _ in range(_ROUNDS):
        basis, _ = torch.linalg.qr(change @ (change.T @ basis))
    left, values, right = torch.linalg.svd(basis.T @ change, full_matrices=False)
    root = values[:rank].sqrt()
    return (basis @ left[:, :rank]) * root, right[:rank] * root[:, None]


def _settings(base: str, targets: list[str], rank: int) -> dict[str, Any]:
    from peft import LoraConfig

    config: Any = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM", inference_mode=True
    )
    settings: dict[str, Any] = config.to_dict()
    return settings | {"base_model_name_or_path": base}
