"""The tokenizer: control tokens are single and named, text reads well, unknown words do not crash."""

from typing import Any

import pytest

from elastic_agent.training.rollouts.prompts import codec_of, prompt_ids_of
from tools.e1_tiny.tokenizer import CLOSE, END, PAD, SPECIALS, THINK, build_tokenizer, vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def test_control_tokens_are_single_tokens(tokenizer: Any) -> None:
    for name in SPECIALS:
        assert tokenizer.encode(name) == [tokenizer.convert_tokens_to_ids(name)] == [vocabulary()[name]]
    assert len(tokenizer) == len(vocabulary())


def test_markers_come_from_the_vocabulary(tokenizer: Any) -> None:
    markers = codec_of(tokenizer).markers
    assert markers.close_ids == (vocabulary()[CLOSE],)
    assert markers.open_ids == (vocabulary()[THINK],)
    # Both that a live call knows: training ends a sample where serving would end the answer
    assert markers.eos_ids == {vocabulary()[END], vocabulary()[PAD]}


def test_digits_are_split_and_decoding_glues_them(tokenizer: Any) -> None:
    text = "#1: it sells 12, 37 - 12 = 25. #10 3 * 8 = 24. Answer: 25."
    ids = tokenizer.encode(text)
    assert tokenizer.convert_ids_to_tokens(ids)[:5] == ["#1", ":", "it", "sells", "1"]
    assert tokenizer.decode(ids) == text


def test_labels_do_not_run_into_numbers(tokenizer: Any) -> None:
    assert (
        tokenizer.decode(tokenizer.encode("#1 37 - 12 = 25. #10 5 + 6 = 11."))
        == "#1 37 - 12 = 25. #10 5 + 6 = 11."
    )


def test_decoding_grows_by_appending(tokenizer: Any) -> None:
    """Streaming shows a prefix of the final text at every token."""
    ids = tokenizer.encode("Okay , let me think . the start is 37 . #1 : it sells 12 , 37 - 12 = 25 .")
    whole = tokenizer.decode(ids)
    assert all(whole.startswith(tokenizer.decode(ids[:n])) for n in range(len(ids)))


def test_foreign_text_becomes_unknown(tokenizer: Any) -> None:
    ids = tokenizer.encode("Zebra 東京 #77 apples")
    assert ids[-1] == vocabulary()["apples"]
    assert tokenizer.unk_token_id in ids


def test_the_chat_template_prefills_thinking_and_drops_earlier_thinking(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant ."},
        {"role": "user", "content": "Ben has 4 pens . #1 He gets 2 . How many pens are left ?"},
        {"role": "assistant", "content": "<think> start 4 . </think> Answer : 6 ."},
        {"role": "user", "content": "Ben has 6 pens . #1 He gets 2 . How many pens are left ?"},
    ]
    ids = prompt_ids_of(tokenizer, messages)
    names = tokenizer.convert_ids_to_tokens(ids)
    assert names[-3:] == ["<|im_start|>", "assistant", "<think>"]
    assert names.count("<think>") == 1
    assert "</think>" not in names
    assert tokenizer.unk_token not in names


def test_it_loads_back_unchanged(tokenizer: Any, tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(str(tmp_path))
    again = AutoTokenizer.from_pretrained(str(tmp_path))
    text = "A shop has 37 apples . #1 It sells 12 ."
    assert again.encode(text) == tokenizer.encode(text)
    assert again.chat_template == tokenizer.chat_template
    assert (again.eos_token, again.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
