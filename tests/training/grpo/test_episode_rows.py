"""Rows that hold several sequences, failed episodes and rewards of calls, in the real trainer."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from elastic_agent.training.agents.sequences import row_of
from elastic_agent.training.grpo.advantages import call_advantages, call_gains
from elastic_agent.training.grpo.spans import Spans, joined
from elastic_agent.training.rollouts.engines.correction import correct_for
from elastic_agent.training.rollouts.trl_columns import EpisodeRow, episode_columns
from elastic_agent.training.run import train
from tests.training.episode_rows import END, Recorded, dealt, earned, episode, failing, rolled, rolling
from tests.training.runs import gradient, make_base, small, trainer_of

RUN: dict[str, Any] = {
    "rollout": {"prompts": 4, "group": 4, "context": 128},
    "learning": {"minibatches": 2, "rate": 0.05},
    "device": {"bucket_tokens": 60, "microbatch": 2},
    "reward": {"kind": "tests.training.episode_rows:earned_reward"},
}

pytestmark = pytest.mark.timeout(300)  # the first run imports TRL, on a machine that may be busy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trainer with a batch of 16 rows in four groups, of which the third has failed."""
    with rolling():
        return trainer_of(small(base, tmp_path_factory.mktemp("made"), **RUN))


def alone(model: Any, call: Recorded, temperature: float = 1.0) -> Tensor:
    """Log-probs of a call's output by the model that reads the call and nothing else."""
    ids = torch.tensor([[*call.prompt_ids, *call.output_ids]])
    with torch.no_grad():
        logprobs = (model(input_ids=ids).logits / temperature).log_softmax(-1)
    begin = len(call.prompt_ids)
    return logprobs[0, begin - 1 : -1].gather(1, ids[0, begin:, None])[:, 0]


def rows_of(trainer: Any, batch: int = 0) -> Iterator[tuple[int, EpisodeRow | None, dict[str, Tensor]]]:
    """(number in the batch, row or None for a placeholder, tensors) as TRL has shuffled and split them."""
    rows = {n: None if failing(n) else row_of(dealt(batch, n)) for n in range(16)}
    by_ids = {tuple(row.completion_ids): n for n, row in rows.items() if row is not None}
    others = iter([n for n, row in rows.items() if row is None])
    for inputs in trainer._buffered_inputs:
        for i, (ids, mask) in enumerate(
            zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)
        ):
            known = by_ids.get(tuple(ids[: int(mask.sum())].tolist()))
            n = next(others) if known is None else known
            yield n, rows[n], {k: v[i] for k, v in inputs.items() if v is not None and v.dim()}


def check_logprobs(trainer: Any, key: str, model: Any, batch: int = 0) -> None:
    """Of every sampled token in the trainer's batch: what the model gives that reads the call alone."""
    seen = 0
    for number, row, tensors in rows_of(trainer, batch):
        for at, call in enumerate(dealt(batch, number) if row is not None else []):
            assert row is not None
            places = [i for i, n in enumerate(row.call_ids) if n == at]
            expected = alone(model, call, trainer.args.temperature)
            assert torch.allclose(tensors[key][places], expected, atol=1e-5), (number, at)
            assert tensors["tool_mask"][places].tolist() == [int(s) for s in call.sampled]
            seen += 1
    assert seen == (1 + 3) + 2 * (1 + 3 + 3), "three groups teach something, the first by two rows alone"


def test_log_probs_are_those_of_each_call_in_its_own_context(made: Any) -> None:
    """At sampling time in the order of the batch; then in minibatches and micro-batches of shuffled rows."""
    check_logprobs(made, "old_per_token_logps", made.model)
    found: list[Tensor] = []
    method = made._get_per_token_logps_and_entropies

    def watched(*args: Any, **kwargs: Any) -> Any:
        found.append((result := method(*args, **kwargs))[0])
        return result

    made._get_per_token_logps_and_entropies = watched
    for inputs in made._buffered_inputs:
        assert len(inputs["sequence_ids"]) == 2
        made._compute_loss(made.model, inputs)
        assert torch.allclose(found[-1], inputs["old_per_token_logps"], atol=1e-5)
    del made._get_per_token_logps_and_entropies
    assert len(found) == 8
    assert made._sequence_ids is None


def test_a_failed_row_costs_itself_alone(made: Any) -> None:
    """Its advantage is 0; mean and standard deviation of its group are those of the others."""
    seen = 0
    for number, row, tensors in rows_of(made):
        group = [n for n in range(number // 4 * 4, number // 4 * 4 + 4) if not failing(n)]
        if row is None:
            assert not tensors["tool_mask"][: int(tensors["completion_mask"].sum())].any()
            continue
        rewards = torch.tensor([earned(n) for n in group])
        expected = (earned(number) - rewards.mean()) / (rewards.std() + 1e-4)
        assert tensors["advantages"] == pytest.approx(float(expected), abs=1e-5)
        seen += 1
    assert seen == 8
    assert all(i["advantages"].isfinite().all() for i in made._buffered_inputs)
    noted = {name: values for name, values in made._metrics["train"].items() if name.startswith("agent/")}
    assert noted["agent/failed"] == [5 / 16]
    assert noted["agent/calls"] == [(5 + 8 + 8) / 11]
    assert noted["agent/sequences"] == [(3 + 4 + 4) / 11]
    assert noted["agent/refused"] == [pytest.approx(3 / 11)]
    assert (noted["agent/task_cap"], noted["agent/seconds"]) == ([100], [1])
    assert made._metrics["train"]["reward"][0] == pytest.approx(
        sum(earned(n) for n in range(16) if not failing(n)) / 11
    )


def batch_of(rows: list[EpisodeRow], advantages: list[float], sampled: int) -> dict[str, Any]:
    """What `_compute_loss` reads. A row that is one sequence alone carries no numbers of sequences."""
    prompts = joined([row.prompt_ids[::-1] for row in rows]).flip(1)
    answers, masks = joined([row.completion_ids for row in rows]), joined([row.env_mask for row in rows])
    batch: dict[str, Any] = {
        "prompt_ids": prompts.clamp(min=0),
        "prompt_mask": (prompts >= 0).long(),
        "completion_ids": answers.clamp(min=0),
        "completion_mask": (answers >= 0).long(),
        "tool_mask": masks.clamp(min=0),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(float(sampled)),
    }
    if any(row.sequence_ids[-1] > 1 for row in rows):
        batch["sequence_ids"] = joined([row.sequence_ids for row in rows])
    return batch


def split(row: EpisodeRow) -> list[EpisodeRow]:
    """Its sequences as rows of their own."""
    found = []
    for k in range(row.sequence_ids[-1] // 2 + 1):
        prompt = (
            row.prompt_ids
            if k == 0
            else [
                token
                for token, kind in zip(row.completion_ids, row.sequence_ids, strict=True)
                if kind == 2 * k
            ]
        )
        at = [i for i, kind in enumerate(row.sequence_ids) if kind == 2 * k + 1]
        ids, mask = [row.completion_ids[i] for i in at], [row.env_mask[i] for i in at]
        found.append(EpisodeRow(prompt, ids, mask, [], [1] * len(at), [], []))
    return found


@pytest.mark.parametrize("idle", [False, True])
def test_the_gradient_is_that_of_the_sequences_as_rows(made: Any, idle: bool) -> None:
    """The same sum over the same tokens, and no more computed: a long row does not pad the others."""
    rows = [row for seed, kind in ((1, 2), (2, 0), (3, 2), (4, 1)) if (row := row_of(episode(seed, kind)))]
    advantages = [0.0 if idle else 0.4, 0.7, -1.3, 0.2]
    sampled = sum(sum(row.env_mask) for row in rows)
    apart = [split(row) for row in rows]
    assert [len(parts) for parts in apart] == [2, 1, 2, 1]
    alike = [advantage for parts, advantage in zip(apart, advantages, strict=True) for _ in parts]
    read: list[tuple[int, ...]] = []
    hook = made.model.register_forward_pre_hook(
        lambda model, given, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    together = gradient(made, batch_of(rows, advantages, sampled)), sorted(read)
    read.clear()
    one_each = (
        gradient(made, batch_of([row for parts in apart for row in parts], alike, sampled)),
        sorted(read),
    )
    hook.remove()
    assert together[0].abs().max() > 0
    assert torch.allclose(together[0], one_each[0], atol=1e-7)
    assert together[1] == one_each[1], "the same passes"
    assert sum(n for n, _ in together[1]) == (4 if idle else 6)


def test_sequences_of_a_batch_as_columns() -> None:
    """Prompts are padded on the left; -1 stands behind a completion; a row may be one sequence."""
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]])
    ids = joined([[1, 2, 2, 3, 3], [1, 1]])
    spans = Spans.of(mask, 5, ids)
    table = torch.stack([spans.rows, spans.first, spans.answer, spans.end], dim=1)
    assert table.tolist() == [[0, 1, 3, 4], [0, 4, 6, 8], [1, 0, 3, 5]]
    whole = Spans.of(mask, 5, None)
    assert torch.stack([whole.first, whole.answer, whole.end], dim=1).tolist() == [[1, 3, 8], [0, 3, 5]]


def test_calls_gain_what_they_earn_above_the_mean_of_their_group() -> None:
    """All calls of a group weigh the same; one without a reward, and a failed row, gain nothing."""
    gains = call_gains([[1.0, None, 0.0], [0.5], None, [1.0, 1.0]], 2)
    assert gains == [[0.5, 0.0, -0.5], [0.0], [], [0.0, 0.0]]
    call_ids = joined([[0, 0, -1, 2], [0, 1], [0], [1]])
    mask = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 0]])
    found = call_advantages(torch.tensor([2.0, -1.0, 0.0, 1.0]), gains, call_ids, mask)
    expected = [[2.5, 0, 2, 1.5, 0], [-1, -1, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 0]]
    assert found.tolist() == expected


def test_rewards_of_calls_are_advantages_of_their_tokens(base: Path, tmp_path: Path) -> None:
    """On top of the row's, in rows that TRL has shuffled."""

    def credited(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        columns = rolled(prompts, trainer)
        return columns | {
            "call_rewards": [[n / 4, 1.0, 0.0][: columns["calls"][i]] for i, n in enumerate(columns["row"])]
        }

    with rolling(credited):
        trainer = trainer_of(small(base, tmp_path, **RUN))
    seen = 0
    for number, row, tensors in rows_of(trainer):
        if row is None:
            assert not tensors["advantages"].any()
            continue
        group = [n for n in range(number // 4 * 4, number // 4 * 4 + 4) if not failing(n)]
        earned_by_calls = {n: [n / 4, 1.0, 0.0][: len(dealt(0, n))] for n in group}
        scored = [reward for rewards in earned_by_calls.values() for reward in rewards]
        rewards = torch.tensor([earned(n) for n in group])
        whole = (earned(number) - rewards.mean()) / (rewards.std() + 1e-4)
        for i, at in enumerate(row.call_ids):
            gain = earned_by_calls[number][at] - sum(scored) / len(scored)
            expected = float(whole + gain) if row.env_mask[i] else 0.0
            assert tensors["advantages"][i] == pytest.approx(expected, abs=1e-5)
        seen += 1
    assert seen == 8


def test_adapters_with_a_reference_model_learn_from_several_sequences(base: Path, tmp_path: Path) -> None:
    """The reference's log-probs are those of the base, call by call; from the second batch on it is left."""
    changes: dict[str, Any] = {**RUN, "lora": {"rank": 4}, "learning": {**RUN["learning"], "kl": 0.1}}
    with rolling():
        trainer = train(small(base, tmp_path, **changes), log=lambda _: None)
    from elastic_agent.training.grpo.export import load_model

    check_logprobs(trainer, "ref_per_token_logps", load_model(base), batch=1)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 2
    assert log[1]["kl"] > 0
    assert all(entry["grad_norm"] > 0 for entry in log)
    assert all(entry["agent/failed"] == 5 / 16 for entry in log)


def test_the_loss_is_corrected_for_the_engine_token_by_token(base: Path, tmp_path: Path) -> None:
    """A copy of the weights gave log-probs: none for forced tokens, later prompts and placeholders."""

    def sampled(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        columns = rolled(prompts, trainer, logprobs=True)
        for number, logprobs, call_ids in zip(
            *(columns[name] for name in ("row", "logprobs", "call_ids")), strict=True
        ):
            known = {at: alone(trainer.model, call).tolist() for at, call in enumerate(dealt(0, number))}
            told = [None if at < 0 else known[at].pop(0) for at in call_ids]
            logprobs[:] = [None if old is None else value for old, value in zip(logprobs, told, strict=True)]
            if logprobs[0] is not None:
                logprobs[0] -= 0.5
        return columns

    engine: Any = SimpleNamespace(sync_weights=lambda: None)
    changes = {**RUN, "trl": {"vllm_importance_sampling_mode": "token_truncate"}}
    with rolling(sampled), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "elastic_agent.training.grpo.phases.TimedEngine.start",
            lambda _, trainer: correct_for(engine, trainer),
        )
        trainer = trainer_of(small(base, tmp_path, **changes))
    corrected = 0
    for _, row, tensors in rows_of(trainer):
        ratios = tensors["importance_sampling_ratio"]
        if row is not None:
            assert ratios[0] == pytest.approx(torch.e**0.5, abs=1e-4)
            corrected += 1
            ratios = ratios[1:]
        assert torch.allclose(ratios, torch.ones_like(ratios), atol=1e-4)
    assert corrected == 8
    for inputs in trainer._buffered_inputs:
        assert trainer._compute_loss(trainer.model, inputs).isfinite()


def test_a_batch_of_failed_episodes_changes_no_weight(base: Path, tmp_path: Path) -> None:
    """Nor does it end the run: there is no reward to log, and no sampled token."""
    from elastic_agent.training.grpo.export import load_model

    def none(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rows: list[EpisodeRow | None] = [None for _ in prompts]
        columns = rolled(prompts, trainer)
        del columns["sequence_ids"]
        return columns | episode_columns(rows, [True] * len(rows), token=END, logprobs=False)

    with rolling(none):
        trainer = train(small(base, tmp_path, **{**RUN, "steps": 1}), log=lambda _: None)
    before = load_model(base).state_dict()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    assert trainer.state.log_history[0]["reward"] is None
    assert trainer.state.log_history[0]["agent/failed"] == 1
