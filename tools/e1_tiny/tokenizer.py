"""The tokenizer of e1-tiny: word level, digits one by one, Qwen-style chat with a prefilled <think>.

A real ``tokenizers`` file, so transformers and vLLM load it without code of ours. Words outside the
vocabulary become <unk>. The decoder glues digits and punctuation back, so people read "37 - 12 = 25."
and not "3 7 - 1 2 = 2 5 .".
"""

from __future__ import annotations

from typing import Any

from elastic_agent.training.data import word_problems

from .traces import TOKEN

PAD, START, END, THINK, CLOSE, UNKNOWN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<unk>",
)
SPECIALS = (PAD, START, END, THINK, CLOSE, UNKNOWN)

_SENTENCES = (
    "system user assistant A An The a an the has have How many items are is left in all now what What",
    "Okay let me think start wait that right yes check all again so it she he we of Answer and then",
    "You you helpful careful assistant answer question problem solve with budget total please Please",
    "gives away takes more most no not No Yes each every day to from at for first last next There were",
    "They They they What day starts ends after before Add up sum result branch Hello hello thank thanks",
)
_SIGNS = ". , : ? ! + - * = / ( ) ' \" ;"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- set content = message['content'] -%}
{%- if message['role'] == 'assistant' and '</think>' in content -%}
{%- set content = content.split('</think>')[-1] -%}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n<think>\\n' -}}
{%- endif -%}
"""


def vocabulary() -> dict[str, int]:
    """Every token and its id: specials first, then digits, labels, signs and words in a fixed order."""
    names: list[str] = list(SPECIALS)
    names += [str(digit) for digit in range(10)]
    names += [f"#{label}" for label in range(1, word_problems.MAX_STEPS + 1)]
    names += _SIGNS.split()
    names += [*word_problems.NOUNS, *word_problems.VERBS_ADD, *word_problems.VERBS_TAKE, *word_problems.PACKS]
    names += [word for who, pronoun in word_problems.SUBJECTS for word in (*who.split(), pronoun)]
    names += " ".join(_SENTENCES).split()
    return {name: index for index, name in enumerate(dict.fromkeys(names))}


def build_tokenizer() -> Any:
    """A ``PreTrainedTokenizerFast`` ready for ``save_pretrained``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True)
    core.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),  # puts a space before every word but the first
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<!#\d)(?<!#10)(?<=\d) (?=\d)"), ""),
            decoders.Replace(Regex(r" (?=[.,:?!;])"), ""),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[START, THINK, CLOSE],
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
