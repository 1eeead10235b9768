"""GRPO under every kind of budget, and with adapters: what is logged, what is written, what loads again."""

import json
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.scheduler import BudgetScheduler
from elastic_agent.training.cli import main
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.run import train
from tests.clock import run
from tests.training.runs import EASY, gradient, make_base, small, trainer_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def bins(output: Path) -> list[dict[str, float]]:
    """The histogram of t of each batch, empty bins left out."""
    rows = read_csv((output / "metrics.csv").read_text())
    return [{k: v for k, v in row.items() if k.startswith("budget/") and v} for row in rows]


def test_a_schedulers_own_log_decides_what_is_trained_on(base: Path, tmp_path: Path) -> None:
    """Tasks run under a scheduler; its grants are the budgets of training, and the histogram says so."""
    log = tmp_path / "run.jsonl"

    async def work() -> None:
        backend = ScriptedBackend(Reply(thinking="hm " * 60, solution="so the answer is 42"))
        async with BudgetScheduler(backend, log=log) as scheduler:
            for tokens in (60, 90, 120):
                async with scheduler.task(Caps(tokens=tokens)) as task:
                    await task.generate("how many", solution=10)

    run(work())
    events = [json.loads(text) for text in log.read_text().splitlines()]
    granted = [e["granted"]["thinking"] for e in events if e["event"] == "grant"]
    assert len(set(granted)) > 1
    config = small(
        base, tmp_path / "out", budgets={"kind": "grants", "logs": [str(log)]}, rollout={"context": 256}
    )
    train(config, log=lambda _: None)
    seen = {name for batch in bins(tmp_path / "out") for name in batch}
    wanted = {next(f"budget/t<={b}" for b in (0, 8, 16, 32, 64, 128, 256) if t <= b) for t in granted}
    assert seen == wanted
    train(small(base, tmp_path / "fixed"), log=lambda _: None)
    assert {name for batch in bins(tmp_path / "fixed") for name in batch} == {"budget/t<=8"}


def test_a_schedule_of_stages_shows_in_the_log(base: Path, tmp_path: Path) -> None:
    """The paper's iterative training, with two updates a batch: stages are counted in batches."""
    stages = [
        {"steps": 1, "thinking": 4, "solution": 6},
        {"steps": 1, "thinking": [12], "solution": 4},
        {"steps": 1, "thinking": [None], "solution": 6},
    ]
    changes: dict[str, Any] = {
        "steps": 4,
        "budgets": {"kind": "schedule", "stages": stages},
        "learning": {"minibatches": 2},
        "device": {"microbatch": 2},
    }
    train(small(base, tmp_path, **changes), log=lambda _: None)
    assert bins(tmp_path) == [
        {"budget/t<=8": 1},
        {"budget/t<=16": 1},
        {"budget/unlimited": 1},
        {"budget/unlimited": 1},
    ]
    rows = read_csv((tmp_path / "metrics.csv").read_text())
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all((row["thinking/mean_length"] or 0) <= t for row, t in zip(rows, (4, 12), strict=False))
    assert all(0 <= (row["thinking/cut"] or 0) <= 1 for row in rows)


def test_adapters_are_trained_kept_and_merged(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoRA from the command line: the base stays, the folder loads as a model, resuming works."""
    import torch

    from elastic_agent.backends.load import load_backend
    from elastic_agent.training.grpo.export import load_model

    words = ["--base", str(base), "--output", str(tmp_path), "--steps", "2", "--thinking", "4,none"]
    for assignment in (
        "rollout={prompts: 4, group: 2, context: 128}",
        "budgets.solution=6",
        "learning={rate: 0.05, warmup_steps: 0, minibatches: 2, clip_high: 0.28, kl: 0.01}",
        "lora={rank: 4}",
        f"reward.kind={EASY}",
        "checkpoint.every=1",
    ):
        words += ["--set", assignment]
    main(words)
    said = capsys.readouterr().out
    assert "step 2 of 2: reward" in said
    assert "0 s left" in said
    before = (tmp_path / "model.safetensors").read_bytes()
    main([*words, "--resume"])
    assert "going on from" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"checkpoint-2", "checkpoint-4"}
    merged, plain = load_model(tmp_path).state_dict(), load_model(base).state_dict()
    assert merged.keys() == plain.keys()
    changed = [name for name in plain if not torch.equal(merged[name], plain[name])]
    assert changed
    assert all("proj" in name for name in changed)
    assert load_backend(str(tmp_path)).context_length == 1024


def test_the_check_prints_the_config_and_runs_nothing(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--base", str(base), "--output", str(tmp_path / "out"), "--check"])
    said = capsys.readouterr()
    assert "steps: 80" in said.out
    assert "nothing is wrong" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minibatches", [1, 2])  # without and with log-probs kept from sampling time
def test_rows_without_an_advantage_cost_nothing_and_change_nothing(
    base: Path, tmp_path: Path, minibatches: int
) -> None:
    """The same loss and gradient as with them, from fewer rows. A KL term is of every row: not under one."""
    import torch

    config = small(base, tmp_path, rollout={"prompts": 4, "group": 4}, learning={"minibatches": minibatches})
    trainer = trainer_of(config)
    inputs = dict(trainer._buffered_inputs[0])
    rows = len(inputs["advantages"])
    inputs["advantages"] = torch.tensor([0.0, 0.7, 0.0, -1.3] * rows)[:rows]
    read: list[int] = []
    trainer.model.register_forward_pre_hook(
        lambda model, given, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    assert trainer.skips_idle
    fewer = gradient(trainer, inputs), sum(read)
    nothing = gradient(trainer, {**inputs, "advantages": torch.zeros(rows)})
    trainer.skips_idle = False
    read.clear()
    whole = gradient(trainer, inputs), sum(read)
    assert (fewer[1], whole[1]) == (rows // 2, rows)
    assert torch.allclose(fewer[0], whole[0], atol=1e-7)
    assert whole[0].abs().max() > 0
    assert not nothing.any()
    assert not trainer_of(small(base, tmp_path / "kl", learning={"kl": 0.01})).skips_idle
