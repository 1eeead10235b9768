"""Log-probs of a fixed text, by the trainer and by vLLM: they tell fresh weights from stale ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastic_agent.errors import BackendError

from .engine import evaluating

TEXT = (
    "Ben has 3 pens. He buys 4 more, then gives 2 of them to Ann. How many pens does Ben have now? First "
    "he has 3 + 4 = 7 pens, and 7 - 2 = 5 are left, so the answer is 5."
)
TOKENS = 64
"""Most ids of a probe."""
FLOOR = {"float32": 5e-5, "bfloat16": 0.02}
"""Nats a token by which the two sides may always differ, by vLLM's precision."""
WRONG = {"float32": 1e-2, "bfloat16": 0.3}
"""Nats a token from which on freshly loaded weights are another model's."""
_MORE = 10.0
"""How many times the gap of freshly loaded weights is allowed."""


class StaleWeightsError(BackendError):
    """The engine that samples has not taken the weights in training."""


def most_gap(precision: str, fresh: float) -> float:
    """Nats a token by which the two sides may differ, where freshly loaded weights differ by `fresh`."""
    return max(FLOOR[precision], _MORE * fresh)


def probe_ids(tokenizer: Any) -> list[int]:
    """The text in a model's ids, at least two."""
    ids: list[int] = tokenizer.encode(TEXT)[:TOKENS]
    return ids


def trainer_logprobs(trainer: Any, ids: Sequence[int]) -> list[float]:
    """Log-probs of the ids but the first, by the model in training, as it computes in training.

    Collective where the weights are spread over processes: all of them must ask.
    """
    import torch

    with evaluating(trainer.model), torch.no_grad(), trainer.accelerator.autocast():
        batch = torch.tensor([list(ids)], device=trainer.accelerator.device)
        logits = trainer.model(input_ids=batch).logits[0, :-1].float()
    own: list[float] = logits.log_softmax(-1).gather(1, batch[0, 1:, None])[:, 0].tolist()
    return own


def vllm_logprobs(llm: Any, ids: Sequence[int]) -> list[float]:
    """Log-probs of the ids but the first, by a `vllm.LLM`."""
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    output = llm.generate([{"prompt_token_ids": list(ids)}], asked, use_tqdm=False)[0]
    return [entry[token].logprob for entry, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]


def mean_gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Mean absolute difference, in nats a token."""
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours)
