"""The engine "transformers": with the weights in training, and with a copy of them in another precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from elastic_agent.training.grpo.export import load_model
from elastic_agent.training.rollouts.engines import logprobs
from elastic_agent.training.rollouts.engines.in_process import copy_in, copy_weights
from elastic_agent.training.rollouts.engines.logprobs import logprob_gap, own_logprobs
from elastic_agent.training.rollouts.rollout import Rollout
from elastic_agent.training.run import train
from elastic_agent.usage import Usage
from tests.training.runs import EASY, make_base, small


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def test_a_copy_in_bfloat16(base: Path) -> None:
    """Weights are narrowed, tied ones stay tied, rotary frequencies stay in float32; later weights arrive;
    the model in training stays what it is, and what was put around its forward doesn't come along."""
    model = load_model(base)

    def forward(*_: Any, **__: Any) -> Any:
        raise AssertionError("the trainer's own forward")

    model.forward = forward
    made = copy_in(model, "bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert made.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    copy_weights(model, made)
    for ours, theirs in zip(model.parameters(), made.parameters(), strict=True):
        assert torch.equal(ours.bfloat16(), theirs)
    assert made(input_ids=torch.tensor([[6, 7, 8]])).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["full", "lora"])
def test_training_samples_with_the_copy(base: Path, tmp_path: Path, lora: Any) -> None:
    """Each batch is drawn with the weights in training, rounded: the gap that TRL corrects for is that of
    bfloat16, after an update, too. At a temperature both sides mean the distribution that is drawn from."""
    changes: dict[str, Any] = {"lora": lora} if lora else {}
    config = small(
        base,
        tmp_path,
        rollout={"dtype": "bfloat16", "temperature": 0.5},
        reward={"kind": EASY},
        learning={"rate": 0.02},
        **changes,
    )
    history = train(config, log=lambda _: None).state.log_history
    rows = [row for row in history if "rollout/sync_seconds" in row]
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in rows]
    assert len(gaps) == 2
    assert all(1e-6 < gap < 0.01 for gap in gaps), gaps
    assert all(row["grad_norm"] > 0 for row in rows)


def test_the_gap_without_whole_logits(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-probs are those of one pass over the row; no part has more logits than the stated bound."""
    model = load_model(base)
    words = model.config.vocab_size
    ids = torch.randint(6, words, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    prompt, completion = ids[:20], ids[20:]
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(whole[19 + i, token]) for i, token in enumerate(completion)]
    made: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, output: made.append(output.numel() * 4))
    for tokens in (1, 7, 39, 1000):
        monkeypatch.setattr(logprobs, "LOGITS_BYTES", tokens * words * 4)
        made.clear()
        with torch.inference_mode():
            assert own_logprobs(model, prompt, completion) == pytest.approx(expected, abs=1e-5)
        assert max(made) <= tokens * words * 4
        assert len(made) == 1 + -(-39 // tokens)
    assert own_logprobs(model, prompt, completion[:1]) == pytest.approx(expected[:1], abs=1e-5)
    assert own_logprobs(model, prompt, []) == []


def test_forced_tokens_have_no_gap(base: Path) -> None:
    """Tokens without a log-prob of the engine count for nothing."""
    model = load_model(base)
    given = own_logprobs(model, [6, 7], [8, 9, 10])
    rollout = Rollout(
        prompt_ids=(6, 7),
        completion_ids=(8, 9, 10),
        env_mask=(1, 0, 1),
        logprobs=(given[0] + 0.5, None, given[2]),
        solution_ids=(10,),
        solution_text_ids=(10,),
        thinking_tokens=1,
        finished=False,
        cut=True,
        usage=Usage(),
    )
    mean, most = logprob_gap(model, [rollout])
    assert (mean, most) == (pytest.approx(0.25, abs=1e-6), pytest.approx(0.5, abs=1e-6))
