"""The rollout engines by name: what `rollout.engine` in a config stands for. A new one is an entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...config.schema import TrainConfig
from .colocated.engine import make_colocated
from .engine import Engine
from .in_process import make_in_process
from .vllm_servers import make_served_rollouts

MakeEngine = Callable[[TrainConfig, str, Any, Callable[[str], None]], Engine]
"""(config, base, tokenizer, log) -> an engine, what it needs checked; ConfigError where that is missing."""

ENGINES: dict[str, MakeEngine] = {
    "transformers": make_in_process,
    "vllm": make_colocated,
    "vllm-server": make_served_rollouts,
}
