"""What an agent returns for a row: a reward, in one of a few shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elastic_agent.errors import ElasticError
from elastic_agent.validation import shown

_FIELDS = {"reward", "calls", "metrics"}


class ResultError(ElasticError, ValueError):
    """An agent returned something that is no reward; says what."""


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """The reward of an episode, and what else an agent has to say.

    Attributes:
        reward: what the episode was worth.
        calls: a reward for each call of the model, in the order in which the calls began, for `agent.credit:
            calls`; None for a call without one. None: no call has a reward of its own.
        metrics: numbers to log, by name.
    """

    reward: float
    calls: Sequence[float | None] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def read_result(value: Any) -> EpisodeResult:
    """What an agent returned, as an `EpisodeResult`.

    Args:
        value: a number, True or False; an `EpisodeResult`; a dict with the fields of one; or a dict of
            rewards by name, whose sum is the reward, and each of which is logged.

    Raises:
        ResultError: something else, or a number that is not finite.
    """
    if isinstance(value, EpisodeResult):
        return EpisodeResult(
            _number("reward", value.reward), _calls(value.calls), _numbers("metrics", value.metrics)
        )
    if isinstance(value, Mapping):
        if not value:
            raise ResultError("the agent returned an empty dict: it needs at least one reward")
        if "reward" in value and not set(value) - _FIELDS:
            return read_result(EpisodeResult(**value))
        rewards = _numbers("rewards", value)
        return EpisodeResult(sum(rewards.values()), None, rewards)
    if value is None:
        raise ResultError(
            "the agent returned nothing: return the reward, such as float(answer == row['answer'])"
        )
    return EpisodeResult(_number("reward", value))


def _number(what: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):  # text that reads like a number is a mistake, too
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ResultError(f"the agent returned {shown(value)} for its {what}: expected a number") from None
    if not math.isfinite(number):
        raise ResultError(f"the agent returned {number} for its {what}: expected a finite number")
    return number


def _numbers(what: str, values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise ResultError(f"the agent returned {shown(values)} for its {what}: expected numbers by name")
    return {str(name): _number(f"{what} {name!r}", value) for name, value in values.items()}


def _calls(values: Any) -> tuple[float | None, ...] | None:
    if values is None:
        return None
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise ResultError(
            f"the agent returned {shown(values)} for its calls: expected a number for each call"
        )
    return tuple(None if value is None else _number("calls", value) for value in values)
