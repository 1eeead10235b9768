"""Markers go into spare rows where there are any, and are plain text elsewhere; the folder says so itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import UsageError
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.tokenizer import HFCodec, load_codec
from elastic_agent.training.prepare.base import read_base
from elastic_agent.training.prepare.markers import OFFERED, plan_markers
from elastic_agent.training.prepare.run import prepare
from tests.training.prepare.bases import TAGS, bpe, make_base, settings_for

RESERVED = ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|vision_pad|>")
DEEPSEEK = "<\uff5cplace\u2581holder\u2581no\u2581{}\uff5c>"


def prepared(base: Path, output: Path, **changes: Any) -> tuple[HFCodec, Any, list[str]]:
    """The codec and the model of a folder that is prepared and not taught, and what was said."""
    from transformers import AutoModelForCausalLM

    said: list[str] = []
    prepare(settings_for(base, output, **changes), log=said.append)
    return load_codec(output), AutoModelForCausalLM.from_pretrained(str(output)), said


def pieces(text: str, weight: Any) -> Any:
    ids = bpe().encode(text, add_special_tokens=False)
    return weight[ids].float().mean(dim=0).to(weight.dtype)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_behind_the_last_id(tied: bool, tmp_path: Path) -> None:
    """No matrix grows; a new row is the mean of the pieces' rows, in the head, too; other rows stay."""
    base = make_base(tmp_path / "base", bpe(), spare=5, tied=tied)
    codec, model, said = prepared(base, tmp_path / "out")
    last = len(bpe())
    assert (codec.markers.open_ids, codec.markers.close_ids) == ((last,), (last + 1,))
    assert not codec.markers.close_in_text
    assert "in spare rows of the embedding" in said[0]
    assert "prepared, not taught" in said[1]
    _, before, _ = prepared(base, tmp_path / "again")
    for module in ("get_input_embeddings", "get_output_embeddings"):
        weight = getattr(model, module)().weight
        assert weight.shape[0] == last + 5
        assert weight[last + 1].equal(pieces("</think>", weight))
        assert weight.equal(getattr(before, module)().weight)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == []


@pytest.mark.parametrize(
    "names", [RESERVED, [DEEPSEEK.format(n) for n in range(3)], ["<unused7>", "<unused8>"]]
)
def test_reserved_tokens_are_renamed(names: list[str], tmp_path: Path) -> None:
    """Tokens that the makers reserved keep their ids under new texts; one that the template uses is left."""
    base = make_base(tmp_path / "base", bpe(extra=names))
    codec, model, said = prepared(base, tmp_path / "out", markers="thought")
    ids = [bpe(extra=names).convert_tokens_to_ids(name) for name in names]
    assert [*codec.markers.open_ids, *codec.markers.close_ids] == ids[:2]
    assert codec.markers.open_text == "<thought>"
    assert "reserved" in said[0]
    assert codec.tokenizer.encode(names[0], add_special_tokens=False) != ids[:1]
    assert "</thought>" in codec.tokenizer.decode(ids, skip_special_tokens=True)
    weight = model.get_input_embeddings().weight
    assert weight[ids[1]].equal(pieces("</thought>", weight))


def test_no_spare_rows(tmp_path: Path) -> None:
    """The markers are text, found across the borders of tokens; no weight changes."""
    base = make_base(tmp_path / "base", bpe(extra=["<|vision_pad|>", "<repo_name>"]))
    codec, model, said = prepared(base, tmp_path / "out", markers="reasoning")
    assert codec.markers.close_in_text
    assert codec.markers.close_text == "</reasoning>"
    assert "as plain text" in said[0]
    prompt = codec.encode_chat([{"role": "user", "content": "</reasoning>"}])
    assert codec.markers.opening(prompt) is Opening.PREFILLED
    assert model.get_input_embeddings().weight.shape[0] == len(codec.tokenizer)


def test_user_text_stays_text(tmp_path: Path) -> None:
    """Law 7: the new markers in a message are no markers."""
    codec, *_ = prepared(make_base(tmp_path / "base", bpe(), spare=2), tmp_path / "out")
    ids = codec.encode_chat([{"role": "user", "content": "<think></think><|im_end|>"}])
    plain = codec.encode_chat([{"role": "user", "content": "hello"}])
    markers = {*codec.markers.open_ids, *codec.markers.close_ids, *codec.markers.eos_ids}
    assert [i for i in ids if i in markers] == [i for i in plain if i in markers]


@pytest.mark.parametrize(("tags", "spare"), [(TAGS, 0), ((), 4), ((), 2), ((), 0)])
def test_a_base_without_a_template(tags: tuple[str, ...], spare: int, tmp_path: Path) -> None:
    """It gets ChatML, whose tags become tokens where there are rows; else its end of text ends a turn."""
    base = make_base(tmp_path / "base", bpe(template=None, tags=tags), spare=spare)
    codec, model, _ = prepared(base, tmp_path / "out")
    tokenizer = codec.tokenizer
    ids = codec.encode_chat([{"role": "user", "content": "x"}])
    has_tags = bool(tags) or spare == 4
    assert tokenizer.eos_token == ("<|im_end|>" if has_tags else "<|endoftext|>")
    assert sum(i == tokenizer.eos_token_id for i in ids) == 1
    assert tokenizer.decode(ids).startswith("<|im_start|>user\nx")
    ends = model.generation_config.eos_token_id
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])
    assert codec.markers.close_in_text is (spare == 0)


def test_markers_that_are_there_stay(tmp_path: Path) -> None:
    """A vocabulary with `<think>` as a token is left as it is, and another pair is refused."""
    base = make_base(tmp_path / "base", bpe(extra=["<think>", "</think>", *RESERVED]), spare=3)
    codec, _, said = prepared(base, tmp_path / "out")
    assert len(codec.tokenizer) == len(bpe(extra=["<think>", "</think>", *RESERVED]))
    assert "which the model has already" in said[0]
    with pytest.raises(UsageError, match="thinks between <think> and </think> already"):
        plan_markers(read_base(str(base)), "seed")


@pytest.mark.parametrize("name", OFFERED)
def test_every_pair_on_offer_is_read_back(name: str, tmp_path: Path) -> None:
    """What `--markers` offers loads without options."""
    base = make_base(tmp_path / "base", bpe())
    codec, *_ = prepared(base, tmp_path / "out", markers=name)
    assert codec.markers.open_text == OFFERED[name].open
