"""Episodes as numbers: success, tokens, dollars and seconds by cap; success curves by kind of call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from elastic_agent.budget import Caps

from ...agents.command import caps_text
from ...agents.episode import Episode
from ..reports.stats import interval

BINS = 8
"""Most points of a curve."""


@dataclass(frozen=True, slots=True)
class CapSummary:
    """The episodes under one cap.

    Attributes:
        cap: as people write it: "tokens=500".
        success: mean reward of the episodes that did not fail; with its 95% interval over rows.
        answered: share of the episodes whose agent returned a reward: neither refused nor failed.
        refused: share that a budget error ended. failed: share that crashed, hung or returned no reward.
        tokens, usd, seconds, calls: means an episode; usd is None without a price.
        overspend: the most that any episode spent above its cap, in tokens.
        n: rows. episodes: in all.
    """

    cap: str
    success: float
    low: float
    high: float
    answered: float
    refused: float
    failed: float
    tokens: float
    usd: float | None
    seconds: float
    calls: float
    overspend: int
    n: int
    episodes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(caps: Caps, episodes: Sequence[Episode]) -> CapSummary:
    """The summary of the episodes under one cap."""
    by_row: dict[int, list[float]] = defaultdict(list)
    for episode in episodes:
        if episode.reward is not None:
            by_row[episode.spec.number].append(episode.reward)
    shares = [fmean(rewards) for rewards in by_row.values()]
    low, high = interval(shares) if shares else (0.0, 1.0)
    count = len(episodes)
    spent = [episode.spent for episode in episodes if episode.spent is not None]  # None: it never began
    usd = [float(one.usd) for one in spent if one.usd is not None]
    return CapSummary(
        cap=caps_text(caps),
        success=round(fmean(shares), 4) if shares else 0.0,
        low=low,
        high=high,
        answered=sum(episode.result is not None for episode in episodes) / count,
        refused=sum(episode.refused for episode in episodes) / count,
        failed=sum(episode.failed for episode in episodes) / count,
        tokens=round(fmean(one.tokens or 0 for one in spent), 1) if spent else 0.0,
        usd=round(fmean(usd), 9) if usd and any(usd) else None,
        seconds=round(fmean(episode.seconds for episode in episodes), 3),
        calls=round(fmean(len(episode.calls) for episode in episodes), 2),
        overspend=0 if caps.tokens is None else max([0, *((one.tokens or 0) - caps.tokens for one in spent)]),
        n=len({episode.spec.number for episode in episodes}),
        episodes=count,
    )


def table(summaries: Sequence[CapSummary]) -> str:
    """The summaries for people, at most 80 columns wide."""
    lines = [f"{'cap':<20} {'success':>8} {'95%':>13} {'answered':>8} {'tokens':>8} {'calls':>6} {'over':>5}"]
    for row in summaries:
        span = f"{row.low:.2f} to {row.high:.2f}"
        lines.append(
            f"{row.cap[:20]:<20} {row.success:>8.3f} {span:>13} {row.answered:>8.0%} {row.tokens:>8.0f} "
            f"{row.calls:>6.1f} {row.overspend:>5}"
        )
    return "\n".join(lines)


def line_of(caps: Caps, episode: Episode) -> dict[str, Any]:
    """An episode as a line of results.jsonl."""
    return {
        "cap": caps_text(caps),
        "row": episode.spec.number,
        "reward": episode.reward,
        "refused": episode.refused,
        "failure": episode.failure,
        "metrics": {} if episode.result is None else dict(episode.result.metrics),
        "tokens": episode.tokens,
        "spent": None if episode.spent is None else episode.spent.to_dict(),
        "seconds": round(episode.seconds, 3),
        "calls": [
            {
                "kind": call.kind,
                "task": call.task,
                "granted": [call.granted.thinking, call.granted.solution],
                "thinking": call.usage.thinking,
                "solution": call.usage.solution,
                "cut": call.cut,
            }
            for call in episode.calls
        ],
    }


def curves_of(
    episodes: Iterable[Episode], *, name: str, split: str = "", command: str = ""
) -> Mapping[str, Any]:
    """Success by kind of call and thinking that was granted: the content of a curves file for the scheduler.

    A call's success is its own reward, where the agent gave one, else that of its episode. So with rewards of
    episodes alone a curve says how an episode fares whose call was granted so much, and not how good the call
    was: caps that differ much between episodes make it steeper than the call's own curve.

    Args:
        name: the model's name. split: what was measured on. command: how.
    """
    seen: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    for episode in episodes:
        if episode.reward is None:
            continue
        rewards = episode.result.calls if episode.result is not None else None
        for at, call in enumerate(episode.calls):
            own = rewards[at] if rewards is not None and at < len(rewards) else None
            reward = min(1.0, max(0.0, episode.reward if own is None else own))
            seen[call.kind].append((call.granted.thinking or 0, reward, call.granted.solution))
    kinds = {kind: _points(points) for kind, points in seen.items()}
    most = max((solution for points in seen.values() for _, _, solution in points), default=1)
    return {"model": name, "s": most, "split": split, "kinds": kinds, "command": command}


def _points(seen: list[tuple[int, float, int]]) -> list[list[float]]:
    """[t, p, n] of bins that hold as many calls each, as far as equal t allow."""
    seen = sorted(seen)
    size = max(1, len(seen) // BINS)
    found: list[list[float]] = []
    at = 0
    while at < len(seen):
        end = min(len(seen), at + size)
        while end < len(seen) and seen[end][0] == seen[end - 1][0]:
            end += 1
        part = seen[at:end]
        t = round(fmean(one[0] for one in part))
        point = [t, round(fmean(one[1] for one in part), 4), len(part)]
        if found and found[-1][0] == t:  # two bins with the same mean, rounded
            n = found[-1][2] + len(part)
            found[-1] = [t, round((found[-1][1] * found[-1][2] + point[1] * len(part)) / n, 4), n]
        else:
            found.append(point)
        at = end
    return found
