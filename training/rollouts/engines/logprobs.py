"""How far the log-probs of the engine that sampled are from the trainer's own, for the same tokens.

GRPO takes the trainer's log-probs as those of the sampling policy. If another engine samples, its kernels and
its rounding make a small difference, which is measured here. With float32 on both sides the gap is about
1e-6. A gap far above what the precision explains means that the engine samples with other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .engine import Sample, evaluating

LOGITS_BYTES = 256 * 1024**2
"""Most bytes of logits that are held at once, in float32; one token's are always held."""


def logprob_gap(model: Any, rollouts: Sequence[Sample]) -> tuple[float, float]:
    """(mean, largest) absolute difference in nats over the sampled tokens; forced ones carry no log-prob.

    Both sides are the model's own distribution, before temperature and top-p.
    """
    import torch

    gaps: list[float] = []
    with evaluating(model), torch.no_grad():
        for rollout in rollouts:
            own = own_logprobs(model, rollout.prompt_ids, rollout.completion_ids)
            pairs = zip(own, rollout.logprobs, strict=True)
            gaps += [abs(mine - theirs) for mine, theirs in pairs if theirs is not None]
    return sum(gaps) / max(1, len(gaps)), max(gaps, default=0.0)


def own_logprobs(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> list[float]:
    """The model's log-prob of each completion token.

    The row is read in parts, each after the keys and values of those before it. So the logits of a long
    context are never there as a whole: a part has at most `LOGITS_BYTES` of them, and of the prompt only the
    last token has any. Until a part is done, a copy of its logits is held too.
    """
    import torch

    ids = torch.tensor([[*prompt, *completion]], device=model.device)
    words = int(model.get_output_embeddings().weight.shape[0])
    tokens = max(1, LOGITS_BYTES // (4 * words))
    found: list[float] = []
    cache, at = None, 0
    while at < ids.shape[1] - 1:
        last = len(prompt) if at == 0 else min(at + tokens, ids.shape[1] - 1)
        keep = 1 if at == 0 else last - at
        output = model(input_ids=ids[:, at:last], past_key_values=cache, use_cache=True, logits_to_keep=keep)
        cache, at = output.past_key_values, last
        logits = output.logits[0].float()
        chosen = logits.gather(1, ids[0, last - keep + 1 : last + 1, None])[:, 0]
        found += (chosen - logits.logsumexp(-1)).tolist()
    return found
