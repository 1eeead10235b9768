"""An engine with a copy of the weights: TRL syncs the copy, and corrects for its log-probs."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.training.rollouts.engines import correction, in_process
from elastic_agent.training.rollouts.engines.engine import Batch
from elastic_agent.training.rollouts.engines.in_process import TransformersEngine
from elastic_agent.training.rollouts.engines.registry import ENGINES
from elastic_agent.training.rollouts.rollout import Rollout
from elastic_agent.training.run import train
from tests.training.runs import EASY, make_base, small


class Copy(TransformersEngine):
    """Samples with the weights in training, and says that its tokens were `times` as likely as they were."""

    def __init__(self, times: float, events: list[str]) -> None:
        self._more, self.events = math.log(times), events

    def start(self, trainer: Any) -> None:
        correction.correct_for(self, trainer)

    def sync_weights(self) -> None:
        self.events.append("sync")

    def rest(self) -> None:
        self.events.append("rest")

    def close(self) -> None:
        self.events.append("close")

    def decode(self, trainer: Any, batch: Batch) -> list[Rollout]:
        self.events.append("decode")
        batch = replace(batch, sampling=replace(batch.sampling, logprobs=True))
        done = in_process.decode_in_process(trainer, batch)
        return [
            replace(r, logprobs=tuple(None if p is None else p + self._more for p in r.logprobs))
            for r in done
        ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def run(base: Path, output: Path, times: float, patch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """(trainer, what the engine was asked for) of two batches of two updates."""
    events: list[str] = []
    patch.setitem(ENGINES, "copy", lambda *_: Copy(times, events))
    options: dict[str, Any] = {"rollout": {"engine": "copy"}, "reward": {"kind": EASY}}
    options["learning"] = {"minibatches": 2, "rate": 0.001}
    options["trl"] = {"vllm_importance_sampling_mode": "token_truncate"}
    return train(small(base, output, **options), log=lambda _: None), events


def test_the_copy_is_synced_before_each_batch_and_corrected_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that the engine made twice as likely as the trainer counts half."""
    same, events = run(base, tmp_path / "same", 1.0, monkeypatch)
    assert events == ["sync", "decode", "rest"] * 2 + ["close"]
    twice, _ = run(base, tmp_path / "twice", 2.0, monkeypatch)
    for trainer, ratio in ((same, 1.0), (twice, 0.5)):
        row = trainer.state.log_history[0]
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(ratio, abs=1e-4)
        assert row["sampling/sampling_logp_difference/max"] == pytest.approx(-math.log(ratio), abs=1e-4)
    norms = [trainer.state.log_history[0]["grad_norm"] for trainer in (same, twice)]
    assert norms[1] == pytest.approx(norms[0] / 2, rel=0.05)


def test_trl_has_what_the_correction_rests_on() -> None:
    """Where TRL moves: the names that `correct_for` sets, and the iterator behind `named_weights`."""
    from trl import GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration

    generate = inspect.getsource(GRPOTrainer._generate)
    for words in (
        "self.use_vllm and self.state.global_step != self._last_loaded_step",
        "self.vllm_generation.sync_weights()",
        "self._last_loaded_step = self.state.global_step",
    ):
        assert words in generate
    iterator = inspect.getsource(VLLMGeneration._iter_named_params)
    read = {word.split(".")[1].split("(")[0] for word in iterator.split() if word.startswith("self.")}
    assert read <= {"model", "accelerator", "_dist", "_iter_fsdp_params", "_fix_param_name_to_vllm"}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_named_weights_are_those_of_a_checkpoint(base: Path, lora: bool) -> None:
    """Adapters are merged while the weights are read, and only then."""
    import torch
    from accelerate import Accelerator

    from elastic_agent.training.config.trl_arguments import make_adapters
    from elastic_agent.training.grpo.export import load_model
    from elastic_agent.training.rollouts.engines.weights import named_weights

    class Trainer:
        accelerator = Accelerator(cpu=True)
        model = load_model(base)

    want = dict(load_model(base).named_parameters())
    if lora:
        from peft import get_peft_model

        Trainer.model = get_peft_model(load_model(base), make_adapters(small(base, base, lora={"rank": 4})))
        with torch.no_grad():
            for name, weight in Trainer.model.named_parameters():
                weight.add_(0.1 if "lora_B" in name else 0)
        import copy

        want = dict(copy.deepcopy(Trainer.model).merge_and_unload().named_parameters())
    found = {name: weight.clone() for name, weight in named_weights(Trainer)}
    assert found.keys() == want.keys()
    assert all(torch.allclose(found[name], want[name], atol=1e-6) for name in want)
    if lora:
        assert not any(layer.merged for layer in Trainer.model.modules() if hasattr(layer, "merged"))
