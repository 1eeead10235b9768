"""What benchmarks of training share: a model where none is given, a reward, servers that take adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = 151_936
REWARD = f"{__name__}:reward"
"""What `reward.kind` in a config calls the reward below."""
ADAPTERS = ("--enable-lora", "--max-loras=1", "--max-lora-rank=16")
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
"""Options and environment of a vLLM server that takes adapters in training."""


def reward(**columns: Any) -> list[float]:
    """Some ids are better, so that every group has an advantage and every row is learnt from."""
    return [sum(i % 7 for i in ids) / (7 * max(1, len(ids))) for ids in columns["solution_ids"]]


def make_model(folder: Path, *, hidden: int = 512, layers: int = 8) -> Path:
    """A random Qwen3 of 151,936 words, with the tokenizer of e1-tiny; of 109M parameters as it stands."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from elastic_agent.model_location import model_path

    torch.manual_seed(0)
    tiny = model_path("e1-tiny-base")
    config = AutoConfig.from_pretrained(tiny)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    }
    for name, value in {**sizes, "num_hidden_layers": layers, "head_dim": 64, "vocab_size": WORDS}.items():
        setattr(config, name, value)
    config.layer_types = ["full_attention"] * layers
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def needs_markers(model: Path) -> bool:
    """Whether the tokenizer names no thinking markers."""
    from elastic_agent.errors import NoMarkersError
    from elastic_agent.prompts.model_files import load_tokenizer
    from elastic_agent.training.rollouts.prompts import codec_of

    try:
        _ = codec_of(load_tokenizer(str(model), name=str(model)), None).markers
    except NoMarkersError:
        return True
    return False
