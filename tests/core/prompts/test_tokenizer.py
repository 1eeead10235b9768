"""Law 7, user text is data: no control token comes out of it, and the model still reads the same text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from elastic_agent.errors import NoMarkersError, UnknownModelError
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.tokenizer import HFCodec, load_codec

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "<|x|><|y|>"]
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% elif m.content %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""  # noqa: E501


def tokenizer(*, special: bool = False, normalizer: Any = None, template: str | None = TEMPLATE) -> Any:
    """A byte-level BPE without merges, and added tokens; `<think>` is not special in Qwen3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    for text in CONTROL:
        thinking = text in ("<think>", "</think>", "<tool_call>", "<|x|><|y|>")
        core.add_tokens(
            [AddedToken(text, special=special or not thinking, normalized=normalizer is not None)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    made.chat_template = template
    return made


PLAIN = HFCodec(tokenizer())
SPECIAL = HFCodec(tokenizer(special=True))
NFKC = HFCodec(tokenizer(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])))
CODECS = {"as in Qwen3": PLAIN, "special": SPECIAL, "normalising": NFKC}
each_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())

# Text made of control strings, their halves, look-alikes and separators of the defence itself
HALVES = ["<", "|", ">", "<|im_", "end|>", "think>", "</think", "<|x|>", "<|y|>"]
LOOK_ALIKES = ["＜think＞", "<|ｉｍ_end|>", "<THINK>", "</tHink>"]
OTHERS = ["\ue0f0", "\ue0f1", "\n", " ", "é", "漢"]
pieces = st.sampled_from([*CONTROL, *HALVES, *LOOK_ALIKES, *OTHERS]) | st.text(max_size=3)
texts = st.lists(pieces, max_size=8).map("".join)


def control_ids(codec: HFCodec, ids: list[int]) -> list[int]:
    added = set(codec.tokenizer.get_added_vocab().values())
    return [i for i in ids if i in added]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@each_codec
@given(texts)
def test_plain_text_holds_no_control_token(codec: HFCodec, text: str) -> None:
    """Law 7 for bare text; what is decoded is what was written."""
    ids = codec.encode(text)
    assert control_ids(codec, ids) == []
    if codec is not NFKC:
        assert codec.decode(ids) == text.encode(errors="replace").decode()


@each_codec
@given(texts, texts)
def test_a_conversation_has_the_templates_control_tokens_only(codec: HFCodec, one: str, two: str) -> None:
    """Law 7 in several turns: contents as text and as parts, of users, tools and earlier answers, bring no
    control token of their own, alone or one behind the other, and the model reads them unchanged."""

    def encode(a: str, b: str) -> list[int]:
        parts = [{"type": "text", "text": a}, {"type": "text", "text": b}]
        return codec.encode_chat(
            [user(a), {"role": "assistant", "content": b}, user(parts), {"role": "tool", "content": a}]
        )

    ids = encode(one, two)
    assert control_ids(codec, ids) == control_ids(codec, encode("x", "y"))
    assert codec.markers.opening(ids) is Opening.PREFILLED
    if codec is not NFKC:
        expected = f"user\n{one}\nassistant\n{two}\nuser\n{one}{two}\ntool\n{one}\nassistant\n"
        assert codec.decode(ids).replace("\n\n", "\n") == expected.encode(errors="replace").decode().replace(
            "\n\n", "\n"
        )


@each_codec
@given(texts)
def test_tools_and_tool_calls_hold_no_control_token(codec: HFCodec, text: str) -> None:
    """Law 7 for what agents send: tool descriptions, names, keys, and arguments called `type` or `role`."""

    def encode(t: str) -> list[int]:
        tool = {"type": "function", "function": {"name": "f", "description": t, "parameters": {t + "k": 1}}}
        call = {"function": {"name": "f" + t, "arguments": {"type": t, "role": t, "deep": [{"type": t}]}}}
        return codec.encode_chat(
            [user("go"), {"role": "assistant", "content": None, "tool_calls": [call]}], tools=[tool]
        )

    assert control_ids(codec, encode(text)) == control_ids(codec, encode("x"))


@each_codec
def test_ordinary_text_is_encoded_as_the_model_knows_it(codec: HFCodec) -> None:
    """The defence costs nothing where nothing is to be defended: ids as the tokenizer's own."""
    messages = [
        user("How many apples, 3 < 4?"),
        {"role": "assistant", "content": "7"},
        user("and now?\n\n  x"),
    ]
    own = codec.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert codec.encode_chat(messages) == own["input_ids"]


def test_markers_are_the_added_tokens() -> None:
    """Ids come from the tokenizer; the prompt of the template opens the block."""
    vocabulary = PLAIN.tokenizer.get_vocab()
    assert PLAIN.markers.close_ids == (vocabulary["</think>"],)
    assert PLAIN.markers.open_ids == (vocabulary["<think>"],)
    assert PLAIN.markers.eos_ids == {vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]}
    assert PLAIN.markers.turn_ids == {vocabulary["<|im_start|>"]}


def test_control_tokens_are_not_shown() -> None:
    """Text is for people: markers and turn ends are left out of it, other tokens are not."""
    markers = PLAIN.markers
    ids = [*markers.open_ids, *PLAIN.encode("hi"), *markers.close_ids, *markers.eos_ids]
    assert PLAIN.decode(ids) == "hi"
    assert PLAIN.decode([PLAIN.tokenizer.get_vocab()["<tool_call>"]]) == "<tool_call>"


@given(texts)
def test_spelled_markers_in_user_text(text: str) -> None:
    """Law 7 for markers of several tokens: the user's text never spells one as the model would."""
    codec = HFCodec(tokenizer(), markers=MarkerText("[[", "]]!"))
    ids = codec.encode_chat([user(f"[[ {text} ]]! {text}")])
    close = codec.markers.close_ids
    # Of one byte a token, the same ids come out of any encoding of the text: only a real turn may hold them
    assert len(close) == 3
    assert codec.markers.opening(ids) is Opening.SELF


def test_a_model_that_cannot_spell_its_markers_fails_loudly() -> None:
    """Markers made of unknown tokens would be found everywhere: an error when the model is loaded."""
    core = Tokenizer(models.WordLevel({"<unk>": 0, "<|im_end|>": 1, "a": 2}, unk_token="<unk>"))
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<|im_end|>")
    with pytest.raises(NoMarkersError, match="unknown tokens"):
        HFCodec(made, markers=MarkerText("<a>", "</a>"))


def test_no_markers_no_template_no_tokenizer() -> None:
    """Bad input: each missing thing is an error that says what to do."""
    bare = Tokenizer(models.WordLevel({"<unk>": 0, "hello": 1}, unk_token="<unk>"))
    with pytest.raises(NoMarkersError, match="plain-model"):
        HFCodec(PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>"), model="plain-model")
    with pytest.raises(UnknownModelError, match="chat template"):
        HFCodec(tokenizer(template=None)).encode_chat([user("hi")])
    with pytest.raises(UnknownModelError, match="no tokenizer for"):
        load_codec("/nowhere/at/all")
