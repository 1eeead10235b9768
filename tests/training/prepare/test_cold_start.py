"""The cold start: what the trainer reads, that it survives a kill, and that what it writes is a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from elastic_agent import Budget
from elastic_agent.backends.transformers.backend import TransformersBackend
from elastic_agent.errors import ConfigError
from elastic_agent.generation.generate import generate
from elastic_agent.prompts.markers import Opening
from elastic_agent.training.grpo.checkpoints import complete_checkpoints
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.prepare.run import prepare
from elastic_agent.training.prepare.settings import Settings
from tests.training.prepare.bases import bpe, make_base, rows, settings_for, write
from tests.training.runs import small

STEPS = 20


class Killed(BaseException):
    """Ends a run like a SIGKILL: nobody catches it."""


class EndAt(TrainerCallback):
    """Ends a run in the middle of a step."""

    def __init__(self, step: int, error: type[BaseException]) -> None:
        self.step, self.error = step, error

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            raise self.error


class Batches(TrainerCallback):
    """Keeps the first batch that the trainer's loader gives."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.rows = list(given["train_dataloader"].dataset)
        self.first = next(iter(given["train_dataloader"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prepare")
    make_base(made / "base", bpe(), spare=2)
    other_end = bpe()
    other_end.eos_token = "<|endoftext|>"
    make_base(made / "untied", other_end, spare=2, tied=False)
    write(made / "traces.jsonl", rows(12))
    return made


def run(settings: Settings, *callbacks: Any, **options: Any) -> list[str]:
    said: list[str] = []
    prepare(settings, callbacks=callbacks, log=said.append, **options)
    return said


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[Settings, list[str], Batches]:
    """A run in one go, with its check before and after."""
    settings = settings_for(
        folder / "base",
        folder / "whole",
        folder / "traces.jsonl",
        steps=STEPS,
        check=8,
        compare=True,
        grader="word-problems",
    )
    batches = Batches()
    return settings, run(settings, batches), batches


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_trainer_reads_the_mask(whole: Any) -> None:
    """Batches hold whole rows, longest first; labels are the ids where something is learnt."""
    _, _, batches = whole
    ids, labels = batches.first["input_ids"], batches.first["labels"]
    assert len(batches.rows) == STEPS * 4
    for row, label, given in zip(ids.tolist(), labels.tolist(), batches.rows, strict=False):
        length = len(given["input_ids"])
        assert row[:length] == given["input_ids"]
        assert label[:length] == given["labels"]
        assert set(label[length:]) <= {-100}
    assert [len(row["input_ids"]) for row in batches.rows[:4]] == sorted(
        (len(row["input_ids"]) for row in batches.rows[:4]), reverse=True
    )


def test_what_is_said_and_written(whole: Any) -> None:
    """Progress with the time left; the check as a table and as JSON; the next command; nothing left over."""
    settings, said, _ = whole
    out = settings.output
    lines = "\n".join(said)
    assert "11 traces," in lines  # of 12: one question is kept apart
    assert "in 3.64 passes" not in lines
    assert "20 steps of 4 traces (7.27 passes), all weights, learning rate 0.01, in float32" in lines
    assert f"step {STEPS} of {STEPS}: loss" in lines
    assert "0 s left" in lines
    assert "closes by itself" in lines
    assert f"elastic-agent train --base {out}" in said[-1]
    found = json.loads((out / "check.json").read_text())
    assert found["questions"] == 1
    assert [cell["thinking"] for cell in found["after"]][-1] is None
    assert [cell["limit"] for cell in found["before"]] == [cell["limit"] for cell in found["after"]]
    assert found["after"][0]["right"] in (0.0, 1.0)
    assert not {path.name for path in out.iterdir()} & {"checkpoints", "start", "adapter"}
    noted = json.loads((out / "prepare.json").read_text())
    assert (noted["finished"], noted["taught"], noted["traces"]) == (True, True, 11)
    assert run(settings, resume=True) == [f"{out} is finished already"]


async def test_the_folder_is_a_model_that_is_budgeted(whole: Any) -> None:
    """Law 3 on what was written: it loads without options, and keeps to any budget."""
    settings, *_ = whole
    backend = TransformersBackend.load(settings.output)
    asked = [{"role": "user", "content": "how many are 3 and 4 ?"}]
    assert backend.codec.markers.opening(backend.codec.encode_chat(asked)) is Opening.PREFILLED
    for t in (0, 5, 20):
        said = await generate(backend, asked, Budget(t, 6))
        assert said.usage.thinking <= t
        assert said.usage.solution <= 6
    await backend.aclose()


def test_train_check_passes(whole: Any, tmp_path: Path) -> None:
    """What `elastic-agent train --check` looks at."""
    settings, *_ = whole
    problems = write(tmp_path / "own.jsonl", [{"question": f"{n} + 2", "answer": n + 2} for n in range(4)])
    data = {"source": ["own"], "path": {"own": str(problems)}}
    context = validate(
        small(settings.output, tmp_path / "e1", data=data, reward={"kind": "math"}, rollout={"context": 190})
    )
    assert len(context.markers.close_ids) == 1


def test_a_run_that_is_killed_and_stopped_ends_with_the_same_weights(folder: Path, whole: Any) -> None:
    """Killed in step 7, stopped by Ctrl-C in step 12, resumed twice: the weights of a run in one go."""
    settings = replace(whole[0], output=folder / "parts", check=whole[0].check)
    with pytest.raises(Killed):
        run(settings, EndAt(7, Killed))
    (last,) = complete_checkpoints(settings.output / "checkpoints")
    assert last.name == "checkpoint-6"
    with pytest.raises(ConfigError, match="--resume goes on with it"):
        run(settings)
    with pytest.raises(ConfigError, match=r"another seed \(then 0, now 1\)"):
        run(replace(settings, seed=1), resume=True)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, resume=True, callbacks=[EndAt(12, KeyboardInterrupt)], log=said.append)
    assert f"going on from {last}" in said
    assert said[-1].endswith("checkpoint-11")
    run(settings, resume=True)
    assert weights(settings.output) == weights(whole[0].output)
    assert json.loads((settings.output / "check.json").read_text()) == json.loads(
        (whole[0].output / "check.json").read_text()
    )


@pytest.mark.parametrize("base", ["base", "untied"])
def test_adapters_are_merged_and_train_the_new_rows(folder: Path, base: str) -> None:
    """`--lora`: the model that is written is plain; of the embedding the markers' rows moved, no others. A
    run that was killed ends alike."""
    from transformers import AutoModelForCausalLM

    settings = settings_for(
        folder / base, folder / f"lora-{base}", folder / "traces.jsonl", lora=4, steps=3, rate=0.05
    )
    assert any("adapters of rank 4" in line for line in run(settings))
    assert not (settings.output / "adapter").exists()
    trained = AutoModelForCausalLM.from_pretrained(str(settings.output))
    ends = (
        trained.generation_config.eos_token_id
    )  # the template's end comes first where the tokenizer's is another
    end, text = bpe().convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert ends == (end if base == "base" else [end, text])
    start = AutoModelForCausalLM.from_pretrained(str(folder / base))
    last, pieces = len(bpe()), bpe().encode("</think>", add_special_tokens=False)
    for module in ("get_input_embeddings", "get_output_embeddings"):
        new, old = getattr(trained, module)().weight, getattr(start, module)().weight
        assert new[:last].equal(old[:last])
        assert not new[last + 1].float().allclose(old[pieces].float().mean(dim=0), atol=0.01)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not trained.state_dict()[name].equal(start.state_dict()[name])
    parts = replace(settings, output=folder / f"lora-{base}-parts")
    with pytest.raises(Killed):
        run(parts, EndAt(3, Killed))
    run(parts, resume=True)
    assert weights(parts.output) == weights(settings.output)


def test_a_batch_that_does_not_divide(folder: Path, tmp_path: Path) -> None:
    """Bad input."""
    settings = settings_for(folder / "base", tmp_path / "out", folder / "traces.jsonl", microbatch=3)
    with pytest.raises(ConfigError, match="a batch of 4 rows does not divide into parts of 3"):
        run(settings)
