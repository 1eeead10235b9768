"""Small GRPO runs for the tests: a one-layer random base, and configs of a few seconds."""

from pathlib import Path
from typing import Any

from elastic_agent.training.config import TrainConfig
from elastic_agent.training.configure import build, merge

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

    from elastic_agent.training.model import new_model, save_model

    torch.manual_seed(0)
    save_model(new_model(**{"hidden": 64, "layers": 1, "heads": 2, "mlp": 64} | sizes), folder)
    return folder


DENSE = "tests.training.runs:dense_reward"


def dense_reward(**columns: Any) -> list[float]:
    """A reward that random models can earn, so that weights move: some ids are better."""
    return [sum(i % 7 for i in ids) / (7 * max(1, len(ids))) for ids in columns["solution_ids"]]
