"""Whether a config goes on with the run whose checkpoints lie in its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from elastic_agent.errors import ConfigError

from ..config.loading import dump, load_config
from ..config.schema import TrainConfig

_FIXED = (
    *("base", "lora", "anytime", "rollout.prompts", "rollout.group"),
    *("learning.minibatches", "learning.iterations", "device.shard"),
)
"""Fields that say what the weights, the optimizer's state and a step of a checkpoint are."""


def check_resumed(config: TrainConfig, log: Callable[[str], None]) -> None:
    """Compare a config with that of the run which it goes on with; `log` gets what may change and does.

    Raises:
        ConfigError: a field differs that the checkpoints depend on.
    """
    path = config.output / "config.yaml"
    if not path.exists():
        return
    before = load_config(str(path)).model_dump()
    now = config.model_dump()
    broken = [name for name in _FIXED if _field(before, name) != _field(now, name)]
    if broken:
        was = ", ".join(f"{name} (then {_field(before, name)}, now {_field(now, name)})" for name in broken)
        raise ConfigError(
            f"the checkpoints in {config.output} are of another config, in {was}: resume with {path}, or "
            f"give another --output"
        )
    changed = [name for name, value in now.items() if value != before[name]]
    if changed:
        log(f"this run differs from the one it goes on with in {', '.join(changed)}: see {path}")


def keep_config(config: TrainConfig) -> None:
    """Write the config beside the model."""
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "config.yaml").write_text(dump(config), encoding="utf-8")


def _field(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values[part]
    return values
