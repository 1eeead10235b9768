"""Random models of the presets' architectures and vocabularies, at a hundredth of the size, that can learn.

A model with random weights never writes an answer, so no reward differs, no sample has an advantage, and
nothing is learnt: a run would show little. Here a few rows of embedding and head are written by hand:
thinking goes on or ends by chance, and a solution is an answer with one of four digits, by chance. So a
quarter of the samples is right, and every group has something to learn from. All other weights are random.

The tokenizer is a stand-in for that of the R1 distills, without the hub: as many words, the same ids of their
control words, the form of their chat template; one word a byte, and one for each word of the usual prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from elastic_agent.training.data.schema import MATH_INSTRUCTION, STDIN_INSTRUCTION

WORDS = 151_643
"""Words before the control words, as Qwen2.5 has."""
CONTROL = (
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<|EOT|>",
    "<think>",
    "</think>",
)
"""The control words of the R1 distills, from id 151,643."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<\uff5cUser\uff5c>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<\uff5cAssistant\uff5c>{{ message['content'] + eos_token }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<\uff5cAssistant\uff5c><think>\n{% endif %}"
)
MARGIN = 24.0
"""Logit of a word that is written by hand; 151,936 random ones together are below a thousandth beside it."""
PROMPTS = (MATH_INSTRUCTION, STDIN_INSTRUCTION, "What is + - ? Print ( taco synthetic livecodebench train ).")
ANSWERS = "1234"
"""What a solution answers, each as often."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Qwen2; heads are of 32, the smallest that vLLM has."""

    words: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int


ARCHITECTURES = {
    # Of 1.78B: 1536 hidden, 28 layers, 12 heads, 2 with keys, 8960
    "1.5b": Architecture(151_936, hidden=64, layers=2, heads=2, kv_heads=1, mlp=384),
    # Of 7.6B: 3584 hidden, 28 layers, 28 heads, 4 with keys, 18944
    "7b": Architecture(152_064, hidden=224, layers=4, heads=7, kv_heads=1, mlp=1184),
    # Of 14.8B: 5120 hidden, 48 layers, 40 heads, 8 with keys, 13824
    "14b": Architecture(152_064, hidden=480, layers=4, heads=15, kv_heads=3, mlp=1296),
}
FORMS: dict[Literal["math", "code"], tuple[str, str]] = {
    "math": ("\\boxed{", "}."),
    "code": ("```python\nprint(", ")\n```"),
}
"""What a solution writes before its digit and after it."""


def make_model(folder: Path, size: str, form: Literal["math", "code"]) -> int:
    """Write a model's folder. Returns how many parameters it has."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from elastic_agent.training.grpo.export import export_model

    like = ARCHITECTURES[size]
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=like.words,
        hidden_size=like.hidden,
        intermediate_size=like.mlp,
        num_hidden_layers=like.layers,
        num_attention_heads=like.heads,
        num_key_value_heads=like.kv_heads,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
        bos_token_id=WORDS + 3,
        eos_token_id=WORDS,
    )
    model = Qwen2ForCausalLM(config)
    pieces = [*FORMS[form], "hmm "]
    _teach(model, pieces)
    export_model(model, make_tokenizer(pieces), folder)
    return sum(weights.numel() for weights in model.parameters())


def make_tokenizer(pieces: list[str]) -> Any:
    """A word a byte, then these pieces of text, words of prompts, fillers, and the control words."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    read = [word for text in PROMPTS for word, _ in split.pre_tokenize_str(f" {text}")]
    words = list(dict.fromkeys([*_bytes(), *(_spelled(piece) for piece in pieces), *read]))
    words += [f"filler{n}" for n in range(WORDS - len(words))]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    thinking = ("<think>", "</think>")
    tokenizer.add_tokens(
        [AddedToken(word, special=word not in thinking, normalized=False) for word in CONTROL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=CONTROL[3],
        eos_token=CONTROL[0],
        pad_token=CONTROL[0],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _bytes() -> list[str]:
    """How a byte-level tokenizer writes each byte, by number."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [n for n in range(256) if n not in seen]
    return [chr(n) if n in seen else chr(256 + unseen.index(n)) for n in range(256)]


def _spelled(text: str) -> str:
    letters = _bytes()
    return "".join(letters[byte] for byte in text.encode())


def _teach(model: Any, pieces: list[str]) -> None:
    """Write by hand which word follows which: each word has a direction, which its followers' heads read."""
    import torch

    before, after, muse = (256 + n for n in range(len(pieces)))
    end, close, line = WORDS, WORDS + CONTROL.index("</think>"), ord("\n")
    digits = [ord(digit) for digit in ANSWERS]
    follows = [(line, muse, 1.0), (muse, muse, 1.0), (muse, close, 1 - 1.8 / MARGIN)]  # at T=0.6 p = 0.05
    follows += [(close, before, 1.0), (after, end, 1.0)]
    follows += [pair for digit in digits for pair in ((before, digit, 1.0), (digit, after, 1.0))]
    hidden = model.config.hidden_size
    names = sorted({name for first, second, _ in follows for name in (first, second)})
    directions = dict(zip(names, torch.linalg.qr(torch.randn(hidden, hidden))[0], strict=False))
    with torch.no_grad():
        for name in names:
            model.model.embed_tokens.weight[name] = directions[name] * math.sqrt(hidden)
            model.lm_head.weight[name] = 0
        for first, second, share in follows:
            model.lm_head.weight[second] += directions[first] * (share * MARGIN / math.sqrt(hidden))
