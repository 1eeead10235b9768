"""Which fields of TRL's GRPOConfig the `trl` section of a config may set, and what the others are called.

A field is refused where a field of ours decides it, so that nothing is said twice, and where our rollouts or
checkpoints would ignore it. All others are passed on as they are.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from elastic_agent.errors import ConfigError, did_you_mean
from elastic_agent.validation import shown

_BATCH = "rollout.prompts, rollout.group, learning.minibatches and device.microbatch"
OURS: Mapping[str, str] = {
    "output_dir": "output",
    "seed": "seed",
    "data_seed": "seed",
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "per_device_train_batch_size": "device.microbatch",
    "auto_find_batch_size": "device.microbatch",
    "gradient_accumulation_steps": _BATCH,
    "generation_batch_size": _BATCH,
    "steps_per_generation": "learning.minibatches",
    "num_iterations": "learning.iterations",
    "num_generations": "rollout.group",
    "max_completion_length": "rollout.context",
    "temperature": "rollout.temperature",
    "top_p": "rollout.top_p",
    "learning_rate": "learning.rate",
    "lr_scheduler_type": "learning.schedule",
    "warmup_steps": "learning.warmup_steps",
    "weight_decay": "learning.weight_decay",
    "max_grad_norm": "learning.max_grad_norm",
    "beta": "learning.kl",
    "entropy_coef": "learning.entropy",
    "epsilon": "learning.clip_low",
    "epsilon_high": "learning.clip_high",
    "loss_type": "learning.loss",
    "gradient_checkpointing": "device.gradient_checkpointing",
    "bf16": "device.precision",
    "fp16": "device.precision",
    "fsdp": "device.shard",
    "fsdp_config": "device.shard",
    "deepspeed": "device.shard",
    "ddp_timeout": "device.timeout",
    "save_steps": "checkpoint.every",
    "save_strategy": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "report_to": "report_to",
    **dict.fromkeys(("eval_strategy", "eval_steps", "eval_on_start", "eval_delay"), "validation.every"),
    "num_generations_eval": "validation.samples",
    "per_device_eval_batch_size": "validation.problems and validation.samples",
    "resume_from_checkpoint": "the option --resume",
    "use_vllm": "rollout.engine",
    "vllm_mode": "rollout.engine",
    "vllm_server_base_url": "rollout.server.urls",
    "vllm_server_host": "rollout.server.urls",
    "vllm_server_port": "rollout.server.urls",
    "vllm_server_timeout": "rollout.server.connect_timeout",
}
"""Fields of TRL that a field of ours decides -> the name in our config."""

_ENGINE = "rollouts are decoded by rollout.engine, which does not read it"
_FIXED = "the run sets it"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("top_k", "min_p", "repetition_penalty", "generation_kwargs", "cache_implementation"),
            *("use_transformers_continuous_batching", "transformers_continuous_batching_config"),
            *("use_transformers_paged", "max_tool_calling_iterations", "ds3_gather_for_generation"),
            *("vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex"),
            *("vllm_group_port", "vllm_gpu_memory_utilization", "vllm_max_model_length"),
            "vllm_tensor_parallel_size",
        ),
        _ENGINE,
    ),
    **dict.fromkeys(
        ("shuffle_dataset", "use_cpu", "disable_tqdm", "logging_steps", "logging_strategy"), _FIXED
    ),
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "local_rank", "save_on_each_node"), _FIXED),
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_broadcast_buffers"), _FIXED),
    "chat_template_kwargs": "prompts are written as they are served: change the chat template of the base",
    "mask_truncated_completions": "a solution that does not end within s must earn nothing, not be left out",
    "remove_unused_columns": "the reward reads all columns",
    "save_only_model": "a checkpoint without the optimizer can't be resumed",
    "load_best_model_at_end": "the model written is the last one; checkpoint.keep keeps others",
    "trust_remote_code": "code from the hub is not run",
}
"""Fields that have no counterpart and would be ignored or do harm -> why."""


def check_passed_on(given: Mapping[str, Any]) -> None:
    """Check the names and types of the `trl` section.

    Raises:
        ConfigError: a field of ours, with its name here; one that can't be set; an unknown one, with the
            nearest; a value of another type.
    """
    from trl import GRPOConfig

    known = {field.name for field in fields(GRPOConfig)}
    hints = typing.get_type_hints(GRPOConfig)
    for name, value in given.items():
        if name in OURS:
            raise ConfigError(f"trl.{name}: set {OURS[name]} instead")
        if name in REFUSED:
            raise ConfigError(f"trl.{name} can't be set: {REFUSED[name]}")
        if name not in known:
            hint = did_you_mean(name, known) or "its documentation lists them"
            raise ConfigError(f"trl: GRPOConfig has no field {name!r}: {hint.rstrip('; ')}")
        if name == "scale_rewards" and isinstance(value, bool):  # TRL's annotation says str alone
            continue
        try:
            TypeAdapter(hints[name]).validate_python(value)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"trl.{name}: {said[:1].lower() + said[1:]}, not {shown(value)}") from None
    for name, ours in (("dtype", "device.precision"), ("attn_implementation", "device.attention")):
        if name in (given.get("model_init_kwargs") or {}):
            raise ConfigError(f"trl.model_init_kwargs.{name}: set {ours} instead")
