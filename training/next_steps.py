"""What a finished run has written, and the commands to go on with, for people."""

from __future__ import annotations

import shlex

from .config.schema import TrainConfig


def next_steps(config: TrainConfig, largest: tuple[int | None, int] | None) -> str:
    """What a finished run has written, and the commands to go on with.

    Args:
        largest: (t, s) of its budgets; None: of an agent.
    """
    if largest is None:
        return _next_of_agent(config)
    t, s = largest
    held_out = {"math": "math500", "code": "livecodebench"}.get(config.reward.kind)
    data = config.data.decontaminate[:1] or ((held_out,) if held_out else ())
    name = shlex.quote(str(config.output))
    thinking = ",".join([*(str(n) for n in sorted({t // 4, t // 2, t})), "none"] if t else ["none"])
    return (
        f"wrote {config.output}: the model, metrics.csv and metrics.svg, train_log.json, config.yaml\n"
        f"next: elastic-agent eval --model {name} --thinking {thinking} --solution {s}"
        f"{''.join(f' --data {d}' for d in data)}\n"
        f'      elastic-agent ask "..." --model {name} --thinking {t or "none"} --solution {s}'
    )


def _next_of_agent(config: TrainConfig) -> str:
    agent = config.agent
    assert agent is not None
    name = shlex.quote(str(config.output))
    data = shlex.quote(str(next(iter(config.data.path.values()), "test.jsonl")))
    low, high = (agent.caps.tokens or (1000, 1000))[0], (agent.caps.tokens or (1000, 1000))[-1]
    caps = ",".join(f"{cap}" for cap in sorted({low, round((low * high) ** 0.5), high}))
    run = f" --config {name}/config.yaml" if agent.run is None else f" --agent {agent.run}"
    return (
        f"wrote {config.output}: the model, metrics.csv and metrics.svg, train_log.json, config.yaml\n"
        f"next: elastic-agent eval --model {name}{run} --data {data} --caps tokens={caps}"
    )
