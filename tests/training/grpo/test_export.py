"""A checkpoint, exported, is the model that the run wrote; weights pass one at a time."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.integrations.commands.main import main as command
from elastic_agent.training.rollouts.engines.weight_files import write_weights
from elastic_agent.training.run import train
from tests.training.runs import EASY, make_base, small

RUN: dict[str, Any] = {
    "steps": 2,
    "learning": {"rate": 0.01},
    "rollout": {"prompts": 2, "context": 96},
    "reward": {"kind": EASY},
    "checkpoint": {"every": 1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 16}])
def test_an_exported_checkpoint_is_the_model_that_the_run_wrote(
    lora: dict[str, int] | None, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, file for file (but that the generation config of a LoRA run's checkpoint is the base's,
    which lists its one end of text as a number); and not the base."""
    from safetensors.torch import load_file

    run, out = tmp_path / "run", tmp_path / "out"
    train(small(base, run, lora=lora, **RUN))
    said = capsys.readouterr().out
    assert f"wrote {run}: the model" in said
    assert f"next: elastic-agent eval --model {run} --thinking 2,4,8,none --solution 6" in said
    assert command(["export", str(run), str(out)]) == 0
    assert (
        f"wrote {run}/checkpoints/checkpoint-2 to {out}; next: elastic-agent ask" in capsys.readouterr().out
    )
    for written in out.rglob("*"):
        name = written.relative_to(out)
        if name.name == "generation_config.json" and lora:
            continue
        assert written.is_dir() or written.read_bytes() == (run / name).read_bytes(), name
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert (out / "adapter").is_dir() == (lora is not None)
    first, last = (load_file(folder / "model.safetensors") for folder in (base, out))
    assert first.keys() == last.keys()
    assert any(not (first[name] == last[name]).all() for name in first)
    assert command(["export", str(run), str(out)]) == 2
    assert "is there already: give a new folder" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is no checkpoint: give a folder checkpoint-N" in capsys.readouterr().err
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    assert command(["export", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds no complete checkpoint" in capsys.readouterr().err


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def test_memory_holds_two_files_and_a_tensor_and_not_the_model(tmp_path: Path) -> None:
    """32 tensors of 16 MB in float32, in files of 32 MB: the peak, read each 2 ms, is below 120 of 512 MB."""
    import torch

    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, anonymous())

    torch.zeros(4_000_000).to(torch.bfloat16)
    before = anonymous()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        write_weights(
            ((f"layer.{i}.weight", torch.full((4_000_000,), float(i))) for i in range(32)),
            tmp_path,
            most=32_000_000,
        )
    finally:
        done.set()
        watcher.join()
    assert most - before < 120_000_000, f"{(most - before) / 1e6:.0f} MB"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 32 * 4_000_000 * 2
    assert len(set(index["weight_map"].values())) == 8
    from safetensors import safe_open

    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / file, framework="pt") as opened:
            assert opened.get_tensor(name)[0] == float(name.split(".")[1])
