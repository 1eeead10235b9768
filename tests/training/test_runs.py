"""Both stages run: a few supervised steps, and GRPO steps through TRL, on small random models."""

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.training.grpo.trainer import _buckets
from elastic_agent.training.model import load_model, new_model
from elastic_agent.training.run import train as train_e1
from elastic_agent.training.sft import SftConfig, collate, make_example, rate, train
from elastic_agent.training.tokenizer import CLOSE, END, THINK, vocabulary
from tests.training.runs import make_base, small


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_examples_hold_one_prefilled_thinking_block_and_train_on_the_assistant_alone() -> None:
    import random

    vocab = vocabulary()
    rng = random.Random(0)
    examples = [make_example(rng, easy=False, vocab=vocab) for _ in range(60)]
    for example in examples:
        assert example.ids[example.learnt.index(True) - 1] == vocab[THINK]
        assert example.ids.count(vocab[CLOSE]) == 1
        assert example.ids[-1] == vocab[END]
    ids, labels = collate(examples[:4], 0)
    for row, example in enumerate(examples[:4]):
        trained = (labels[row] != -100).nonzero().flatten().tolist()
        assert trained == list(range(example.learnt.index(True), len(example.ids)))
        assert ids[row, trained].tolist() == labels[row, trained].tolist()


def test_a_prompt_in_training_is_the_prompt_of_the_chat_template() -> None:
    import random

    from elastic_agent.training.rollouts.two_phase import prompt_ids_of
    from elastic_agent.training.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    vocab = vocabulary()
    for seed in range(20):
        example = make_example(random.Random(seed), easy=True, vocab=vocab)
        prompt = list(example.ids[: example.learnt.index(True)])
        if prompt.count(vocab["user"]) == 1 and prompt[1] == vocab["user"]:
            text = tokenizer.decode(prompt[2:-4])
            assert prompt_ids_of(tokenizer, [{"role": "user", "content": text}]) == prompt


def test_the_rate_warms_up_stays_and_falls() -> None:
    config = SftConfig(output=Path())
    assert rate(0.0, config) < rate(0.01, config) < rate(0.3, config) == 1.0
    assert rate(0.9, config) < rate(0.7, config) < 1.0


def test_a_killed_supervised_run_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a checkpoint and resumed: bit for bit what a run in one go gives."""
    import torch

    from elastic_agent.training import sft

    def tiny() -> Any:
        torch.manual_seed(1)
        return new_model(hidden=64, layers=1, heads=1, mlp=64)

    whole = SftConfig(output=tmp_path / "whole", steps=12, batch_tokens=512, easy=0.4, checkpoint_every=5)
    expected = train(whole, model=tiny()).state_dict()
    assert not (tmp_path / "whole" / "checkpoint.pt").exists()
    config = SftConfig(output=tmp_path / "killed", steps=12, batch_tokens=512, easy=0.4, checkpoint_every=5)
    collated, calls = sft.collate, 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return collated(*args)

    monkeypatch.setattr(sft, "collate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, model=tiny())
    monkeypatch.setattr(sft, "collate", collated)
    resumed = train(config, model=new_model(hidden=64, layers=1, heads=1, mlp=64), resume=True).state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in expected.items())


def test_a_short_supervised_run_saves_a_model(tmp_path: Path) -> None:
    config = SftConfig(output=tmp_path, steps=6, batch_tokens=512, checkpoint_every=0)
    model = train(config, model=new_model(hidden=64, layers=1, heads=1, mlp=64))
    assert (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "tokenizer.json").exists()
    again = load_model(tmp_path)
    assert again.config.architectures == ["Qwen3ForCausalLM"]
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_muon_steps_are_orthogonal() -> None:
    import torch

    from elastic_agent.training.muon import orthogonalise

    found = orthogonalise(torch.randn(3, 16, 40))
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.5
    assert singular.max() < 1.4


def test_buckets_hold_every_row_once_and_keep_their_room() -> None:
    lengths = [5, 50, 7, 90, 6]
    order = sorted(range(5), key=lambda row: lengths[row])
    buckets = _buckets(order, lengths, 100)
    assert sorted(row for bucket in buckets for row in bucket) == list(range(5))
    assert all(len(b) == 1 or len(b) * max(lengths[r] for r in b) <= 100 for b in buckets)


def test_grpo_runs_through_trl_with_the_close_masked(small_base: Path, tmp_path: Path) -> None:
    """Two real steps; then the loss sees only sampled tokens, and buckets change no log-prob."""
    import torch

    config = small(small_base, tmp_path)
    trainer = train_e1(config)
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
