"""How far the log-probs of the engine that sampled are from the trainer's own, for the same tokens.

GRPO takes the trainer's log-probs as those of the sampling policy. If another engine samples, its kernels and
its rounding make a small difference, which is measured here. With float32 on both sides the gap is about
1e-6. A gap far above what the precision explains means that the engine samples with other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..rollout import Rollout


def logprob_gap(model: Any, rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """(mean, largest) absolute difference in nats over the sampled tokens; forced ones carry no log-prob.

    Both sides are the model's own distribution, before temperature and top-p. One row at a time, so that the
    logits of a long context fit.
    """
    import torch

    gaps: list[float] = []
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for rollout in rollouts:
                ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]], device=model.device)
                read = len(rollout.prompt_ids)
                logits = model(input_ids=ids).logits[0, read - 1 : -1].float()
                own = logits.log_softmax(-1).gather(1, ids[0, read:, None])[:, 0].tolist()
                pairs = zip(own, rollout.logprobs, strict=True)
                gaps += [abs(mine - theirs) for mine, theirs in pairs if theirs is not None]
    finally:
        model.train(was_training)
    return sum(gaps) / max(1, len(gaps)), max(gaps, default=0.0)
