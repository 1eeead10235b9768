"""The architecture of e1-tiny: a small Qwen3, so transformers and vLLM load it as they load a big one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elastic_agent.training.grpo.export import export_model

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


def save_model(model: Any, folder: str | Path) -> None:
    """Write a complete folder: weights in bfloat16, the tokenizer, the sampling that the model prefers."""
    from transformers import GenerationConfig

    vocab = vocabulary()
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.95, eos_token_id=vocab[END], pad_token_id=vocab[PAD]
    )
    export_model(model, build_tokenizer(), folder)
