"""GRPO steps run through TRL, on small random models."""

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.training.grpo.buckets import buckets_of
from elastic_agent.training.run import train
from tests.training.runs import make_base, small
from tools.e1_tiny.tokenizer import CLOSE, vocabulary


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_buckets_hold_every_row_once_and_keep_their_room() -> None:
    lengths = [5, 50, 7, 90, 6]
    order = sorted(range(5), key=lambda row: lengths[row])
    buckets = buckets_of(order, lengths, 100)
    assert sorted(row for bucket in buckets for row in bucket) == list(range(5))
    assert all(len(b) == 1 or len(b) * max(lengths[r] for r in b) <= 100 for b in buckets)


def test_grpo_runs_through_trl_with_the_close_masked(small_base: Path, tmp_path: Path) -> None:
    """Two real steps; then the loss sees only sampled tokens, and buckets change no log-prob."""
    import torch

    config = small(small_base, tmp_path)
    trainer = train(config)
    assert (tmp_path / "model.safetensors").exists()
    log = json.loads((tmp_path / "train_log.json").read_text())
    assert "reward" in log[0]

    batch: dict[str, Any] = trainer._buffered_inputs[0]
    close = vocabulary()[CLOSE]
    forced = (batch["completion_mask"] == 1) & (batch["tool_mask"] == 0)
    assert forced.any()
    assert (batch["completion_ids"][forced] == close).all()

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    keep = batch["completion_ids"].shape[1]
    bucketed, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep)
    plain, _, _ = super(type(trainer), trainer)._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, keep
    )
    real = batch["completion_mask"] == 1
    assert torch.allclose(bucketed[real], plain[real], atol=1e-4)
