"""Rollouts: forced is not sampled (law 6), limits are exact (law 3), the reward sees the solution alone."""

import random
from collections import Counter
from typing import Any

import pytest

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.phases import TwoPhase
from elastic_agent.training.model import new_model
from elastic_agent.training.rewards import make_reward, solution_reward
from elastic_agent.training.rollout import (
    group_budgets,
    machine_for,
    make_rollout_func,
    markers_of,
    prompt_ids_of,
    roll_out,
    rollout_of,
)
from elastic_agent.training.stock_problems import make_problems
from elastic_agent.training.tokenizer import CLOSE, END, build_tokenizer, vocabulary

VOCAB = vocabulary()
EOS, MARK = VOCAB[END], VOCAB[CLOSE]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


def ids(text: str) -> list[int]:
    return [VOCAB[word] for word in text.split()]


def drive(machine: TwoPhase, thinking: list[int], solution: list[int]) -> None:
    """Feed a machine the tokens that a model would have sampled."""
    machine.next_pass()
    machine.feed(thinking, [-0.5] * len(thinking))
    if not machine.over:
        machine.pass_ended("length")
    if machine.phase.value == "closing":
        machine.close()
    machine.next_pass()
    machine.feed(solution, [-0.25] * len(solution))


def make_machine(tokenizer: Any, t: int | None, s: int = 8) -> TwoPhase:
    prompt = prompt_ids_of(tokenizer, [{"role": "user", "content": "Ben has 4 pens ."}])
    return machine_for(prompt, Budget(t, s), markers_of(tokenizer), 256)


def test_a_forced_close_is_masked_and_has_no_logprob(tokenizer: Any) -> None:
    machine = make_machine(tokenizer, 3)
    drive(machine, ids("start 4 ."), [*ids("Answer : 4 ."), EOS])
    rollout = rollout_of(machine)
    assert list(rollout.completion_ids) == [*ids("start 4 ."), MARK, *ids("Answer : 4 ."), EOS]
    assert rollout.env_mask == (1, 1, 1, 0, 1, 1, 1, 1, 1)
    assert rollout.logprobs[3] is None
    assert None not in rollout.logprobs[:3] + rollout.logprobs[4:]
    assert rollout.cut
    assert rollout.finished
    assert rollout.thinking_tokens == 3


def test_a_natural_close_was_sampled_and_is_trained_on(tokenizer: Any) -> None:
    machine = make_machine(tokenizer, 50)
    drive(machine, [*ids("start 4 ."), MARK], [*ids("Answer : 4 ."), EOS])
    rollout = rollout_of(machine)
    assert set(rollout.env_mask) == {1}
    assert not rollout.cut
    assert rollout.thinking_tokens == 3


def test_end_of_text_while_thinking_is_stripped_then_closed(tokenizer: Any) -> None:
    machine = make_machine(tokenizer, 50)
    drive(machine, [*ids("start 4 ."), EOS], [*ids("Answer : 4 ."), EOS])
    rollout = rollout_of(machine)
    assert list(rollout.completion_ids) == [*ids("start 4 ."), MARK, *ids("Answer : 4 ."), EOS]
    assert rollout.env_mask[3] == 0
    assert rollout.completion_ids.count(EOS) == 1


def test_an_unfinished_solution_earns_nothing(tokenizer: Any) -> None:
    machine = make_machine(tokenizer, 3, s=4)
    drive(machine, ids("start 4 ."), ids("Answer : 4 ."))
    rollout = rollout_of(machine)
    assert not rollout.finished
    assert solution_reward("Answer : 4 .", rollout.finished, 4) == 0.0
    assert solution_reward("Answer : 4 .", True, 4) == 1.0


def test_an_answer_in_the_thinking_earns_nothing(tokenizer: Any) -> None:
    machine = make_machine(tokenizer, 50)
    drive(machine, [*ids("Answer : 4 ."), MARK], [*ids("so it is 4 ."), EOS])
    rollout = rollout_of(machine)
    reward = make_reward(tokenizer.decode)
    assert reward(solution_ids=[rollout.solution_ids], finished=[rollout.finished], answer=[4]) == [0.0]


def test_budgets_are_constant_within_a_group_and_dealt_evenly() -> None:
    budgets = group_budgets(random.Random(0), 48, 6, (24, 48, 96, None), 96)
    for start in range(0, 48, 6):
        assert len({b.thinking for b in budgets[start : start + 6]}) == 1
    assert Counter(b.thinking for b in budgets) == {24: 12, 48: 12, 96: 12, None: 12}
    with pytest.raises(ValueError):
        group_budgets(random.Random(0), 7, 6, (24,), 96)


def test_random_rows_keep_their_limits(tokenizer: Any) -> None:
    """Law 3 on a random model: t in 0 to 40 and s in 1 to 20, all in one batch."""
    import torch

    torch.manual_seed(0)
    model = new_model(hidden=64, layers=1, heads=1, mlp=64).eval()
    rng = random.Random(1)
    problems = make_problems(0, 24, split="train")
    calls = [
        (
            prompt_ids_of(tokenizer, [{"role": "user", "content": p.text}]),
            Budget(rng.randint(0, 40), rng.randint(1, 20)),
        )
        for p in problems
    ]
    decoder = BatchDecoder(model, max_rows=8, generator=torch.Generator().manual_seed(0))
    done = roll_out(
        decoder, calls, markers_of(tokenizer), context=512, sampling=Sampling(temperature=1.0, top_p=1.0)
    )
    for (prompt, budget), rollout in zip(calls, done, strict=True):
        assert rollout.prompt_ids == tuple(prompt)
        assert budget.thinking is not None
        assert rollout.thinking_tokens <= budget.thinking
        assert 1 <= len(rollout.solution_ids) <= budget.solution
        assert len(rollout.completion_ids) == len(rollout.env_mask) == len(rollout.logprobs)
        forced = [
            token
            for token, sampled in zip(rollout.completion_ids, rollout.env_mask, strict=True)
            if not sampled
        ]
        assert forced == ([MARK] if rollout.cut else [])


def test_the_rollout_func_returns_what_trl_asks_for(tokenizer: Any) -> None:
    from types import SimpleNamespace

    model = new_model(hidden=64, layers=1, heads=1, mlp=64)
    trainer = SimpleNamespace(
        model=model, num_generations=2, accelerator=SimpleNamespace(unwrap_model=lambda m: m)
    )
    rollout = make_rollout_func(
        tokenizer, thinking=(4, None), solution=5, context=96, sampling=Sampling(1.0, 1.0), seed=0
    )
    prompts = [[{"role": "user", "content": p.text}] for p in make_problems(0, 2, split="train", steps=2)]
    out = rollout([prompts[0], prompts[0], prompts[1], prompts[1]], trainer)
    assert {"prompt_ids", "completion_ids", "logprobs", "env_mask", "solution_ids", "finished"} <= out.keys()
    assert all(len(v) == 4 for v in out.values() if v is not None)
    assert out["thinking_limit"][0] == out["thinking_limit"][1] != out["thinking_limit"][2]
    assert model.training
