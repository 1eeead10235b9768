"""What can't be a base is refused before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from elastic_agent.errors import UnknownModelError
from elastic_agent.training.prepare.base import read_base
from tests.training.prepare.bases import bpe, make_base


def changed(folder: Path, file: str, **values: object) -> str:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


def test_what_is_no_base(tmp_path: Path) -> None:
    """Nothing there, an encoder, an encoder with a decoder, quantized weights, a tokenizer without an end."""
    with pytest.raises(UnknownModelError, match="holds no model"):
        read_base(str(tmp_path))
    with pytest.raises(UnknownModelError, match="no model 'e1-nothing': embedded are e1-tiny"):
        read_base("e1-nothing")
    base = make_base(tmp_path / "base", bpe())
    assert read_base(str(base)).rows == len(bpe())
    for architecture in ("BertForMaskedLM", "T5ForConditionalGeneration", "Qwen3ForSequenceClassification"):
        folder = changed(base, "config.json", architectures=[architecture])
        with pytest.raises(UnknownModelError, match=f"no causal language model but {architecture}"):
            read_base(folder)
    folder = changed(
        base,
        "config.json",
        architectures=["Qwen3ForCausalLM"],
        quantization_config={"quant_method": "fp8"},
    )
    with pytest.raises(UnknownModelError, match="is quantized"):
        read_base(folder)
    config = json.loads((base / "config.json").read_text())
    del config["quantization_config"]
    (base / "config.json").write_text(json.dumps(config))
    tokenizer = bpe()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(str(base))
    with pytest.raises(UnknownModelError, match="no end of text"):
        read_base(str(base))
