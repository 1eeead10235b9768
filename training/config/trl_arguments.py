"""A checked config in the terms of TRL and peft."""

from __future__ import annotations

import math
from typing import Any

from elastic_agent.errors import ConfigError

from .processes import processes
from .schema import TrainConfig
from .trl_fields import check_passed_on

_NO_CLIP = 1e9  # what "inert-clipping" does: a range that no ratio leaves


def make_arguments(config: TrainConfig, microbatch: int) -> Any:
    """The config in TRL's terms, its `trl` section included.

    Raises:
        ConfigError: TRL refuses a value, or the `trl` section holds what it must not.
    """
    check_passed_on(config.trl)
    try:
        return _grpo_config(config, microbatch)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"TRL refuses this config: {error}") from None


def _grpo_config(config: TrainConfig, microbatch: int) -> Any:
    """Fields of ours as arguments of GRPOConfig (`trl_fields` names them all), then the `trl` section."""
    import torch
    from trl import GRPOConfig

    learning, updates = config.learning, config.updates
    accumulated = config.rows // (processes() * learning.minibatches * microbatch)
    inert = "inert-clipping" in config.authors_compat
    return GRPOConfig(
        output_dir=str(config.output / "checkpoints"),
        seed=config.seed,
        max_steps=config.steps * updates,
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=accumulated,
        # From two updates a batch on TRL keeps the log-probs of sampling time, and the ratio moves
        steps_per_generation=accumulated * learning.minibatches,
        num_iterations=learning.iterations,
        num_generations=config.rows // config.rollout.prompts,
        max_completion_length=config.rollout.context,
        shuffle_dataset=False,  # validate has laid out the order
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        learning_rate=learning.rate,
        lr_scheduler_type=learning.schedule,
        warmup_steps=learning.warmup_steps,
        weight_decay=learning.weight_decay,
        max_grad_norm=learning.max_grad_norm,
        beta=learning.kl,
        entropy_coef=learning.entropy,
        epsilon=_NO_CLIP if inert else learning.clip_low,
        epsilon_high=_NO_CLIP if inert else learning.clip_high,
        loss_type=learning.loss,
        mask_truncated_completions=False,
        gradient_checkpointing=config.device.gradient_checkpointing,
        bf16=config.device.precision == "bfloat16",
        ddp_find_unused_parameters=False,
        # Buffers are constants; to send them before each forward, all processes would need as many forwards
        ddp_broadcast_buffers=False,
        ddp_timeout=math.ceil(config.device.timeout),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=updates,
        save_strategy="steps",
        save_steps=config.checkpoint.every * updates,
        report_to=list(config.report_to),
        disable_tqdm=True,
        **sharding(config),
        **config.trl,
    )


def sharding(config: TrainConfig) -> dict[str, Any]:
    """Arguments for `device.shard`. Checkpoints hold the whole model, so any number of processes goes on."""
    import torch

    plan: dict[str, Any]
    if config.device.shard == "fsdp2":
        plan = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True}
        return {"fsdp": True, "fsdp_config": {**plan, "state_dict_type": "FULL_STATE_DICT"}}
    if config.device.shard == "zero3":
        sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        zero = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
        plan = {"zero_optimization": zero, "bf16": {"enabled": "auto"}, **dict.fromkeys(sizes, "auto")}
        # On a CPU `launch.join` has told accelerate of DeepSpeed
        told = {} if torch.cuda.is_available() else {"accelerator_config": {"use_configured_state": True}}
        return {"deepspeed": plan, **told}
    return {}


def make_adapters(config: TrainConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    lora = config.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="CAUSAL_LM",
    )
