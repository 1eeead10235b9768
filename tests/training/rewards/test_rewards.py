"""Reward functions: the solution alone is read, failures are counted and named, terms combine as said."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from elastic_agent.training.config.reward import RewardConfig
from elastic_agent.training.rewards.code import last_block
from elastic_agent.training.rewards.functions import RewardFunction, make_reward_function
from elastic_agent.training.rewards.grades import Grade, RewardFailedError, Sample
from elastic_agent.training.rewards.shape import l1_exact, l1_max, overlong
from elastic_agent.training.rewards.word_problems import WordProblemGrader
from tools.e1_tiny.tokenizer import CLOSE, END, build_tokenizer, vocabulary

VOCAB = vocabulary()
RIGHT, WRONG = "Answer : 4 2 .", "Answer : 4 1 ."


@pytest.fixture(scope="module")
def decode() -> Callable[[Sequence[int]], str]:
    return build_tokenizer().decode  # type: ignore[no-any-return]


def ids(text: str) -> list[int]:
    return [VOCAB[word] for word in text.split()]


def rollout(*samples: tuple[str, str]) -> dict[str, Any]:
    """The columns of finished samples, as `make_rollout_func` returns them."""
    return {
        "solution_ids": [[*ids(solution), VOCAB[END]] for _, solution in samples],
        "completion_ids": [
            [*ids(thinking), VOCAB[CLOSE], *ids(solution), VOCAB[END]] for thinking, solution in samples
        ],
        "thinking_tokens": [len(ids(thinking)) for thinking, _ in samples],
        "finished": [True] * len(samples),
        "answer": [42] * len(samples),
    }


class WholeCompletionReward(RewardFunction):
    """The authors' defect on purpose: it reads thinking and solution together."""

    def __call__(self, *, solution_ids: Any, completion_ids: Any, **columns: Any) -> list[float]:
        return super().__call__(solution_ids=completion_ids, completion_ids=completion_ids, **columns)


def test_the_thinking_can_earn_nothing(decode: Callable[[Sequence[int]], str]) -> None:
    """The authors' defect, a reward from prompt + thinking + solution: that variant pays for thinking."""
    config = RewardConfig(kind="word-problems")
    batch = rollout((RIGHT, "Answer :"), (RIGHT, WRONG), (WRONG, RIGHT))
    assert RewardFunction(WordProblemGrader(), decode, config)(**batch) == [0.0, 0.0, 1.0]
    assert WholeCompletionReward(WordProblemGrader(), decode, config)(**batch) == [1.0, 0.0, 1.0]


def test_code_in_the_thinking_earns_nothing() -> None:
    """The same defect with code: without a block in the solution, there is nothing to run."""
    thinking, solution = "Try:\n```python\nprint(7)\n```\n", "It prints 7."
    assert last_block(solution) is None
    assert last_block(thinking + "</think>" + solution) == "print(7)\n"


def test_an_unfinished_solution_earns_nothing_and_is_not_run(decode: Callable[[Sequence[int]], str]) -> None:
    grader = Counting()
    batch = rollout(("", RIGHT), ("", RIGHT)) | {"finished": [True, False]}
    assert RewardFunction(grader, decode, RewardConfig(kind="word-problems"))(**batch) == [1.0, 0.0]
    assert len(grader.seen) == 1


class Counting:
    """Says 1 to everything, and remembers what it was shown."""

    name = "counting"

    def __init__(self) -> None:
        self.seen: list[Sample] = []

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        self.seen.extend(samples)
        return [Grade(1.0)] * len(samples)

    def close(self) -> None: ...


class Raising(Counting):
    """Raises on a wrong answer, as a grader with a bug might."""

    name = "raising"

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        if any("41" in sample.solution.replace(" ", "") for sample in samples):
            raise ZeroDivisionError("a bug")
        return super().grade(samples)


def test_every_one_of_several_right_answers_counts(decode: Callable[[Sequence[int]], str]) -> None:
    seen: list[Sample] = []

    class Looking(Counting):
        def grade(self, samples: Sequence[Sample]) -> list[Grade]:
            seen.extend(samples)
            return [Grade(1.0)] * len(samples)

    batch = rollout(("", ""), ("", "")) | {"answer": ["4", "5"], "alternatives": [["four"], []]}
    RewardFunction(Looking(), decode, RewardConfig())(**batch)
    assert [sample.answer for sample in seen] == [["4", "four"], "5"]


def test_a_reward_that_raises_is_counted_named_and_scored_0(
    decode: Callable[[Sequence[int]], str], caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on up to the limit; past it the error says which reward, how often and why."""
    reward = RewardFunction(Raising(), decode, RewardConfig(kind="word-problems", failure_limit=2))
    batch = rollout(("", RIGHT), ("", WRONG), ("", RIGHT))
    with caplog.at_level(logging.WARNING):
        assert reward(**batch) == [1.0, 0.0, 1.0]
    assert reward.failures == 1
    assert "reward raising failed on sample 1 of this batch (1 of at most 2 in this run)" in caplog.text
    reward(**batch)
    with pytest.raises(
        RewardFailedError, match=r"raising reward failed on 3 samples.*ZeroDivisionError: a bug"
    ):
        reward(**batch)


def test_a_missing_column_is_named(decode: Callable[[Sequence[int]], str]) -> None:
    """That is a mistake in the config, not a sample's failure: it stops the run at the first batch."""
    batch = rollout(("", RIGHT))
    del batch["answer"]
    with pytest.raises(KeyError, match="no column 'answer'"):
        make_reward_function(RewardConfig(kind="word-problems"), decode)(**batch)


def test_a_grader_sees_the_rollout_and_the_data(decode: Callable[[Sequence[int]], str]) -> None:
    grader = Counting()
    batch = rollout(("start 4 .", RIGHT)) | {"level": ["hard"], "trainer_state": object()}
    RewardFunction(grader, decode, RewardConfig(kind="word-problems"), [VOCAB[CLOSE]])(**batch)
    (sample,) = grader.seen
    assert (sample.thinking_tokens, sample.solution_tokens, sample.closes) == (3, 6, 1)
    assert sample.columns == {"answer": 42, "level": "hard"}


def test_format_wants_one_close_and_an_answer(decode: Callable[[Sequence[int]], str]) -> None:
    config = RewardConfig(kind="word-problems", format_weight=0.25)
    reward = make_reward_function(config, decode, close_ids=[VOCAB[CLOSE]])
    batch = rollout(("", WRONG), ("", "4 2 ."), (f"start {CLOSE}", WRONG), ("", RIGHT))
    assert reward(**batch) == [0.25, 0.0, 0.0, 1.25]
    del batch["completion_ids"]
    assert reward(**batch) == [0.25, 0.0, 0.25, 1.25]


def test_metrics_are_logged_by_name(decode: Callable[[Sequence[int]], str]) -> None:
    logged: dict[str, float] = {}
    reward = make_reward_function(RewardConfig(kind="word-problems"), decode)
    reward(**rollout(("", RIGHT), ("", WRONG)), log_metric=logged.__setitem__)
    assert reward.__name__ == "word-problems_reward"
    assert logged == {
        "word-problems/correct": 0.5,
        "word-problems/well_formed": 1.0,
        "word-problems/length_term": 0.0,
        "word-problems/failures": 0.0,
    }


def test_length_terms_are_those_of_the_papers() -> None:
    """L1 (2503.04697) equations 1 and 2 at alpha 0.0003, delta 0.5; DAPO (2503.14476) at 20480 and 4096."""
    assert l1_exact(1.0, 1500, 1000, 0.0003) == pytest.approx(0.85)
    assert l1_exact(0.0, 1000, 1000, 0.0003) == 0.0
    assert l1_max(1.0, 1000, 1000, 0.0003, 0.5) == 0.5
    assert l1_max(1.0, 0, 4000, 0.0003, 0.5) == 1.0
    assert l1_max(1.0, 4000, 1000, 0.0003, 0.5) == 0.0
    assert l1_max(0.0, 0, 4000, 0.0003, 0.5) == 0.0
    assert [overlong(n, 20480, 4096) for n in (0, 16384, 18432, 20480, 30000)] == [0, 0, -0.5, -1, -1]


def test_length_terms_combine_with_the_answer(decode: Callable[[Sequence[int]], str]) -> None:
    """9 tokens against a target of 10: sampled tokens of both segments, the close not among them."""
    batch = rollout(("start 4 .", RIGHT), ("start 4 .", WRONG))

    def rewards(**settings: Any) -> list[float]:
        config = RewardConfig(kind="word-problems", alpha=0.1, **settings)
        return [round(r, 6) for r in make_reward_function(config, decode)(**batch)]

    assert rewards(length="l1-exact", length_target=10) == [0.9, -0.1]
    assert rewards(length="l1-max", length_target=10) == [0.6, 0.0]
    assert rewards(length="overlong", longest=11, cache=4) == [0.5, -0.5]
    batch["length_target"] = [9, 19]
    assert rewards(length="l1-exact", length_target=10) == [1.0, -1.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"length": "overlong"},
        {"length": "overlong", "longest": 10, "cache": 20},
        {"lenght": "none"},
        {"kind": "essay"},
        {"alpha": -1},
    ],
)
def test_a_wrong_config_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RewardConfig(**settings)


def test_l1_without_a_target_says_what_to_set(decode: Callable[[Sequence[int]], str]) -> None:
    reward = make_reward_function(RewardConfig(kind="word-problems", length="l1-max"), decode)
    with pytest.raises(ValueError, match="needs `length_target`"):
        reward(**rollout(("", RIGHT)))


def test_scores_are_numbers(decode: Callable[[Sequence[int]], str]) -> None:
    assert all(
        map(
            math.isfinite,
            make_reward_function(RewardConfig(kind="word-problems"), decode)(**rollout(("", ""))),
        )
    )


def test_trl_calls_it_and_logs_it(tmp_path: Path) -> None:
    """TRL 1.16 takes the object as a reward function, hands it the rollout's columns, logs its metrics."""
    from elastic_agent.training import run as trainer
    from tools.e1_tiny.model import new_model, save_model

    save_model(new_model(hidden=64, layers=1, heads=2, mlp=64), tmp_path / "base")
    run = trainer.TrainConfig(
        base=str(tmp_path / "base"),
        output=tmp_path / "run",
        steps=1,
        budgets={"kind": "mixture", "thinking": [4], "solution": 6},
        reward={"kind": "word-problems", "format_weight": 0.1},
        rollout={"prompts": 2, "group": 2, "context": 128},
    )
    (step, _) = trainer.train(run).state.log_history
    assert {"rewards/word-problems_reward/mean", "word-problems/correct", "word-problems/well_formed"} <= set(
        step
    )


def test_graders_are_counted_by_machine_and_not_by_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes of training on a machine of 64 cores: 16 graders in all."""
    from elastic_agent.training.rewards.grades import default_workers

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (default_workers(), default_workers(40)) == (16, 40)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (default_workers(), default_workers(40), default_workers(3)) == (2, 5, 1)
    made = make_reward_function(RewardConfig(kind="math", workers=24), lambda _: "")
    assert made.grader.workers == 3  # type: ignore[union-attr]
