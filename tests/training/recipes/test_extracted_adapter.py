"""An adapter from two models: exact where the change has its rank, and what it holds is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.errors import UnknownModelError
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.model_location import model_path
from elastic_agent.prompts.model_files import load_tokenizer
from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.recipes.extracted_adapter import extract_adapter

BASE = model_path("e1-tiny-base")


def changed(folder: Path, rank: int, *, embeddings: float = 0.0) -> Any:
    """The base with a change of this rank in each linear layer but the head, written in float32."""
    torch.manual_seed(0)
    model = load_model(BASE)
    head = model.get_output_embeddings()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                up, down = torch.randn(module.out_features, rank), torch.randn(rank, module.in_features)
                module.weight += 1e-3 * up @ down
        model.get_input_embeddings().weight.add_(embeddings)
    model.save_pretrained(str(folder))
    return model


def test_a_change_of_its_rank_is_held_whole(tmp_path: Path) -> None:
    """peft's own merge gives the model again, up to the rounding of the adapter."""
    model = changed(tmp_path / "e1", 4)
    found = extract_adapter(str(BASE), tmp_path / "e1", tmp_path / "adapter", 4, name="hub/base")
    assert found["kept"] > 0.9999
    assert found["outside"] < 1e-6
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == ("hub/base")
    again = PeftModel.from_pretrained(load_model(BASE), str(tmp_path / "adapter")).merge_and_unload()
    for name, weight in again.state_dict().items():
        assert float((weight - model.state_dict()[name]).abs().max()) < 2e-4


def test_it_loads_by_one_line(tmp_path: Path) -> None:
    """A folder of adapters is a model by its name: the base it names, another one, and what is none."""
    changed(tmp_path / "e1", 4)
    load_tokenizer(BASE).save_pretrained(str(tmp_path / "e1"))
    extract_adapter(str(BASE), tmp_path / "e1", tmp_path / "adapter", 4, name="e1-tiny-base")
    whole = load_model(tmp_path / "e1").state_dict()
    for options in ({}, {"base": str(BASE)}):
        backend = TransformersBackend.load(tmp_path / "adapter", **options)
        for name, weight in backend.module.state_dict().items():
            assert float((weight - whole[name]).abs().max()) < 2e-4
    llm = ChatElasticReasoning(
        model=str(tmp_path / "adapter"), backend_options={"base": str(BASE)}, solution_budget=8
    )
    assert llm.invoke("A shop has 4 hats . How many hats are left ?").usage_metadata
    with pytest.raises(ValueError, match="is for a folder of adapters"):
        TransformersBackend.load(BASE, base=str(BASE))
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(UnknownModelError, match="use_dora"):
        TransformersBackend.load(tmp_path / "adapter")


def test_what_it_can_not_hold_is_said(tmp_path: Path) -> None:
    """A change of twice its rank, and one of the embeddings."""
    changed(tmp_path / "e1", 8, embeddings=0.01)
    said: list[str] = []
    found = extract_adapter(str(BASE), tmp_path / "e1", tmp_path / "adapter", 4, name="b", log=said.append)
    assert 0.5 < found["kept"] < 0.8
    assert 0.1 < found["outside"] < 1.0
    assert f"{found['kept']:.0%} of the change of linear layers" in said[0]
