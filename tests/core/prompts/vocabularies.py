"""Small made-up vocabularies with the merges of real ones, and a model that speaks through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.prompts.tokenizer import HFCodec

# How Qwen2 (and so the R1 distills, and Llama 3 but for digits) splits a text before it merges
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Ċ is a line feed. As in Qwen2: <think>\n is <th ink >\n, <think> is <th ink >, .</think> is .</ think >
MERGES = [
    *(("t", "h"), ("i", "n"), ("in", "k"), ("<", "th"), ("th", "ink"), ("<", "/"), (".", "</"), ("Ċ", "Ċ")),
    *((">", "ĊĊ"), (">", "Ċ"), (">", "{"), (">{", '"'), ("o", "k"), ("n", "al"), ("a", "l"), ("s", "is")),
    *(("i", "s"), ("w", "h")),
]
QUESTION = [{"role": "user", "content": "how many?"}]
CHAT = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
START{% endif %}"""


def merging(
    *, prefill: str = "<think>\n", controls: Sequence[str] = (), template: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose thinking markers are plain text unless they are among `controls`."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [(a, b) for a, b in MERGES if a in vocabulary or any(a == x + y for x, y in MERGES)]
    for a, b in merges:
        vocabulary.setdefault(a + b, len(vocabulary))
    core = Tokenizer(models.BPE(vocabulary, [m for m in merges if m[0] in vocabulary and m[1] in vocabulary]))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *controls):
        core.add_tokens([AddedToken(text, special=True, normalized=False)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    made.chat_template = CHAT.replace("START", prefill) if template is None else template
    return made


class Speaker(ScriptedBackend):
    """A model that says one text to `QUESTION`, in the tokens that its tokenizer makes of it.

    Where the text was cut and a close forced it says `answer`.
    """

    def __init__(self, codec: HFCodec, says: str | Sequence[int], answer: str = "ok", **options: Any) -> None:
        super().__init__(Reply(), model="speaker", **options)
        self.codec = codec  # type: ignore[assignment]
        encode = codec.tokenizer.encode
        ids = encode(says, add_special_tokens=False) if isinstance(says, str) else says
        end = codec.tokenizer.eos_token_id
        self.tape, self.answer = [*ids, end], [*encode(answer, add_special_tokens=False), end]
        self.asked = len(codec.encode_chat(QUESTION))

    def _script(self, prompt: tuple[int, ...], extra: Mapping[str, Any]) -> tuple[Reply, list[int]]:
        said = list(prompt[self.asked :])
        go_on = said == self.tape[: len(said)]
        return Reply(), self.tape[len(said) :] if go_on else self.answer


def tiny_model(folder: Path, tokenizer: Any, context: int = 512) -> Path:
    """A model folder: random weights under a tokenizer."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
