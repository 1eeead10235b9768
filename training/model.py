"""The architecture of e1-tiny: a small Qwen3, so transformers and vLLM load it as they load a big one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .tokenizer import END, PAD, build_tokenizer, vocabulary


def new_model(*, hidden: int = 192, layers: int = 4, heads: int = 4, mlp: int = 512) -> Any:
    """A ``Qwen3ForCausalLM`` with random weights (about 1.9M parameters at the defaults), float32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    vocab = vocabulary()
    config = Qwen3Config(
        vocab_size=len(vocab),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=vocab[END],
        pad_token_id=vocab[PAD],
    )
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    return Qwen3ForCausalLM(config)


def load_model(folder: str | Path) -> Any:
    """A saved model in float32 for compute: bfloat16 weights are widened, which loses nothing."""
    import torch
    from transformers import AutoModelForCausalLM

    from elastic_agent.backends.transformers.attention import GROUPED

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation=GROUPED
    )
    return model.eval()


def save_model(model: Any, folder: str | Path) -> None:
    """Write a complete model folder, weights in bfloat16. The model handed in is not changed."""
    import copy

    import torch
    from transformers import GenerationConfig

    vocab = vocabulary()
    narrow = copy.deepcopy(model).to(torch.bfloat16)
    narrow.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.95, eos_token_id=vocab[END], pad_token_id=vocab[PAD]
    )
    narrow.save_pretrained(str(folder))
    build_tokenizer().save_pretrained(str(folder))


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
