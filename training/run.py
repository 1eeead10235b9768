"""A training run, from its config to the saved model.

Every group of samples gets one budget; thinking is cut there, the close is forced and masked, and the
solution alone is rewarded. The output folder gets the model, metrics.csv, metrics.svg, config.yaml,
train_log.json and checkpoints, from which a run that resumes goes on to the same weights as a run in one go.

TRL's GRPOTrainer does the learning. Ours are the budgets (`elastic_agent.training.budgets.distributions`),
the rollouts (`elastic_agent.training.rollouts`) and the rewards (`elastic_agent.training.rewards`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.errors import ConfigError

from .agents.rollouts import make_agent_rollout_func, numbered
from .config.processes import rank
from .config.schema import TrainConfig
from .config.trl_arguments import make_adapters
from .data import dataset_of
from .grpo.anytime import make_anytime_rollout_func
from .grpo.attention import implementation
from .grpo.checkpoints import checkpoints, last_good
from .grpo.export import export_model, load_model
from .grpo.launch import check_launch
from .grpo.logger import RunLogger, make_callback
from .grpo.output_lock import OutputLock
from .grpo.phases import Phases, TimedEngine, make_phase_callback
from .grpo.resuming import check_resumed, keep_config
from .grpo.sample_table import SampleTable, observed
from .grpo.sharding import on_whole_weights, whole_weights
from .grpo.stopping import rescued
from .grpo.validate import RunContext, validate
from .next_steps import next_steps
from .rewards.functions import RewardFunction
from .rollouts.ahead import FLYING, AheadEngine, decode_ahead
from .rollouts.engines.engine import Decode, Serves, is_sharded
from .rollouts.single_calls import Defects, make_rollout_func
from .rollouts.trl_columns import RolloutFunc


def make_rollouts(
    config: TrainConfig, run: RunContext, engine: TimedEngine, log: Callable[[str], None] = print
) -> RolloutFunc:
    """The rollouts of a config, after which the engine rests until the next batch."""
    if isinstance(run.engine, AheadEngine):
        rollouts = run.engine.rollouts(_rollouts(config, run, decode_ahead, FLYING, log), engine.phases)
    else:
        rollouts = _rollouts(config, run, engine.decode, engine, log)

    def sample(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        done = rollouts(prompts, trainer)
        engine.rest()
        return done

    return sample


def _rollouts(
    config: TrainConfig, run: RunContext, decode: Decode, serves: Serves, log: Callable[[str], None]
) -> RolloutFunc:
    """Episodes of an agent, single calls answered at several cuts, or single calls."""
    sampling = Sampling(temperature=config.rollout.temperature, top_p=config.rollout.top_p)
    if run.agent is not None:
        return make_agent_rollout_func(
            run.agent,
            run.rows,
            run.numbers,
            sampling=sampling,
            seed=config.seed,
            engine=serves,
            filler=run.tokenizer.eos_token_id,
            log=log,
        )
    assert run.budgets is not None
    assert config.budgets is not None
    common: dict[str, Any] = {
        "budgets": run.budgets,
        "sampling": sampling,
        "seed": config.seed,
        "engine": decode,
        "context": config.rollout.context,
        "markers": config.named_markers,
        "wrap_up": config.rollout.wrap_up,
    }
    if config.anytime is not None:
        return make_anytime_rollout_func(run.tokenizer, anytime=config.anytime, **common)
    defects = Defects(
        forced_close_in_loss="forced-close-in-loss" in config.authors_compat,
        fake_end="fake-end" in config.authors_compat,
    )
    return make_rollout_func(run.tokenizer, stated=config.budgets.stated, defects=defects, **common)


def make_trainer(
    config: TrainConfig, run: RunContext, logger: RunLogger, callbacks: Sequence[Any] = ()
) -> Any:
    """The TRL trainer of a config, with its model loaded."""
    import torch
    from transformers import PrinterCallback

    from .grpo.trainer import E1Trainer

    torch.manual_seed(config.seed)
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")  # pinned by our tests
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # accelerate passes it on
    loading = {"attn_implementation": implementation(config), **(run.arguments.model_init_kwargs or {})}
    run.arguments.model_init_kwargs = None  # else TRL warns that they are ignored
    rows = dataset_of(run.rows if run.agent is None else numbered(len(run.rows)))
    phases = Phases()
    engine = TimedEngine(run.engine, phases)
    rollouts = make_rollouts(config, run, engine, logger.log)
    if not engine.gathers:
        rollouts = on_whole_weights(rollouts)
    table = None
    if rank() == 0:
        table = SampleTable(config.output / "samples.jsonl", config.sample_table, run.tokenizer.decode)
    # TRL allows None among the rewards, and so asks for a wider type
    reward: Any = observed(run.reward, phases, table, config.updates)
    trainer = E1Trainer(
        config,
        model=load_model(run.base, **loading),
        args=run.arguments,
        processing_class=run.tokenizer,
        train_dataset=rows,
        reward_funcs=[reward],
        rollout_func=rollouts,
        callbacks=[make_callback(logger, config.updates, table), *callbacks],
        peft_config=make_adapters(config),
    )
    trainer.remove_callback(PrinterCallback)
    engine.start(trainer)

    def validated(batch: int) -> dict[str, float]:
        if run.validation is None or batch % config.validation.every:
            return {}
        with nullcontext() if engine.gathers else whole_weights(trainer):
            return run.validation.run(run.engine, trainer)

    trainer.add_callback(make_phase_callback(phases, config.updates, trainer.note, validated))
    return trainer


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    callbacks: Sequence[Any] = (),
    log: Callable[[str], None] = print,
) -> Any:
    """Run a config and save the model. Returns the TRL trainer, its log in ``state.log_history``.

    Args:
        resume: go on from the last good checkpoint in the output folder, if there is one.
        callbacks: further callbacks of transformers' Trainer.
        log: gets the lines for people.

    Raises:
        ConfigError and its like: before anything is loaded (`elastic_agent.training.grpo.validate`).
        BackendError: the engine that samples is lost for good. First a checkpoint of the last finished step
            is written, unless weights are sharded: then the last scheduled checkpoint serves.
        KeyboardInterrupt: Ctrl-C or SIGTERM; with a checkpoint in the same way.
        RuntimeError: of torch, another process is gone; with a checkpoint in the same way.
    """
    with OutputLock(config.output) as lock:
        if rank() == 0:
            lock.hold()
        return _train(config, lock, resume=resume, callbacks=callbacks, log=log)


def _train(
    config: TrainConfig,
    lock: OutputLock,
    *,
    resume: bool,
    callbacks: Sequence[Any],
    log: Callable[[str], None],
) -> Any:
    folder, speak = config.output / "checkpoints", log
    log = log if rank() == 0 else _silent
    if checkpoints(folder) and not resume:
        raise ConfigError(
            f"{folder} holds checkpoints of an earlier run: --resume goes on from them, or give another "
            f"--output"
        )
    start = last_good(folder, log) if resume else None
    if start is not None:
        check_resumed(config, log)
    run = validate(config, log)
    if resume:
        log(f"going on from {start}" if start else f"no checkpoint in {folder}: starting from the beginning")
    if rank() == 0:
        keep_config(config)
    trainer = make_trainer(config, run, RunLogger(config.output, config.steps, log), callbacks)
    log(check_launch(config, trainer.accelerator))
    try:
        with rescued(trainer, lock, config.updates, speak):
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
    finally:
        run.engine.close()
        if isinstance(run.reward, RewardFunction):
            run.reward.close()
    _save(config, run, trainer)
    log(next_steps(config, None if run.budgets is None else run.budgets.largest()))
    return trainer


def _silent(_: str) -> None:
    """The log of all processes of a run but the first."""


def _save(config: TrainConfig, run: RunContext, trainer: Any) -> None:
    """Write the model, and TRL's log beside it."""
    main = trainer.accelerator.is_main_process
    if main or is_sharded(trainer):
        model = trainer.accelerator.unwrap_model(trainer.model)
        export_model(model, run.tokenizer, config.output, write=main)
    if main:
        log = json.dumps(trainer.state.log_history, indent=1, default=str)
        (config.output / "train_log.json").write_text(log)
