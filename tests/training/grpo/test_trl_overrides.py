"""The private methods of TRL that E1Trainer overrides: a test each, which fails when TRL moves."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import EASY, make_base, small, trainer_of

OVERRIDES = {
    "_get_per_token_logps_and_entropies": "model input_ids attention_mask logits_to_keep",
    "_compute_loss": "model inputs",
    "_generate_and_score_completions": "inputs",
    "_calculate_rewards": "inputs prompts completions completion_ids_list",
    "_save_checkpoint": "model trial",
}
"""Each method, with the arguments that the override names."""


@pytest.mark.parametrize(("method", "named"), OVERRIDES.items())
def test_trl_has_the_method_with_these_arguments(method: str, named: str) -> None:
    """The override takes what TRL's method takes: its first arguments by name, the others as they come."""
    from trl import GRPOTrainer

    theirs = list(inspect.signature(getattr(GRPOTrainer, method)).parameters.values())[1:]
    first = named.split()
    assert [argument.name for argument in theirs[: len(first)]] == first
    assert all(argument.default is not inspect.Parameter.empty for argument in theirs[len(first) :])
    assert len(theirs) == len(first) or method == "_get_per_token_logps_and_entropies"


def test_these_are_all_of_them() -> None:
    """Nothing else of TRL or transformers is replaced, and none of their attributes is hidden."""
    from trl import GRPOTrainer

    from elastic_agent.training.grpo.trainer import E1Trainer

    ours = {name for name in vars(E1Trainer) if not name.startswith("__")}
    assert {name for name in ours if hasattr(GRPOTrainer, name)} == set(OVERRIDES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overrides")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Any, list[str], dict[str, Any]]:
    """(trainer, methods in the order of their first call, what each returned last) of one step."""
    from elastic_agent.training.grpo.trainer import E1Trainer
    from elastic_agent.training.run import train

    called: list[str] = []
    returned: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in OVERRIDES:
            patch.setattr(E1Trainer, name, _recorded(name, getattr(E1Trainer, name), called, returned))
        config = small(
            make_base(folder / "base"),
            folder / "out",
            steps=1,
            learning={"minibatches": 2},
            reward={"kind": EASY},
            checkpoint={"every": 1},
        )
        trainer = train(config, log=lambda _: None)
    return trainer, called, returned


def _recorded(name: str, method: Any, called: list[str], returned: dict[str, Any]) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name not in called:
            called.append(name)
        returned[name] = method(self, *args, **kwargs)
        return returned[name]

    return call


def test_a_step_calls_each_where_it_is_relied_on(trained: tuple[Any, list[str], dict[str, Any]]) -> None:
    """A batch, its log-probs at sampling time, its rewards, then the update, then the checkpoint."""
    assert trained[1] == [
        "_generate_and_score_completions",
        "_get_per_token_logps_and_entropies",
        "_calculate_rewards",
        "_compute_loss",
        "_save_checkpoint",
    ]


def test_log_probs_are_three_values_a_row_of_tokens(trained: tuple[Any, list[str], dict[str, Any]]) -> None:
    """(log-probs, entropies, no auxiliary loss), each [rows, tokens kept]."""
    logprobs, entropies, auxiliary = trained[2]["_get_per_token_logps_and_entropies"]
    assert logprobs.shape == entropies.shape
    assert logprobs.dim() == 2
    assert auxiliary is None


def test_the_loss_is_a_number_and_reads_the_keys_that_idle_rows_need(
    trained: tuple[Any, list[str], dict[str, Any]], folder: Path
) -> None:
    """`advantages` by row, and the log-probs of sampling time in [rows, tokens]."""
    assert trained[2]["_compute_loss"].dim() == 0
    config = small(folder / "base", folder / "again", learning={"minibatches": 2}, reward={"kind": EASY})
    inputs = trainer_of(config)._buffered_inputs[0]
    assert inputs["advantages"].shape == inputs["completion_mask"].shape[:1]
    assert inputs["old_per_token_logps"].shape == inputs["completion_mask"].shape


def test_a_scored_batch_has_advantages_and_masks(trained: tuple[Any, list[str], dict[str, Any]]) -> None:
    """What `token_advantages` reads and replaces."""
    output = trained[2]["_generate_and_score_completions"]
    assert {"advantages", "completion_mask", "old_per_token_logps"} <= output.keys()


def test_rewards_are_a_row_each_and_a_column_a_function(
    trained: tuple[Any, list[str], dict[str, Any]],
) -> None:
    """All processes' rows; the metrics that are measured there reach TRL's log."""
    trainer, _, returned = trained
    assert returned["_calculate_rewards"].shape == (8, 1)
    assert {"thinking/mean_length", "groups/mixed"} <= trainer.state.log_history[0].keys()


def test_a_checkpoint_lies_where_it_is_committed(
    trained: tuple[Any, list[str], dict[str, Any]], folder: Path
) -> None:
    assert (folder / "out" / "checkpoints" / "checkpoint-2" / "complete.json").exists()
