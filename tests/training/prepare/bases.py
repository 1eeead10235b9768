"""Bases that have never thought: one random layer, and a byte-level BPE trained on a few lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from elastic_agent.training.prepare.settings import Settings, digest_of

TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""ChatML with tools, which knows nothing of thinking."""
TEXT = ["how many apples are left ? two and three make five , so the answer is 5 ."] * 4
TAGS = ("<|im_start|>", "<|im_end|>")


def bpe(
    *, template: str | None = TEMPLATE, tags: Sequence[str] = TAGS, extra: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer: bytes, some sixty merges, `<|endoftext|>`, the tags of its template, further tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([*TEXT, "think thinking"] * 4, trainer)
    for text in ("<|endoftext|>", *tags, *extra):
        core.add_tokens([AddedToken(text, special=True, normalized=False)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=tags[-1] if tags else "<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
    )
    made.chat_template = template
    return made


def make_base(folder: Path, tokenizer: Any, *, spare: int = 0, tied: bool = True, context: int = 192) -> Path:
    """A model folder: one random layer, with so many rows behind the tokenizer's last id."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer) + spare,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Traces of sums; every fourth needs no thinking."""
    return [
        {
            "question": f"how many are {n} and {n + 1} ?",
            "thinking": f"{n} and {n + 1} make {2 * n + 1} ." if n % 4 else "",
            "solution": f"the answer is {2 * n + 1}",
            "answer": 2 * n + 1,
        }
        for n in range(count)
    ]


def write(path: Path, lines: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def settings_for(base: Path, output: Path, traces: Path | None = None, **changes: Any) -> Settings:
    """A run of seconds."""
    usual: dict[str, Any] = {"batch": 4, "steps": 2, "check": 0, "rate": 0.01}
    digest = digest_of(traces) if traces else ""
    return Settings(str(base), output, traces, digest, **usual | changes)
