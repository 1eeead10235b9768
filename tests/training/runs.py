"""Small GRPO runs for the tests: a one-layer random base, and configs of a few seconds."""

from pathlib import Path
from typing import Any

from elastic_agent.config_files import merge
from elastic_agent.training.config.loading import build
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.grpo.logger import RunLogger
from elastic_agent.training.grpo.validate import validate

SMALL: dict[str, Any] = {
    "steps": 2,
    "budgets": {"thinking": [4, 8], "solution": 6},
    "rollout": {"prompts": 4, "group": 2, "context": 128},
    "learning": {"warmup_steps": 0},
    "device": {"bucket_tokens": 200},
    "checkpoint": {"every": 1000},
}


def small(base: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of seconds; `changes` are laid over it, section by section."""
    return build(merge({**SMALL, "base": str(base), "output": str(output)}, changes))


def make_base(folder: Path, **sizes: int) -> Path:
    """A random model with the tokenizer of e1-tiny."""
    import torch

    from tools.e1_tiny.model import new_model, save_model

    torch.manual_seed(0)
    save_model(new_model(**{"hidden": 64, "layers": 1, "heads": 2, "mlp": 64} | sizes), folder)
    return folder


def at_servers(*urls: str, **server: Any) -> dict[str, Any]:
    """The section `rollout` of a run that samples on these servers, and soon gives up on them."""
    usual = {"urls": list(urls), "backoff": 0, "retries": 2, "concurrency": 4}
    return {"engine": "vllm-server", "server": usual | server}


EASY = "tests.training.runs:easy_reward"


def easy_reward(**columns: Any) -> list[float]:
    """A reward that random models can earn, so that weights move: some ids are better."""
    return [sum(i % 7 for i in ids) / (7 * max(1, len(ids))) for ids in columns["solution_ids"]]


def trainer_of(config: TrainConfig) -> Any:
    """A trainer that has made its first batch, ready for `_compute_loss`."""
    from elastic_agent.training.run import make_trainer

    trainer = make_trainer(config, validate(config), RunLogger(config.output, config.steps))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = next(iter(trainer.get_train_dataloader()))
    trainer._prepare_inputs(batch)
    return trainer


def gradient(trainer: Any, inputs: dict[str, Any]) -> Any:
    """The loss's gradient as one vector."""
    import torch

    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, inputs).backward()
    found = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return torch.cat(found)
