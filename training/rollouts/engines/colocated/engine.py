"""The engine "vllm": vLLM in the process that trains, with a copy of the weights of its own.

Before each batch TRL calls `sync_weights` (`..correction`): vLLM reloads every weight from the model in
training, forgets what its prefix cache computed with the old ones, and is checked. The check compares the
log-probs of a fixed text on both sides. A reload that was lost or half applied moves them apart, and the run
stops before it learns from samples of weights that are not those in training. In float32 the check finds a
copy that is one update behind; in bfloat16 only what is larger than its rounding.

Each process of a run has a vLLM of its own, on its own GPU. While the trainer updates, vLLM gives back its
GPU memory (sleep mode; not on a CPU).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.backends.vllm.process import BUDGETS, CPU_ENVIRONMENT, ON_CPU
from elastic_agent.errors import BackendError, ConfigError

from ....config.processes import processes
from ....config.schema import TrainConfig
from ...rollout import Rollout
from ..correction import correct_for
from ..engine import MOST_ROWS, Batch, Sample
from ..in_process import roll_out
from ..probe import (
    WRONG,
    StaleWeightsError,
    mean_gap,
    most_gap,
    probe_ids,
    trainer_logprobs,
    vllm_logprobs,
)
from ..serving import ServedModel, serving_decoder
from ..weights import named_weights
from .decoder import VllmDecoder
from .process_group import processes_together

_SPARE = 64
"""Tokens of room beyond `rollout.context`: under anytime rewards a call holds a close of its own."""


def make_colocated(
    config: TrainConfig, base: str, tokenizer: Any, log: Callable[[str], None]
) -> ColocatedVllm:
    """The engine of a config; vLLM itself starts with the trainer.

    Raises:
        ConfigError: this Python has no vLLM, or a setting that the engine can't keep.
    """
    if find_spec("vllm") is None:
        raise ConfigError(
            "rollout.engine vllm: this Python has no vLLM. `make vllm` makes one that has all of training, "
            "too: .venv-vllm/bin/python -m elastic_agent.training ...; or take rollout.engine "
            "transformers"
        )
    if config.rollout.top_p < 1:
        raise ConfigError(
            f"rollout.top_p: {config.rollout.top_p:g}; the engine vllm gives the log-probs of the nucleus, "
            f"and the trainer those of the whole vocabulary: leave it at 1"
        )
    return ColocatedVllm(config, base, tokenizer, log)


def start_llm(config: TrainConfig, base: str) -> Any:
    """A `vllm.LLM` of the base in this process. Takes from seconds to minutes."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # weights are handed over as objects
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    import torch
    from vllm.platforms import current_platform

    settings, on_cpu = config.rollout.vllm, current_platform.is_cpu()
    options: dict[str, Any] = {
        "enable_prefix_caching": BUDGETS["enable_prefix_caching"],
        "enforce_eager": settings.eager,
        "gpu_memory_utilization": settings.memory,
        "enable_sleep_mode": settings.sleep,
    }
    if on_cpu:
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from elastic_agent.backends.vllm.plugin.elastic_weights import keep_linear_layers_plain

        keep_linear_layers_plain()
        options |= ON_CPU | {"enable_sleep_mode": False}
        del options["gpu_memory_utilization"]
    options["dtype"] = dtype_of(config)
    if processes() > 1:  # each process is a world of its own for vLLM, inside the group that torch has made
        options["distributed_executor_backend"] = "external_launcher"
    from vllm import LLM

    try:
        return LLM(
            model=base,
            max_model_len=_longest(config, base),
            max_num_seqs=settings.rows,
            logprobs_mode="processed_logprobs",  # those of the distribution that is drawn from
            seed=config.seed,
            disable_log_stats=True,
            **options,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(f"rollout.engine vllm: vLLM does not start: {error}") from error
    finally:
        torch.set_num_threads(config.device.threads)  # vLLM sets a number of its own


def dtype_of(config: TrainConfig) -> str:
    """vLLM's precision: that of `rollout.vllm.dtype`, else the trainer's."""
    return config.rollout.vllm.dtype or config.device.precision


def _longest(config: TrainConfig, base: str) -> int:
    from transformers import AutoConfig

    most = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", None)
    wanted = config.rollout.context + _SPARE
    return wanted if most is None else min(wanted, int(most))


class ColocatedVllm:
    """The engine; see the module. `log` gets a line when vLLM has started."""

    gathers = True  # one weight at a time
    gives_logprobs = True

    def __init__(self, config: TrainConfig, base: str, tokenizer: Any, log: Callable[[str], None]) -> None:
        self._config, self._base, self._log = config, base, log
        self._probe = probe_ids(tokenizer)
        self._served = ServedModel.of(config, tokenizer)
        self._llm: Any = None
        self._trainer: Any = None
        self._most = 0.0
        """Nats a token by which the two sides may differ after a sync."""
        self._asleep = False

    def start(self, trainer: Any) -> None:
        """Start vLLM on the base, and see to it that it computes what the trainer computes.

        Raises:
            ConfigError: vLLM does not start, or gives other log-probs than the trainer's model.
        """
        began = time.perf_counter()
        self._llm = start_llm(self._config, self._base)
        self._trainer = trainer
        fresh, precision = self._gap(), dtype_of(self._config)
        if not fresh <= WRONG[precision]:
            raise ConfigError(
                f"rollout.engine vllm: the log-probs of {self._base} in vLLM ({precision}) differ by "
                f"{fresh:.2g} nats a token from those of the trainer's model: another model, or a precision "
                f"that it can't be trained with"
            )
        self._most = most_gap(precision, fresh)
        correct_for(self, trainer)
        self._log(
            f"vLLM runs in {precision} after {time.perf_counter() - began:.0f} s; its log-probs differ by "
            f"{fresh:.1e} nats a token from the trainer's, and may by {self._most:.1e}"
        )

    def sync_weights(self) -> None:
        """Reload the weights in training, and check that the reload took.

        Raises:
            StaleWeightsError: vLLM's log-probs are not those of the weights in training.
        """
        began = time.perf_counter()
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
        self._reload()
        if self._asleep:
            self._llm.wake_up(tags=["kv_cache"])
        self._asleep = False
        self._llm.reset_prefix_cache()
        gap = self._gap()
        self._trainer.note({"rollout/sync_seconds": time.perf_counter() - began, "rollout/sync_gap": gap})
        if not gap <= self._most:
            raise StaleWeightsError(
                f"rollout.engine vllm: after the sync at update {self._trainer.state.global_step} vLLM's "
                f"log-probs differ by {gap:.2g} nats a token from those of the weights in training (at most "
                f"{self._most:.2g} is rounding): vLLM has not taken the weights, and nothing was sampled "
                f"with the old ones"
            )

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        """One rollout a call, each token with its log-prob.

        Raises:
            BackendError: vLLM failed.
        """
        if self._asleep:
            self.sync_weights()
        try:
            drawn = replace(batch.sampling, logprobs=True)
            return roll_out(VllmDecoder(self._llm), replace(batch, sampling=drawn))
        except RuntimeError as error:
            raise BackendError(f"vLLM failed while it sampled: {error}") from error

    def serving(self, trainer: Any, rows: int = MOST_ROWS) -> AbstractAsyncContextManager[Backend]:
        """vLLM as a Backend, whose own setting says how many rows it decodes together."""
        if self._asleep:
            self.sync_weights()
        architecture = self._llm.llm_engine.model_config.hf_text_config
        device = trainer.accelerator.device
        return serving_decoder(lambda: VllmDecoder(self._llm), self._served, architecture, device)

    def check_served(self, trainer: Any, samples: Sequence[Sample]) -> None:
        """Nothing: each sync is checked, and TRL logs the gap."""

    def rest(self) -> None:
        """Give back GPU memory until the next sync: the weights here are old after the update anyway."""
        if self._llm is not None and self._llm.llm_engine.model_config.enable_sleep_mode:
            self._llm.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """Stop vLLM."""
        if self._llm is not None:
            with processes_together() if processes() > 1 else nullcontext():
                self._llm.llm_engine.engine_core.shutdown()
        self._llm = None

    def _reload(self) -> None:
        weights = named_weights(self._trainer)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})

    def _gap(self) -> float:
        """Mean difference of the two sides' log-probs of the probe, in nats a token."""
        ours = trainer_logprobs(self._trainer, self._probe)
        return mean_gap(ours, vllm_logprobs(self._llm, self._probe))
