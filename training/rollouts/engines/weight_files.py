"""Weights as safetensors, written one tensor at a time.

They are written from the processor's memory: at most one tensor in float32 and twice a file of `FILE_BYTES`
are held (safetensors copies a file once).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE_BYTES = 1024**3
"""Most bytes of one file of weights."""
INDEX = "model.safetensors.index.json"
Weights = Iterable[tuple[str, Any]]
"""Names and tensors, each read when its turn comes."""


def write_weights(
    weights: Weights, folder: Path, most: int = FILE_BYTES, precision: str = "bfloat16"
) -> None:
    """Write the tensors as `model.safetensors`, or as several files of `most` bytes and an index.

    Numbers that are no floating point keep their type.
    """
    from safetensors.torch import save_file

    for old in folder.glob("model*.safetensors*"):
        old.unlink()
    held: dict[str, Any] = {}
    files: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        files.append(list(held))
        save_file(held, folder / f"part-{len(files)}.safetensors", metadata={"format": "pt"})
        held.clear()

    for name, tensor in weights:
        narrow = _narrow(tensor, precision)
        if held and size + narrow.nbytes > most:
            flush()
            size = 0
        held[name] = narrow
        size, total = size + narrow.nbytes, total + narrow.nbytes
    flush()
    if len(files) == 1:
        (folder / "part-1.safetensors").replace(folder / "model.safetensors")
        return
    where: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        (folder / f"part-{number}.safetensors").replace(folder / file)
        where |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _narrow(tensor: Any, precision: str) -> Any:
    """A tensor of its own on the CPU."""
    import torch

    dtype = getattr(torch, precision) if tensor.is_floating_point() else tensor.dtype
    kept = tensor.detach().to("cpu", dtype)
    return kept.contiguous().clone() if kept.data_ptr() == tensor.data_ptr() else kept.contiguous()
