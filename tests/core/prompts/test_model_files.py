"""What a model's files say beside its weights: tokenizers that are read as written, and one owner of ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from elastic_agent.errors import UnknownModelError
from elastic_agent.prompts import model_files
from elastic_agent.prompts.model_files import load_tokenizer
from elastic_agent.prompts.tokenizer import HFCodec, load_codec
from elastic_agent.training.rollouts.prompts import codec_of
from tests.core.prompts.vocabularies import merging


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer without config.json whose class transformers builds in its own way, as DeepSeek V3's."""
    merging(controls=("<think>", "</think>")).save_pretrained(str(tmp_path))
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))
    return tmp_path


def test_a_tokenizer_that_transformers_reads_wrongly(folder: Path) -> None:
    """The minimal input: blanks vanish in silence. Read as its file says, by whatever loads it."""
    text = "hi there, what is"
    wrong: Any = AutoTokenizer.from_pretrained(str(folder))
    assert wrong.decode(wrong.encode(text, add_special_tokens=False)) != text  # else nothing is tested here
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for tokenizer in (load_tokenizer(folder), load_codec(folder).tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == file.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.chat_template
        assert tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_that_is_read_otherwise_anyway_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no way of loading reads as the file says: an error with what to do."""
    monkeypatch.setattr(model_files, "_reads_as", lambda tokenizer, file: False)
    with pytest.raises(UnknownModelError, match=r"blanks|otherwise than its tokenizer\.json.*config\.json"):
        load_tokenizer(folder)


def coder(folder: Path, **files: dict[str, Any]) -> Any:
    """A tokenizer of the Qwen-Coder kind: it names `<|endoftext|>`, and chats end in `<|im_end|>`."""
    made = merging(controls=("<think>", "</think>", "<|bye|>", "<|stop|>"))
    made.eos_token = "<|endoftext|>"
    made.save_pretrained(str(folder))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return AutoTokenizer.from_pretrained(str(folder))


def test_training_ends_where_serving_does(tmp_path: Path) -> None:
    """The minimal input: rollouts end at `<|im_end|>`, as live calls do; the tokenizer names another end."""
    tokenizer = coder(tmp_path)
    vocabulary = tokenizer.get_vocab()
    assert codec_of(tokenizer).markers == load_codec(tmp_path).markers
    assert {vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]} <= codec_of(tokenizer).markers.eos_ids


@pytest.mark.parametrize(
    "files",
    [
        {"generation_config": {"eos_token_id": [258, 1]}},
        {"config": {"eos_token_id": 258}},
        {"config": {"text_config": {"eos_token_id": [258]}}},
        {"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": [258]}},
    ],
)
def test_ends_of_a_models_files(tmp_path: Path, files: dict[str, Any]) -> None:
    """generation_config.json and config.json name ends, one or several, for all who load a model."""
    tokenizer = coder(tmp_path, **files)
    for codec in (HFCodec(tokenizer), load_codec(tmp_path)):
        assert 258 in codec.markers.eos_ids
    assert 258 in codec_of(tokenizer).markers.eos_ids


def test_files_that_say_nothing_or_nonsense_are_passed_over(tmp_path: Path) -> None:
    """A damaged file costs nothing but what it would have said."""
    tokenizer = coder(tmp_path, generation_config={"eos_token_id": "x"}, config={})
    (tmp_path / "config.json").write_text("{")
    assert HFCodec(tokenizer).markers.eos_ids == {
        tokenizer.get_vocab()[text] for text in ("<|im_end|>", "<|endoftext|>")
    }


def test_the_template_says_what_ends_a_turn() -> None:
    """A template that ends an answer with a token that no list knows: it ends a turn, and begins none."""
    template = (
        "{% for m in messages %}<|stop|>{{ m.role }}: {{ m.content }}{{ '<|bye|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|stop|>assistant: <think>{% endif %}"
    )
    made = merging(controls=("<think>", "</think>", "<|bye|>", "<|stop|>"), template=template)
    markers, vocabulary = HFCodec(made).markers, made.get_vocab()
    assert vocabulary["<|bye|>"] in markers.eos_ids
    assert vocabulary["<|stop|>"] in markers.turn_ids
    assert vocabulary["<|stop|>"] not in markers.eos_ids


def test_a_tokenizer_in_python_is_not_compared(tmp_path: Path) -> None:
    """A folder without tokenizer.json, or with one that is the loaded one, is taken as it is."""
    core = Tokenizer(
        models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(str(tmp_path))
    assert load_tokenizer(tmp_path).decode(load_tokenizer(tmp_path).encode("a  b")) == "a  b"
