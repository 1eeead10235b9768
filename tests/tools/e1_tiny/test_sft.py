"""Stage (a) runs: what its examples hold, a few steps on a small random model, and a run that was killed."""

import random
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.rollouts.prompts import prompt_ids_of
from tools.e1_tiny import sft
from tools.e1_tiny.model import new_model
from tools.e1_tiny.sft import SftConfig, collate, make_example, rate, train
from tools.e1_tiny.tokenizer import CLOSE, END, THINK, build_tokenizer, vocabulary


def test_examples_hold_one_prefilled_thinking_block_and_train_on_the_assistant_alone() -> None:
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

    from tools.e1_tiny.muon import orthogonalise

    found = orthogonalise(torch.randn(3, 16, 40))
    singular = torch.linalg.svdvals(found)
    assert singular.min() > 0.5
    assert singular.max() < 1.4
