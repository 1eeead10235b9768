"""Anytime rollouts: every row is a live call of its cut, every sampled token is in the loss once, and the
gradient that TRL takes is that of plain GRPO on all rows."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.backends.base import Sampling
from elastic_agent.budget import Budget
from elastic_agent.errors import ConfigError
from elastic_agent.generation.phases.answer import read_answer
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.prompts.markers import Markers, Opening
from elastic_agent.training.budgets.distributions import Spread, mixture
from elastic_agent.training.config.schema import AnytimeConfig
from elastic_agent.training.data.word_problems import make_problems
from elastic_agent.training.grpo.anytime import (
    answered,
    closed_at,
    deal_cuts,
    make_anytime_rollout_func,
    masks_of,
)
from elastic_agent.training.grpo.logger import RunLogger, read_csv
from elastic_agent.training.grpo.validate import micro_batch, validate
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.prompts import codec_of
from elastic_agent.training.rollouts.rollout import Rollout, machine_for, rollout_of
from elastic_agent.training.run import make_trainer, train
from tests.training.grpo.test_defects import gradient
from tests.training.rollouts.test_single_calls import fake_trainer
from tests.training.runs import EASY, easy_reward, make_base, small
from tools.e1_tiny.model import new_model
from tools.e1_tiny.tokenizer import CLOSE, build_tokenizer, vocabulary

VOCAB = vocabulary()
MARK = VOCAB[CLOSE]
ANYTIME: dict[str, Any] = {
    "budgets": {"thinking": [0, 4, 8], "solution": 6},
    "anytime": {"cuts": 3},
    "reward": {"kind": EASY},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


# Cuts.


def test_a_mixture_of_as_many_parts_is_a_list_of_cuts() -> None:
    for cuts in deal_cuts(mixture((None, 8, 24), 6), 5, 3, seed=0, batch=7):
        assert [cut.thinking for cut in cuts] == [8, 24, None]


def test_drawn_cuts_hold_the_distribution_evenly() -> None:
    """Each group gets one cut from each slice, and the groups divide a slice among them."""
    dealt = deal_cuts(Spread(0, 79, 6, unlimited=0.2), 20, 5, seed=3, batch=0)
    assert all(cuts[-1].thinking is None for cuts in dealt)
    limited = [[cut.thinking or 0 for cut in cuts[:-1]] for cuts in dealt]
    assert all(cuts == sorted(cuts) for cuts in limited)
    assert sorted(t for cuts in limited for t in cuts) == list(range(80))
    assert dealt == deal_cuts(Spread(0, 79, 6, unlimited=0.2), 20, 5, seed=3, batch=0)
    assert dealt != deal_cuts(Spread(0, 79, 6, unlimited=0.2), 20, 5, seed=3, batch=1)


# A row is what a live call would have been.


def play(machine: TwoPhase, thinking: Sequence[int], solution: Sequence[int]) -> Rollout:
    """A machine whose model samples these tokens, whatever is asked of it."""
    for tokens in (thinking, solution):
        if machine.phase is Phase.CLOSING:
            machine.close()
        if machine.done or (tokens is thinking and machine.phase is Phase.SOLUTION):
            continue
        request = machine.next_pass()
        machine.feed(tokens[: request.max_tokens])
        if not machine.pass_over:
            machine.pass_ended("length")
    return rollout_of(machine)


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("close", [(2,), (2, 3)])
def test_a_probe_is_a_live_call_that_thought_the_same(opened: bool, close: tuple[int, ...]) -> None:
    """Random tokens, markers of one and two, with and without a prompt that opens the thinking: closing a
    thinking at a cut gives, token for token, what a call with that budget would have been."""
    markers = Markers((1, 4) if close != (2,) else (1,), close, frozenset({9}))
    rng = random.Random(0)
    fates = set()
    for _ in range(300):
        prompt = [7, *(markers.open_ids if opened else ())]
        assert (markers.opening(prompt) is Opening.PREFILLED) is opened
        stream = [] if opened else list(markers.open_ids)
        stream += [rng.choice([2, 3, 4, 5, 6, 6, 9]) for _ in range(12)]
        solution = [rng.choice([5, 6, 8, 8, 9]) for _ in range(5)]
        thought = play(machine_for(prompt, Budget(rng.randint(6, 12), 4), markers, 40), stream, solution)
        for t in range(thought.thinking_tokens + 3):
            budget = Budget(min(t, 6), 4)
            live = play(machine_for(prompt, budget, markers, 40), stream, solution)
            answer = play(TwoPhase(prompt, Budget(0, 4), markers, Opening.CLOSED), [], solution)
            probe = answered(closed_at(thought, budget, markers, 40), answer)
            assert (probe.completion_ids, probe.env_mask) == (live.completion_ids, live.env_mask)
            assert (probe.cut, probe.finished, probe.thinking_tokens) == (
                live.cut,
                live.finished,
                live.thinking_tokens,
            )
            fates.add((probe.cut, probe.finished))
    assert len(fates) == 4


def test_a_thinking_that_never_opened_is_probed_as_with_t_0() -> None:
    markers = Markers((1,), (2,), frozenset({9}))
    thought = play(machine_for([7], Budget(8, 4), markers, 40), [5, 6, 9], [])
    assert thought.solution_ids == (5, 6, 9)
    machine = closed_at(thought, Budget(4, 4), markers, 40)
    assert machine.output_ids == [1, 2]
    probe = play(machine, [], [6, 9])
    assert masks_of([probe, thought]) == [[0, 0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("solutions", [1, 2])
def test_every_sampled_token_is_trained_in_one_row(solutions: int) -> None:
    """Law 3 and law 6 on a random model, whose thinking is now cut and now closes by itself."""
    import torch

    torch.manual_seed(0)
    tokenizer, anytime = build_tokenizer(), AnytimeConfig(cuts=3, solutions=solutions)
    rollout = make_anytime_rollout_func(
        tokenizer,
        anytime=anytime,
        budgets=mixture((0, 20, None), 5),
        context=96,
        sampling=Sampling(1.0, 1.0),
        seed=0,
    )
    problems = make_problems(0, 3, split="train", steps=2)
    each = 4 * anytime.rows
    prompts = [[{"role": "user", "content": p.text}] for p in problems for _ in range(each)]
    model = new_model(hidden=64, layers=1, heads=1, mlp=64)
    out = rollout(prompts, fake_trainer(model, group=each))
    assert all(len(v) == len(prompts) for v in out.values() if v is not None)
    assert out["thinking_limit"] == ([0] * solutions + [20] * solutions + [None] * solutions) * 12
    assert {0, 1} == {int(cut) for cut in out["cut"][2 * solutions :: anytime.rows]}, "both fates"
    for first in range(0, len(prompts), anytime.rows):
        rows = range(first, first + anytime.rows)
        *_, last = rows
        n = len(out["completion_ids"][last]) - out["solution_tokens"][last]
        trunk = out["completion_ids"][last][:n]
        seen = [0] * n
        for i in rows:
            ids, mask, t = out["completion_ids"][i], out["env_mask"][i], out["thinking_tokens"][i]
            solution, limit = out["solution_tokens"][i], out["thinking_limit"][i]
            assert ids[:t] == trunk[:t]
            assert limit is None or t <= limit
            assert out["cut"][i] or t < n, "closed by itself, as the trunk did"
            assert ids[len(ids) - solution - 1] == MARK
            assert 1 <= solution <= 5
            assert mask[len(ids) - solution :] == [1] * solution
            for at, counted in enumerate(mask[: len(ids) - solution]):
                if counted:
                    seen[at] += 1
        assert seen == [1] * (n - 1) + [int(not out["cut"][last])], "all that was sampled, once"
    assert out == rollout(prompts, fake_trainer(model, group=each)), "nothing is remembered"


def test_two_processes_probe_the_cuts_of_one() -> None:
    """Each has its part of the batch, a group lies across both, and any engine does: it gets two batches of
    ordinary calls. Thinking without a limit fills the context, and its second solution still has its room."""
    tokenizer, anytime = build_tokenizer(), AnytimeConfig(cuts=3, solutions=2)
    asked: list[list[tuple[Sequence[int], Budget]]] = []

    def engine(trainer: Any, batch: Batch) -> list[Rollout]:
        asked.append(list(batch.calls))
        word, markers, context = VOCAB["start"], batch.markers, batch.context
        return [play(machine_for(p, b, markers, context), [word] * 99, [word] * 5) for p, b in batch.calls]

    rollout = make_anytime_rollout_func(
        tokenizer,
        anytime=anytime,
        budgets=Spread(0, 40, 5, unlimited=0.3),
        context=80,
        sampling=Sampling(1.0, 1.0),
        seed=0,
        engine=engine,
    )
    prompts = [[{"role": "user", "content": f"Ben has {n} pens ."}] for n in (3, 4, 5) for _ in range(12)]
    whole = rollout(prompts, fake_trainer(None, group=12))
    parts = []
    for process in (0, 1):
        trainer = fake_trainer(None, group=12)
        trainer.accelerator.num_processes, trainer.accelerator.process_index = 2, process
        parts.append(rollout(prompts[18 * process :][:18], trainer))
    for column in ("thinking_limit", "completion_ids", "env_mask"):
        assert parts[0][column] + parts[1][column] == whole[column]
    assert [len(calls) for calls in asked] == [6, 30, 3, 15, 3, 15]
    assert {budget.thinking for _, budget in asked[1]} == {0}
    ends = zip(whole["prompt_ids"][4::6], whole["completion_ids"][4::6], strict=True)
    assert {len(prompt) + len(completion) for prompt, completion in ends} == {80}


# The gradient.


def batch_of(base: Path, output: Path, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """A trainer, and its first batch as the loss gets it."""
    config = small(base, output, **{**ANYTIME, "rollout": {"prompts": 2, "group": 4}, **changes})
    trainer = make_trainer(config, validate(config, lambda _: None), RunLogger(output, 1))
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = next(iter(trainer.get_train_dataloader()))
    return trainer, trainer._generate_and_score_completions(rows)


def naive(inputs: dict[str, Any]) -> dict[str, Any]:
    """Plain GRPO: each row stands for itself, and all that was sampled in it gets its one advantage."""
    import torch

    mask = inputs["completion_mask"].bool()
    ids = [row[keep].tolist() for row, keep in zip(inputs["completion_ids"], mask, strict=True)]
    answers = [row[row.index(MARK) + 1 :] for row in ids]
    # A random model opens its thinking again, which earns nothing
    markers = codec_of(build_tokenizer()).markers
    rewards = easy_reward(solution_ids=[read_answer(markers, answer).text_ids for answer in answers])
    found = []
    for i, reward in enumerate(rewards):
        group = range(i // 12 * 12 + i % 3, i // 12 * 12 + 12, 3)  # the four samples at this cut
        found.append(reward - sum(rewards[j] for j in group if j != i) / 3)
    forced = torch.zeros_like(inputs["tool_mask"])
    for i, row in enumerate(ids):
        at = row.index(MARK)
        ends_here = [j for j in range(i - i % 3, i - i % 3 + 3) if ids[j].index(MARK) == at]
        # A close before the cut is the model's own in one row of its sample, else the text ended there
        if at == (0, 4, 8)[i % 3] or not any(inputs["tool_mask"][j, at] for j in ends_here):
            forced[i, at] = 1
    return {**inputs, "advantages": torch.tensor(found), "tool_mask": 1 - forced}


def the_gradient_is_that_of_all_rows(trainer: Any, inputs: dict[str, Any]) -> None:
    import torch

    ours, plain = gradient(trainer, inputs), gradient(trainer, naive(inputs))
    assert plain.abs().max() > 1e-4
    assert torch.allclose(ours, plain, atol=1e-6 * float(plain.abs().max()) + 1e-7), "another gradient"


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo"])
def test_the_gradient_is_that_of_plain_grpo_on_every_row(base: Path, tmp_path: Path, loss: str) -> None:
    """Thinking in one row with the credits summed, or in all rows with one credit each: the same."""
    trainer, inputs = batch_of(base, tmp_path, learning={"loss": loss})
    assert inputs["advantages"].shape == inputs["completion_mask"].shape
    trained = (inputs["completion_mask"] * inputs["tool_mask"]).sum()
    plain = naive(inputs)
    assert trained < (plain["completion_mask"] * plain["tool_mask"]).sum()
    the_gradient_is_that_of_all_rows(trainer, inputs)


def credit_for_all_cuts(inputs: dict[str, Any]) -> dict[str, Any]:
    """Broken: a thinking token is credited with the cuts before it too."""
    import torch

    found = inputs["advantages"].clone()
    for i in range(len(found)):
        row = inputs["completion_ids"][i].tolist()
        found[i, : row.index(MARK)] = inputs["advantages"][i - i % 3, 0]  # as if all lay in front of cut 1
    assert not torch.equal(found, inputs["advantages"])
    return {**inputs, "advantages": found}


def thinking_in_every_row(inputs: dict[str, Any]) -> dict[str, Any]:
    """Broken: the summed credits, and thinking in every row that holds it."""
    return {**inputs, "tool_mask": naive(inputs)["tool_mask"]}


@pytest.mark.parametrize("broken", [credit_for_all_cuts, thinking_in_every_row])
def test_another_credit_is_found_out(base: Path, tmp_path: Path, broken: Any) -> None:
    trainer, inputs = batch_of(base, tmp_path)
    with pytest.raises(AssertionError, match="another gradient"):
        the_gradient_is_that_of_all_rows(trainer, broken(inputs))


def test_a_clipped_token_moves_nothing(base: Path, tmp_path: Path) -> None:
    """The clip looks at the sign of each token's own advantage."""
    import torch

    trainer, inputs = batch_of(base, tmp_path, learning={"minibatches": 2})
    logps = inputs["old_per_token_logps"]
    out = logps - 0.5 * inputs["advantages"].sign()
    back = logps + 0.5 * inputs["advantages"].sign()
    assert gradient(trainer, {**inputs, "old_per_token_logps": out}).abs().max() == 0
    assert gradient(trainer, {**inputs, "old_per_token_logps": back}).abs().max() > 0
    assert torch.isfinite(inputs["advantages"]).all()


# A run.


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_run_learns_and_resumes_to_the_same_weights(base: Path, tmp_path: Path, lora: Any) -> None:
    """Four batches of two clipped updates; then the last two of them once more, from the checkpoint."""
    import torch

    changes: dict[str, Any] = {
        **ANYTIME,
        "steps": 4,
        "budgets": {"kind": "log-uniform", "low": 0, "high": 12, "unlimited": 0.25, "solution": 6},
        "anytime": {"cuts": 3, "solutions": 2, "baseline": "budget-relative"},
        "learning": {"minibatches": 2, "rate": 0.02, "kl": 0.01, "entropy": 0.001},
        "lora": lora,
        "checkpoint": {"every": 2},
    }
    config = small(base, tmp_path, **changes)
    whole = {k: v.clone() for k, v in train(config, log=lambda _: None).model.state_dict().items()}
    rows = read_csv((tmp_path / "metrics.csv").read_text())
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        curve = [row[f"anytime/{cut}/reward"] for cut in (1, 2, 3)]
        assert sum(r or 0 for r in curve) / 3 == pytest.approx(row["reward"])
        assert (row["anytime/1/thinking"] or 0) <= (row["anytime/3/thinking"] or 0)
        assert sum(v or 0 for k, v in row.items() if k.startswith("budget/")) == pytest.approx(1)
    assert any(row["clip_ratio/region_mean"] for row in rows)
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-8")
    resumed = train(config, resume=True, log=lambda _: None).model.state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    again = read_csv((tmp_path / "metrics.csv").read_text())
    assert [_untimed(row) for row in again] == [_untimed(row) for row in rows]


def _untimed(row: dict[str, float | None]) -> dict[str, float | None]:
    """A row of metrics.csv without what a clock has measured."""
    return {k: v for k, v in row.items() if not k.startswith(("step_time", "seconds/", "tokens_s/"))}


def test_configs_that_can_not_be_are_refused(base: Path, tmp_path: Path) -> None:
    stated = small(
        base,
        tmp_path,
        anytime={"cuts": 2},
        budgets={"stated": "l1-max"},
        reward={"kind": "word-problems", "length": "l1-max"},
    )
    with pytest.raises(ConfigError, match=r"budgets.stated cuts nothing"):
        validate(stated)
    with pytest.raises(ConfigError, match="the authors train on no anytime rewards"):
        validate(small(base, tmp_path, **ANYTIME, authors_compat=True))
    with pytest.raises(ConfigError, match=r"anytime.cuts: must be at least 2"):
        small(base, tmp_path, anytime={"cuts": 1})
    with pytest.raises(ConfigError, match="every cut would be at 9"):
        validate(small(base, tmp_path, anytime={}, budgets={"thinking": 9}))
    config = small(base, tmp_path, **ANYTIME)
    assert (config.samples, config.rows, micro_batch(config, 4)) == (8, 24, 6)
    with pytest.raises(ConfigError, match="8 samples do not divide among 3"):
        micro_batch(config, 3)
    with pytest.raises(ConfigError, match=r"x 2 samples x 3 cuts x 1 solutions = 24 do not divide"):
        micro_batch(small(base, tmp_path, **ANYTIME, learning={"minibatches": 5}), 1)
