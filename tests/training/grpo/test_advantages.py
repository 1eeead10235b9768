"""Anytime advantages: a token is credited with the answers that depend on it, and with no others."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from elastic_agent.training.config.schema import AnytimeConfig
from elastic_agent.training.grpo.advantages import (
    advantages,
    anytime_metrics,
    by_cut,
    row_advantages,
    token_advantages,
)
from elastic_agent.training.grpo.metrics import SampleStats

BASELINES = ("group", "budget-relative")
nan = math.nan


def table(*samples: list[list[float]]) -> Tensor:
    """One problem: samples of cuts of solutions."""
    return torch.tensor([samples], dtype=torch.float64)


def test_two_samples_at_three_cuts_by_hand() -> None:
    rewards = table([[0], [1], [1]], [[0], [0], [1]])
    thinking, solution = advantages(rewards)
    assert thinking[0].tolist() == [[1, 1, 0], [-1, -1, 0]], "cuts 1 to 3, 2 and 3, and 3 alone"
    assert solution[0, :, :, 0].tolist() == [[0, 1, 0], [0, -1, 0]]
    relative, same = advantages(rewards, "budget-relative")
    # Cut 2 of sample 1: a third from its own past, (1 - 0) + (1 - 0); cut 3: two thirds, 1 - (0 + 2 * 1) / 3
    expected = [[1, 2 / 3 * 1 + 1 / 3 * 2, 2 / 3 * (1 / 3)], [-1, -2 / 3 + 1 / 3 * 1, 2 / 3 * 1]]
    assert torch.allclose(relative[0], torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(same, solution)


def test_several_solutions_share_the_weight_of_their_cut() -> None:
    thinking, solution = advantages(table([[0, 1], [1, 1]], [[0, 0], [0, 1]]))
    assert thinking[0].tolist() == [[1, 0.5], [-1, -0.5]]
    assert torch.allclose(
        solution[0], torch.tensor([[[-1 / 6, 0.5], [1 / 6, 1 / 6]], [[-1 / 6] * 2, [-0.5, 1 / 6]]]).double()
    )


def test_what_could_not_be_scored_neither_teaches_nor_counts() -> None:
    thinking, solution = advantages(table([[nan], [1]], [[0], [0]], [[1], [nan]]))
    assert thinking[0].tolist() == [[1, 1], [-2, -1], [1, 0]]
    assert solution[0, :, :, 0].tolist() == [[0, 1], [-1, -1], [1, 0]]
    for baseline in BASELINES:
        thinking, solution = advantages(table([[nan], [1]], [[nan], [nan]], [[nan], [nan]]), baseline)
        assert not thinking.any()
        assert not solution.any(), "nothing to compare with"


# The gradient is that of the objective: shown by going through everything that can happen.


def expected_gradients(
    estimate: Callable[[Tensor], tuple[Tensor, Tensor]], solutions: int
) -> tuple[Any, Any]:
    """(policy gradient in expectation, gradient of the objective) of a policy small enough to enumerate.

    Two samples. Each thinks two tokens (z1, then z2 given z1) and is answered at three cuts: before z1, after
    it, and after z2. An answer's probability to be right depends on what was thought before its cut.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1 + 2 + 7, dtype=torch.float64, generator=generator).requires_grad_()
    bits = torch.tensor(list(itertools.product((0, 1), repeat=2 + 3 * solutions)))
    z1, z2, rewards = bits[:, 0], bits[:, 1], bits[:, 2:].view(-1, 3, solutions).double()
    answer = torch.stack([logits[3].expand(len(bits)), logits[4 + z1], logits[6 + 2 * z1 + z2]], dim=1)
    log = torch.nn.functional.logsigmoid
    thought = log((2 * bits[:, :2] - 1) * torch.stack([logits[0].expand(len(bits)), logits[1 + z1]], dim=1))
    solved = log((2 * rewards - 1) * answer[..., None])
    chance = (thought.sum(1) + solved.sum((1, 2))).exp()
    (true,) = torch.autograd.grad((chance * rewards.mean(2).sum(1)).sum(), logits, retain_graph=True)

    pairs = torch.cartesian_prod(torch.arange(len(bits)), torch.arange(len(bits)))
    thinking, solution = estimate(rewards[pairs])
    score = (thought[pairs] * thinking[..., 1:]).sum((1, 2)) + (solved[pairs] * solution).sum((1, 2, 3))
    (found,) = torch.autograd.grad((chance[pairs].prod(1).detach() * score / 2).sum(), logits)
    return found, true


@pytest.mark.parametrize(("baseline", "solutions"), list(itertools.product(BASELINES, (1, 2))))
def test_the_policy_gradient_is_without_bias(baseline: str, solutions: int) -> None:
    """z1 lies in front of cut 2 (index 1) and z2 of cut 3; cut 1 depends on neither."""
    found, true = expected_gradients(lambda r: advantages(r, baseline), solutions)
    assert true.abs().max() > 0.1
    assert torch.allclose(found, true, atol=1e-12)


def only_the_next_cut(rewards: Tensor) -> tuple[Tensor, Tensor]:
    thinking, solution = advantages(rewards)
    return thinking - torch.nn.functional.pad(thinking[..., 1:], (0, 1)), solution


def a_mean_with_itself(rewards: Tensor) -> tuple[Tensor, Tensor]:
    thinking, solution = advantages(rewards)
    return thinking * 0.5, solution


@pytest.mark.parametrize("broken", [only_the_next_cut, a_mean_with_itself])
def test_a_wrong_estimate_is_found_out(broken: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    """Credit for the next cut alone, and a baseline that holds the sample itself: both are biased."""
    found, true = expected_gradients(broken, 1)
    assert not torch.allclose(found, true, atol=1e-3)


def test_the_relative_baseline_has_less_variance_where_the_past_tells() -> None:
    """Problems differ within a group in nothing but luck: what a thinking has earned says what it will."""
    generator = torch.Generator().manual_seed(0)
    skill = torch.rand(2000, 8, 1, 1, generator=generator).round()
    rewards = (torch.rand(2000, 8, 4, 1, generator=generator) < 0.05 + 0.9 * skill).double()
    spread_of = {b: advantages(rewards, b)[0][..., -1].var().item() for b in BASELINES}
    assert spread_of["budget-relative"] < 0.5 * spread_of["group"]


# Rows and tokens.


def test_rows_are_samples_of_cuts_of_solutions() -> None:
    anytime = AnytimeConfig(cuts=2, solutions=2)
    rewards = torch.tensor([0.0, 1, 1, 1, 0, 0, 0, 1] * 2)
    pairs = row_advantages(rewards, 8, anytime)
    thinking, solution = advantages(rewards.view(2, 2, 2, 2))
    assert pairs[:4, 0].tolist() == [1, 1, 0.5, 0.5]
    assert torch.equal(pairs[:, 1], solution.flatten())
    assert torch.equal(pairs[8:, 0], thinking[1].flatten().repeat_interleave(2))


def test_the_last_tokens_of_a_row_are_its_solution() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    found = token_advantages(torch.tensor([[2.0, -1], [3, 4], [5, 6]]), [2, 1, 2], mask)
    assert (found * mask).tolist() == [[2, 2, 2, -1, -1], [3, 3, 4, 0, 0], [6, 6, 0, 0, 0]]


def test_the_curve_of_a_batch_is_read_by_cut() -> None:
    anytime = AnytimeConfig(cuts=2, solutions=2)
    rows = [
        SampleStats(limit, limit - 1, 3, 1, True, True, reward)
        for reward in (0.0, 1.0)
        for limit in (4, 4, 8, 8)
    ]
    rows[2] = SampleStats(8, 7, 3, 1, True, True, nan)
    assert [row.limit for row in by_cut(rows + rows, 8, anytime)] == [4] * 4 + [8] * 4 + [4] * 4 + [8] * 4
    assert anytime_metrics(rows, anytime) == {
        "anytime/1/reward": 0.5,
        "anytime/1/thinking": 3,
        "anytime/2/reward": pytest.approx(2 / 3),
        "anytime/2/thinking": 7,
    }
