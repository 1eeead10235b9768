"""Lets TRL sync an engine's copy of the weights, and correct for the log-probs of that copy.

The engine that samples rounds otherwise than the trainer, so its policy is not quite the one in training. TRL
multiplies the loss of a sample by the ratio of the two probabilities of its sampled tokens, and leaves out a
sample whose ratio is above 3; `trl.vllm_importance_sampling_mode: token_truncate` in a config does it token
by token, and truncates. The gap is logged: `sampling/sampling_logp_difference/*` in nats a token, and
`sampling/importance_sampling_ratio/*`. TRL does this for its own vLLM modes; four attributes of the trainer
make TRL do the same for an engine of ours.
"""

from __future__ import annotations

from typing import Any

from .engine import Engine


def correct_for(engine: Engine, trainer: Any) -> None:
    """From now on TRL calls `engine.sync_weights` before a batch is sampled, once for each state of the
    weights, and corrects the loss by the log-probs that the rollouts carry."""
    trainer.use_vllm = True
    trainer.vllm_mode = "engine"  # neither of TRL's own modes, "server" and "colocate"
    trainer.vllm_generation = engine
    trainer._last_loaded_step = -1


def sync_through(outer: Engine, inner: Engine, trainer: Any) -> None:
    """Where TRL syncs the inner engine, let TRL sync the outer one, which wraps it."""
    if getattr(trainer, "vllm_generation", None) is inner:
        trainer.vllm_generation = outer
