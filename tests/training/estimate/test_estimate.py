"""`elastic-agent train --estimate`: its numbers are those of real models and passes, its table fits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from elastic_agent.backends.transformers.attention import GROUPED
from elastic_agent.config_files import merge
from elastic_agent.errors import ElasticError
from elastic_agent.training.cli import main
from elastic_agent.training.config.loading import build
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.config.trl_arguments import make_adapters
from elastic_agent.training.estimate.estimate import Estimate, Part, estimate
from elastic_agent.training.estimate.shapes import make_shapes, read_config
from elastic_agent.training.estimate.table import render
from elastic_agent.training.estimate.update import MicroBatch, update_bytes

WORDS, ROWS, TOKENS = 49_152, 2, 384
SMALL: dict[str, Any] = {
    "output": "out",
    "steps": 1,
    "budgets": {"thinking": [8], "solution": 8},
    "rollout": {"prompts": 2, "group": 2, "context": TOKENS},
    "device": {"microbatch": ROWS},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a config.json and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        architectures=["Qwen3ForCausalLM"],
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    return folder


def config_of(base: Path, **changes: Any) -> TrainConfig:
    return build(merge({**SMALL, "base": str(base)}, changes))


def part(found: Estimate, name: str) -> Part:
    return next(part for part in found.parts if part.name == name)


def real(base: Path) -> Any:
    """The same model with numbers, and TRL's head."""
    from trl.trainer.utils import add_fused_lm_head

    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(base), attn_implementation=GROUPED, dtype=torch.float32
    )
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model.train()


def test_parts_are_those_of_the_real_model(base: Path) -> None:
    from peft import get_peft_model

    model = real(base)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    full = estimate(config_of(base, learning={"kl": 0.1}), 2, 80)
    assert part(full, "weights").learns == part(full, "reference").learns == 4 * numbers
    assert part(full, "gradients").learns == part(full, "DDP's buckets").samples == 4 * numbers
    assert part(full, "optimizer").learns == 8 * numbers
    slots = 16 * 512 * 2 * 2 * 2 * 16 * 4  # powers of two x layers x keys and values x heads x dim x 4 B
    assert part(full, "keys and values").samples == slots
    assert full.total == max(full.samples, full.learns)

    config = config_of(base, lora={"rank": 4}, learning={"kl": 0.1})
    lora = estimate(config, 1, None)
    adapted: Any = get_peft_model(model, make_adapters(config))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert part(lora, "optimizer").learns == 8 * trained
    assert part(lora, "weights").learns == 4 * (numbers + trained)
    assert {"reference", "DDP's buckets"}.isdisjoint(p.name for p in lora.parts)

    device = {"shard": "fsdp2", "microbatch": 1}
    sharded = estimate(config_of(base, device=device), 2, 80)
    assert part(sharded, "weights").learns == 2 * numbers
    assert part(sharded, "gathered weights").samples == 4 * numbers


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_without_numbers_holds_what_a_real_one_saves(base: Path, checkpointing: bool) -> None:
    shapes = make_shapes(config_of(base), read_config(str(base)))
    batch = MicroBatch(ROWS, ROWS, TOKENS, autocast=False, gradients=True, gpu=False)
    found = update_bytes(shapes, batch, checkpointing=checkpointing)
    twice = update_bytes(shapes, MicroBatch(2 * ROWS, ROWS, TOKENS, False, True, False), checkpointing=False)
    assert checkpointing or twice.kept == 2 * found.kept

    model = real(base)
    if checkpointing:
        model.gradient_checkpointing_enable()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    mask = torch.ones(ROWS, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    saved[mask.data_ptr()] = mask  # checkpoints hold it without saving it
    size = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert found.kept == pytest.approx(size, rel=0.06)


def test_the_peak_is_within_a_fifth_of_the_processs_own(base: Path) -> None:
    """Real forward and backward passes of 49,152 words, by the kernel's count of this process's memory."""
    config = config_of(base)
    shapes = make_shapes(config, read_config(str(base)))
    batch = MicroBatch(ROWS, ROWS, TOKENS, autocast=False, gradients=True, gpu=False)
    found = update_bytes(shapes, batch, checkpointing=False)
    model = real(base)

    def size(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    before = size("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    mask = torch.ones(ROWS, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    output = model(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True)
    output.log_probs.sum().backward()
    assert found.peak == pytest.approx(size("VmHWM:") - before, rel=0.2)
    assert found.peak > 100 * 1024**2


def test_no_logits_of_a_long_row_are_made(base: Path) -> None:
    """16,384 tokens x 49,152 words are 3 GiB; the head holds tiles of 4,096 x 32,768, and on GPUs one."""
    shapes = make_shapes(config_of(base), read_config(str(base)))
    batch = MicroBatch(1, 1, 16_384, autocast=True, gradients=True, gpu=True)
    with_ = update_bytes(shapes, batch, checkpointing=True)
    assert with_.peak - with_.kept < 600 * 1024**2


def test_the_table_fits_and_says_what_to_change(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--config", "e1-tiny", "--base", str(base), "--estimate", "--set", "device.microbatch=48"]
    main([*command, "--gpu", "1", "--processes", "2"])
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines()), text
    for word in ("weights", "optimizer", "keys and values", "too much for 1 GiB", "change first"):
        assert word in text
    assert "device.microbatch=1" in text
    assert "device.gradient_checkpointing=true" in text
    main([*command, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["total"] == max(found["sampling"], found["learning"])
    assert found["processes"] == 1
    wide = Estimate([Part("x" * 18, 1, 1, "y" * 90)], [], 0, "b", 1, None, 5)
    assert max(map(len, render(wide).splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--base", "nobody/nothing", "--estimate"], "give a folder.*config.json in it is enough"),
        (["--estimate", "--processes", "7"], "do not divide"),
        (["--estimate", "--set", "device.shard=fsdp2"], "give --processes N"),
        (["--json"], "give --estimate, too"),
    ],
)
def test_what_can_not_be_estimated_is_one_sentence(
    options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastic_agent.model_location.reachable", lambda: False)
    with pytest.raises(ElasticError, match=said):
        main(["--config", "e1-tiny", *options])
