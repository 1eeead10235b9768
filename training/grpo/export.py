"""Loading the weights that a run starts from, and writing those that it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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


def export_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write a trained model of any base as a complete folder, weights in bfloat16, adapters merged.

    The folder loads unchanged in transformers, vLLM and `ChatElasticReasoning(model=...)`. Adapters are kept
    beside it, in `adapter/`. The model handed in is not changed.
    """
    import copy

    import torch

    narrow = copy.deepcopy(model)
    if hasattr(narrow, "merge_and_unload"):  # peft
        narrow.save_pretrained(str(Path(folder) / "adapter"))
        narrow = narrow.merge_and_unload()
    narrow.to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
