"""The metrics of a batch of rollouts, segment by segment, without IO.

`groups/mixed` is the share of groups whose rewards differ at all; the other groups teach nothing.
`groups/decided_by_truncation` is the share of groups in which truncation alone decides the advantage. The
fate of a sample is (was its thinking cut, did its solution end within s). In such a group the rewards differ,
but not among samples of one fate: the group teaches only to stay within the limits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SampleStats:
    """One sample of a batch. `reward` is nan when no reward function could score it."""

    limit: int | None
    """Its t; None is unlimited."""
    thinking: int
    solution: int
    forced: int
    """Tokens that were appended, not sampled."""
    cut: bool
    """The close was forced."""
    finished: bool
    """The solution ended by itself."""
    reward: float


def segment_metrics(samples: Sequence[SampleStats], group: int, context: int) -> dict[str, float]:
    """Metrics of one batch, whose groups of `group` samples stand together. nan where there is nothing to
    take a mean of, such as the reward of cut samples in a batch without any."""
    groups = [samples[i : i + group] for i in range(0, len(samples), group)]
    found = {
        "thinking/mean_length": _mean(s.thinking for s in samples),
        "solution/mean_length": _mean(s.solution for s in samples),
        "thinking/cut": _mean(s.cut for s in samples),
        "solution/unfinished": _mean(not s.finished for s in samples),
        "forced_tokens": float(sum(s.forced for s in samples)),
        "reward/cut": _mean(s.reward for s in samples if s.cut),
        "reward/uncut": _mean(s.reward for s in samples if not s.cut),
        "groups/mixed": _mean(_differ(s.reward for s in g) for g in groups),
        "groups/decided_by_truncation": _mean(decided_by_truncation(g) for g in groups),
    }
    return found | histogram([g[0].limit for g in groups if g], context)


AGENT = (
    *("calls", "sequences", "failed", "refused", "tokens", "task_cap", "seconds", "resampled"),
    "episode_metrics",
)
"""The columns of an episode that `agent_metrics` reads."""


def agent_metrics(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of a batch of episodes, beside those by segment (which count all calls of one together). Failed
    episodes are in `agent/failed`, their share, and in no other. The agent's own metrics keep their names."""
    done = [episode for episode in episodes if not episode["failed"]]
    own = sorted({name for episode in done for name in episode["episode_metrics"]})
    found = {f"agent/{n}": _mean(e["episode_metrics"].get(n, math.nan) for e in done) for n in own}
    for name in ("calls", "sequences", "refused", "tokens", "seconds", "resampled"):
        found[f"agent/{name}"] = _mean(episode[name] for episode in done)
    caps = [episode["task_cap"] for episode in done if episode["task_cap"] is not None]
    return found | {"agent/failed": _mean(e["failed"] for e in episodes), "agent/task_cap": _mean(caps)}


def decided_by_truncation(group: Iterable[SampleStats]) -> bool:
    """The rewards differ, but not among samples of one fate."""
    fates: dict[tuple[bool, bool], list[float]] = defaultdict(list)
    for sample in group:
        fates[sample.cut, sample.finished].append(sample.reward)
    differ = _differ(reward for rewards in fates.values() for reward in rewards)
    return differ and not any(_differ(rewards) for rewards in fates.values())


def histogram(limits: Sequence[int | None], context: int) -> dict[str, float]:
    """Share of groups by t: "budget/t<=64" holds 33 to 64. The bins depend on the context alone, so that a
    run has the same columns from its first step to its last."""
    bounds = [0, 8]
    while bounds[-1] < context:
        bounds.append(bounds[-1] * 2)
    counts = {f"budget/t<={bound}": 0 for bound in bounds} | {"budget/unlimited": 0}
    for t in limits:
        bound = None if t is None else next((b for b in bounds if t <= b), bounds[-1])
        counts["budget/unlimited" if bound is None else f"budget/t<={bound}"] += 1
    return {name: count / max(1, len(limits)) for name, count in counts.items()}


def _differ(rewards: Iterable[float]) -> bool:
    known = [reward for reward in rewards if not math.isnan(reward)]
    return bool(known) and max(known) - min(known) > 1e-9


def _mean(values: Iterable[float]) -> float:
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
