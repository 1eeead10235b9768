"""Rollouts: forced is not sampled (law 6), limits are exact (law 3), the reward sees the solution alone."""

import random
from typing import Any

import pytest

from elastic_agent.backends.base import Sampling
from elastic_agent.backends.transformers.decode import BatchDecoder
from elastic_agent.budget import Budget
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.generation.prepare import markers_for
from elastic_agent.training.budgets.distributions import Spread, call_seeds, mixture
from elastic_agent.training.config.reward import RewardConfig
from elastic_agent.training.data.word_problems import make_problems
from elastic_agent.training.rewards.functions import make_reward_function
from elastic_agent.training.rewards.word_problems import solution_reward
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.in_process import roll_out
from elastic_agent.training.rollouts.prompts import codec_of, prompt_ids_of
from elastic_agent.training.rollouts.rollout import machine_for, rollout_of
from elastic_agent.training.rollouts.single_calls import Defects, for_loss, make_rollout_func
from elastic_agent.training.rollouts.trl_columns import for_trl
from tests.core.prompts.vocabularies import merging
from tools.e1_tiny.model import new_model
from tools.e1_tiny.tokenizer import CLOSE, END, build_tokenizer, vocabulary

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
    if not machine.pass_over:
        machine.pass_ended("length")
    if machine.phase.value == "closing":
        machine.close()
    machine.next_pass()
    machine.feed(solution, [-0.25] * len(solution))


def make_machine(tokenizer: Any, t: int | None, s: int = 8) -> TwoPhase:
    prompt = prompt_ids_of(tokenizer, [{"role": "user", "content": "Ben has 4 pens ."}])
    return machine_for(prompt, Budget(t, s), codec_of(tokenizer).markers, 256)


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
    reward = make_reward_function(RewardConfig(), tokenizer.decode)
    assert reward(solution_ids=[rollout.solution_ids], finished=[rollout.finished], answer=[4]) == [0.0]


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
    seeds = call_seeds(0, calls=range(len(calls)))
    done = roll_out(decoder, Batch(calls, codec_of(tokenizer).markers, 512, Sampling(1.0, 1.0), seeds))
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


def fake_trainer(model: Any, *, step: int = 0, group: int = 2) -> Any:
    """What the rollout function reads of a TRL trainer: two updates a batch."""
    from types import SimpleNamespace

    return SimpleNamespace(
        model=model,
        num_generations=group,
        accelerator=SimpleNamespace(unwrap_model=lambda m: m, process_index=0, num_processes=1),
        args=SimpleNamespace(steps_per_generation=2, num_iterations=1, gradient_accumulation_steps=1),
        state=SimpleNamespace(global_step=step),
    )


def test_the_rollout_func_returns_what_trl_asks_for(tokenizer: Any) -> None:
    model = new_model(hidden=64, layers=1, heads=1, mlp=64)
    rollout = make_rollout_func(
        tokenizer, budgets=mixture((4, None), 5), context=96, sampling=Sampling(1.0, 1.0), seed=0
    )
    prompts = [[{"role": "user", "content": p.text}] for p in make_problems(0, 2, split="train", steps=2)]
    out = rollout([prompts[0], prompts[0], prompts[1], prompts[1]], fake_trainer(model))
    assert {"prompt_ids", "completion_ids", "logprobs", "env_mask", "solution_ids", "finished"} <= out.keys()
    assert all(len(v) == 4 for v in out.values() if v is not None)
    assert out["thinking_limit"][0] == out["thinking_limit"][1] != out["thinking_limit"][2]
    assert model.training


def test_a_stated_length_stands_in_the_prompt_and_cuts_nothing(tokenizer: Any) -> None:
    """L1: t is asked for behind the problem, t + s is what the reward aims at, thinking is not limited."""
    model = new_model(hidden=64, layers=1, heads=1, mlp=64)
    rollout = make_rollout_func(
        tokenizer,
        budgets=mixture((4, 7), 5),
        context=128,
        sampling=Sampling(1.0, 1.0),
        seed=0,
        stated="l1-max",
    )
    problem = make_problems(0, 1, split="train", steps=2)[0]
    out = rollout([[{"role": "user", "content": problem.text}]] * 4, fake_trainer(model))
    assert sorted(out["length_target"]) == [9, 9, 12, 12]
    for target, prompt_ids, limit in zip(
        out["length_target"], out["prompt_ids"], out["thinking_limit"], strict=True
    ):
        asked = f"{problem.text} Think for maximum {target - 5} tokens."
        assert prompt_ids == prompt_ids_of(tokenizer, [{"role": "user", "content": asked}])
        assert limit is None
    assert max(out["thinking_tokens"]) > 7


def test_draws_follow_from_seed_and_batch_alone(tokenizer: Any) -> None:
    """A new process that starts at batch 1 draws what the old one would have drawn: nothing is remembered."""
    model = new_model(hidden=64, layers=1, heads=1, mlp=64)
    prompts = [[{"role": "user", "content": p.text}] for p in make_problems(0, 2, split="train", steps=2)]
    prompts = [prompts[0], prompts[0], prompts[1], prompts[1]]

    def fresh(seed: int = 0) -> Any:
        return make_rollout_func(
            tokenizer,
            budgets=Spread(0, 20, 5, unlimited=0.3),
            context=96,
            sampling=Sampling(1.0, 1.0),
            seed=seed,
        )

    going = fresh()
    batches = [going(prompts, fake_trainer(model, step=step)) for step in (0, 2, 3)]
    assert batches[1] == fresh()(prompts, fake_trainer(model, step=2))
    assert batches[1] == batches[2], "steps 2 and 3 are the two updates of batch 1"
    assert batches[0]["completion_ids"] != batches[1]["completion_ids"]
    assert batches[1]["completion_ids"] != fresh(1)(prompts, fake_trainer(model, step=2))["completion_ids"]


def test_two_processes_draw_what_one_draws(tokenizer: Any) -> None:
    """A call's seed is that of its number in the whole batch, whichever process holds the call."""
    rollout = make_rollout_func(
        tokenizer, budgets=mixture((4, None), 5), context=96, sampling=Sampling(1.0, 1.0), seed=0
    )
    model = new_model(hidden=64, layers=1, heads=1, mlp=64)
    texts = [p.text for p in make_problems(0, 4, split="train", steps=2)]
    prompts = [[{"role": "user", "content": text}] for text in texts for _ in range(2)]
    whole = rollout(prompts, fake_trainer(model))
    parts = []
    for process in (0, 1):
        trainer = fake_trainer(model)
        trainer.accelerator.num_processes, trainer.accelerator.process_index = 2, process
        parts.append(rollout(prompts[4 * process :][:4], trainer))
    assert len(set(map(tuple, whole["completion_ids"]))) > 4
    for column in ("completion_ids", "env_mask", "thinking_limit"):
        assert parts[0][column] + parts[1][column] == whole[column]


def test_tokens_that_carry_a_part_of_a_marker_are_trained_as_they_were_sampled() -> None:
    """Laws 5 and 6 where the marker is text: `.</` `think` `>{"` were sampled, so they keep their ids and
    log-probs and count in the loss. Rewards read the whole answer."""
    tokenizer = merging()
    markers = codec_of(tokenizer).markers

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    prompt = prompt_ids_of(tokenizer, [{"role": "user", "content": "how many?"}])
    said = ids('so it is.</think>{"a": 4}')
    for t in (4, 40):
        machine = machine_for(prompt, Budget(t, 20), markers, 256)
        machine.next_pass()
        machine.feed(said[:t], [-0.5] * len(said[:t]))
        if machine.phase is Phase.CLOSING:
            machine.close()
        machine.next_pass()
        rest = [*ids('{"a": 4}' if t == 4 else 'a": 4}'), tokenizer.eos_token_id]
        machine.feed(rest, [-0.25] * len(rest))
        rollout = rollout_of(machine)
        given, mask = for_loss(rollout, tokenizer, Defects())
        assert tokenizer.decode(rollout.solution_text_ids, skip_special_tokens=True) == '{"a": 4}'
        forced = len(markers.close_ids) if t == 4 else 0
        assert rollout.usage.forced == mask.count(0) == rollout.logprobs.count(None) == forced
        assert given == [*said[:4], *markers.close_ids, *rest] if t == 4 else [*said, tokenizer.eos_token_id]
        assert for_trl([rollout], [t], [(given, mask)])["solution_ids"] == [list(rollout.solution_text_ids)]


def test_thinking_that_is_opened_again_earns_nothing(tokenizer: Any) -> None:
    """C 13: the reward reads the answer alone, and one that ends in thinking is not finished."""
    machine = make_machine(tokenizer, 50, s=40)
    drive(machine, [*ids("so"), MARK], [*ids("<think> Answer : 4 . </think> so it is 5 ."), EOS])
    rollout = rollout_of(machine)
    assert list(rollout.solution_text_ids) == [*ids("so it is 5 ."), EOS]
    assert rollout.usage.reopened == 6
    reward = make_reward_function(RewardConfig(), tokenizer.decode)
    columns = for_trl([rollout], [50], [([], [])])
    assert reward(solution_ids=columns["solution_ids"], finished=columns["finished"], answer=[4]) == [0.0]
    machine = make_machine(tokenizer, 50, s=40)
    drive(machine, [*ids("so"), MARK], [*ids("Answer : 4 . <think> wait"), EOS])
    assert not rollout_of(machine).finished


def test_a_wrap_up_is_masked_like_the_close(tokenizer: Any) -> None:
    """Law 6: the sentence is forced: in no loss, without a log-prob, and outside of every limit."""
    markers = markers_for(codec_of(tokenizer), wrap_up="so answer now .")
    prompt = prompt_ids_of(tokenizer, [{"role": "user", "content": "Ben has 4 pens ."}])
    machine = machine_for(prompt, Budget(3, 8), markers, 256)
    drive(machine, ids("start 4 ."), [*ids("Answer : 4 ."), EOS])
    rollout = rollout_of(machine)
    forced = ids("so answer now . </think>")
    assert list(rollout.completion_ids) == [*ids("start 4 ."), *forced, *ids("Answer : 4 ."), EOS]
    assert list(rollout.env_mask) == [1] * 3 + [0] * 5 + [1] * 5
    assert [p is None for p in rollout.logprobs] == [not m for m in rollout.env_mask]
    assert (rollout.usage.thinking, rollout.usage.wrap_up, rollout.usage.forced) == (3, 4, 5)
    assert for_loss(rollout, tokenizer, Defects())[1] == list(rollout.env_mask)
