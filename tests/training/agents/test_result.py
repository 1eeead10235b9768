"""What an agent may return."""

import math
from typing import Any

import pytest

from elastic_agent.training.agents.result import EpisodeResult, ResultError, read_result


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (1, EpisodeResult(1.0)),
        (True, EpisodeResult(1.0)),
        (0.5, EpisodeResult(0.5)),
        ({"right": 1, "short": 0.5}, EpisodeResult(1.5, None, {"right": 1.0, "short": 0.5})),
        (
            {"reward": 0.5, "calls": [1, None], "metrics": {"turns": 2}},
            EpisodeResult(0.5, (1.0, None), {"turns": 2.0}),
        ),
        (EpisodeResult(2, [0, 1]), EpisodeResult(2.0, (0.0, 1.0))),
    ],
)
def test_rewards_in_their_shapes(value: Any, result: EpisodeResult) -> None:
    assert read_result(value) == result


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "returned nothing"),
        (math.nan, "returned nan"),
        (math.inf, "returned inf"),
        ("yes", "expected a number"),
        ("0.5", "expected a number"),
        ([1.0], "expected a number"),
        ({}, "empty dict"),
        ({"right": "no"}, "rewards 'right'"),
        ({"reward": 1, "calls": 3}, "calls"),
        (EpisodeResult(1.0, metrics={"turns": math.nan}), "metrics 'turns'"),
    ],
)
def test_what_is_no_reward(value: Any, words: str) -> None:
    with pytest.raises(ResultError, match=words):
        read_result(value)
