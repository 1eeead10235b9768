"""The cold start: SFT on traces, by TRL's SFTTrainer, until a model thinks between its markers.

The loss is on thinking, close, solution and end of text alone. Weights are trained in float32 and computed in
bfloat16 where the machine has it; with adapters the base stays in bfloat16. A checkpoint is committed when it
is complete, so a killed run goes on from the last one to the weights of a run in one go. Ctrl-C writes one.

This module imports TRL, which takes seconds: import it where a run starts.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from elastic_agent.errors import ConfigError

from ..grpo.checkpoints import CheckpointWriter, last_good
from ..grpo.output_lock import OutputLock
from ..grpo.stopping import rescued
from .examples import Example, order_of
from .prepared import Prepared, starting_model
from .settings import CHECKPOINTS, Settings

PASS_TOKENS = 8192
"""Tokens of a forward and backward pass, padding included, where --microbatch says nothing."""
_SAVES = 10  # checkpoints in a run, about
_LINES = 50  # lines of progress in a run, about
_RATES = ((0.3e9, 3e-4), (1.5e9, 5e-5), (float("inf"), 1e-5))
"""Learning rate of all weights, for models of up to so many parameters. 3e-4 was measured on 135M."""
_LORA_RATE = 2e-4


class ColdStartTrainer(SFTTrainer):
    """TRL's trainer, with checkpoints that are committed when they are complete."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._checkpoints = CheckpointWriter(Path(str(self.args.output_dir)), 1, self.accelerator)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        save = super()._save_checkpoint
        self._checkpoints.write(self.state.global_step, lambda: save(model, trial))  # type: ignore[no-untyped-call]


def steps_of(settings: Settings, rows: int) -> int:
    """Steps of the run: as given, or enough for so many passes over the rows."""
    if settings.steps is not None:
        return settings.steps
    return max(1, round((settings.epochs or 1) * rows / settings.batch))


def cold_start(
    settings: Settings,
    prepared: Prepared,
    examples: Sequence[Example],
    lock: OutputLock,
    log: Callable[[str], None],
    *,
    before: Callable[[Any], None] | None = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train, and return the model: adapters merged.

    Args:
        before: gets the model that has learnt nothing yet; not where a run goes on.
        callbacks: further callbacks of transformers' Trainer.

    Raises:
        ConfigError: the micro-batch does not divide the batch.
        KeyboardInterrupt: Ctrl-C or SIGTERM, with a checkpoint.
    """
    folder = settings.output / CHECKPOINTS
    start = last_good(folder, log)
    steps = steps_of(settings, len(examples))
    arguments = _arguments(settings, steps, examples)
    options = {"dtype": torch.bfloat16} if settings.lora and settings.dtype == "bfloat16" else {}
    model = starting_model(prepared, **options)
    if before is not None and start is None:
        before(model)
    arguments.learning_rate = settings.rate or _rate(settings, model.num_parameters())
    log(_plan(settings, examples, steps, arguments))
    # The trainer writes the tokenizer's end of text into both
    kept = copy.deepcopy((model.config, model.generation_config))
    trainer = make_trainer(settings, prepared, model, arguments, examples, steps, log, callbacks)
    if start is not None:
        log(f"going on from {start}")
    with rescued(trainer, lock, 1, log):
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    trained = trained.merge_and_unload() if settings.lora else trained
    trained.config, trained.generation_config = kept
    return trained


def make_trainer(
    settings: Settings,
    prepared: Prepared,
    model: Any,
    arguments: SFTConfig,
    examples: Sequence[Example],
    steps: int,
    log: Callable[[str], None],
    callbacks: Sequence[Any] = (),
) -> ColdStartTrainer:
    """The trainer of a run, with its rows in order."""
    rows = Dataset.from_list([{"input_ids": list(one.ids), "labels": one.labels} for one in examples])
    tokenizer = prepared.tokenizer
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    warnings.filterwarnings("ignore", message=".*'pin_memory' argument is set as true but no accelerator")
    trainer = ColdStartTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=rows.select(order_of(examples, settings.batch, steps, settings.seed)),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=pad),
        peft_config=_adapters(settings, prepared, model),
        callbacks=[Progress(steps, log), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    head = trainer.accelerator.unwrap_model(trainer.model).get_output_embeddings()
    if not hasattr(head, "bias"):  # peft's wrapper of the new rows hides it, and TRL reads it
        object.__setattr__(head, "bias", getattr(head.original_module, "bias", None))
    return trainer


def _arguments(settings: Settings, steps: int, examples: Sequence[Example]) -> SFTConfig:
    micro = settings.microbatch or _microbatch(settings.batch, max(len(one.ids) for one in examples))
    if settings.batch % micro:
        raise ConfigError(
            f"--microbatch: a batch of {settings.batch} rows does not divide into parts of {micro}"
        )
    return SFTConfig(
        output_dir=str(settings.output / CHECKPOINTS),
        seed=settings.seed,
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        train_sampling_strategy="sequential",  # `order_of` has laid out the order
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=torch.cuda.is_available(),
        bf16=settings.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=max(1, steps // _LINES),
        save_strategy="steps",
        save_steps=max(1, steps // _SAVES),
        report_to=[],
        disable_tqdm=True,
    )


def _microbatch(batch: int, longest: int) -> int:
    """The most rows that divide a batch and stay within `PASS_TOKENS`; at least one."""
    fitting = (n for n in range(batch, 0, -1) if batch % n == 0 and n * longest <= PASS_TOKENS)
    return next(fitting, 1)


def _rate(settings: Settings, parameters: int) -> float:
    return _LORA_RATE if settings.lora else next(rate for most, rate in _RATES if parameters <= most)


def _adapters(settings: Settings, prepared: Prepared, model: Any) -> Any:
    """LoRA on every linear layer; the rows of new markers are trained whole."""
    if settings.lora is None:
        return None
    from peft import LoraConfig

    names = {id(module): name for name, module in model.named_modules()}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    modules = [model.get_input_embeddings(), *([] if tied else [model.get_output_embeddings()])]
    rows = sorted(prepared.rows)
    return LoraConfig(
        r=settings.lora,
        lora_alpha=2 * settings.lora,
        target_modules="all-linear",
        trainable_token_indices={names[id(one)]: rows for one in modules} if rows else None,
        task_type="CAUSAL_LM",
    )


def _plan(settings: Settings, examples: Sequence[Example], steps: int, arguments: SFTConfig) -> str:
    tokens = sum(len(one.ids) for one in examples)
    what = f"adapters of rank {settings.lora}" if settings.lora else "all weights"
    passes = steps * settings.batch / len(examples)
    return (
        f"cold start: {len(examples)} traces, {tokens:,} tokens; {steps} steps of {settings.batch} traces "
        f"({passes:.3g} passes), {what}, learning rate {arguments.learning_rate:g}, in {settings.dtype}"
    )


def minutes(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


class Progress(TrainerCallback):
    """A line now and then: loss, share of tokens that the model foresaw, tokens a second, time left."""

    def __init__(self, steps: int, log: Callable[[str], None]) -> None:
        self._steps, self._log = steps, log
        self._begun, self._started = 0, time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun, self._started = state.global_step, time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        spent = time.perf_counter() - self._started
        left = (self._steps - state.global_step) * spent / max(1, state.global_step - self._begun)
        self._log(
            f"step {state.global_step} of {self._steps}: loss {logs['loss']:.3f}, "
            f"{logs['mean_token_accuracy']:.0%} of tokens foreseen, "
            f"{logs['num_tokens'] / spent:.0f} tokens/s, {minutes(left)} left"
        )
