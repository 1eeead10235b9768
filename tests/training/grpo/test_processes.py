"""Two real ranks by torch's launcher: whatever a batch holds, they end; they learn what one process learns;
when one of them is lost, the other stops with a checkpoint that resumes."""

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.integrations.commands.main import main as command
from elastic_agent.training.grpo.checkpoints import checkpoints, fault
from elastic_agent.training.grpo.launch import check_launch
from elastic_agent.training.grpo.output_lock import OutputLock
from elastic_agent.training.grpo.resuming import check_resumed, keep_config
from elastic_agent.training.grpo.stopping import Signals, Stopped
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.run import train
from tests.training import ranks
from tests.training.agents.talks import TALKS
from tests.training.episode_rows import rolling
from tests.training.ranks import TOLERANCE, launch, launch_fates
from tests.training.runs import make_base, small

RUN: dict[str, Any] = ranks.RUN | {
    "checkpoint": {"every": 2},
    "reward": {"kind": "tests.training.ranks:fatal_reward"},
}
UPDATES: dict[str, Any] = {
    "learning": {"rate": 0.01, "minibatches": 2},
    "rollout": {"prompts": 4, "group": 2, "context": 128},
}
SHARDED: dict[str, Any] = {"device": {"bucket_tokens": 60, "shard": "fsdp2"}}
VALIDATED: dict[str, Any] = {"validation": {"every": 1, "budgets": [2, None], "problems": 3}}
AGENT: dict[str, Any] = TALKS | {"rollout": {"prompts": 2, "group": 2, "context": 256}}
ROWS: dict[str, Any] = {
    "rollout": {"prompts": 1, "group": 4, "context": 128},
    "reward": {"kind": "tests.training.episode_rows:earned_reward"},
}
CHECKED = {f"validation/{budget}/reward" for budget in ("t=2", "unconstrained")}
FATES = ("kill 0", "lose 1", "hang 1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def outputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every run that ends well, of one launch; and of each, what accelerate ran."""
    folder = tmp_path_factory.mktemp("outputs")
    cut = RUN | {"checkpoint": {"every": 2, "keep": 9}}
    anytime = {"budgets": {"thinking": [0, 4, 8], "solution": 6}, "anytime": {"cuts": 3}}
    short = RUN | {"steps": 2}
    runs = {
        "whole": cut,
        "updates": short | UPDATES,
        "idle": short | {"reward": {"kind": "tests.training.ranks:lopsided_reward"}},
        "agents": short | AGENT,
        "anytime": short | anytime,
        "sharded": cut | SHARDED,
        "sharded-agents": short | AGENT | SHARDED,
        "rows": short | ROWS | {"rolled": True},
        "sharded-rows": short | ROWS | SHARDED | {"rolled": True},
        "sharded-lora": short | SHARDED | VALIDATED | {"lora": {"rank": 4}},
        "whole-cut": cut | {"resume": ["whole", 4]},
        "sharded-cut": cut | SHARDED | {"resume": ["sharded", 4]},
    }
    done, results = launch(base, folder, runs)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 process(es) on cpu, weights whole on each") == 7, "one rank speaks"
    assert done.stdout.count("going on from") == 2
    return folder, results


@pytest.mark.timeout(600)  # a launch of twelve runs, on a machine that may be busy
@pytest.mark.parametrize("name", ["whole", "updates", "idle", "agents", "rows", "anytime", "whole-cut"])
def test_two_ranks_end(outputs: tuple[Path, dict[str, Any]], name: str) -> None:
    """Unlike numbers of passes, several updates, rows without an advantage on one rank, episodes, rows of
    several sequences, cuts."""
    folder, results = outputs
    assert (results[name]["processes"], results[name]["kind"]) == (2, "MULTI_CPU")
    assert (folder / name / "model.safetensors").exists()
    if name == "idle":
        assert all(entry["grad_norm"] > 0 for entry in results[name]["log"])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["sharded", "sharded-agents", "sharded-rows", "sharded-lora", "sharded-cut"])
def test_two_ranks_with_a_half_of_the_weights_each_end(
    outputs: tuple[Path, dict[str, Any]], name: str
) -> None:
    folder, results = outputs
    assert (results[name]["processes"], results[name]["kind"]) == (2, "FSDP")
    assert (folder / name / "model.safetensors").exists()
    if name == "sharded-lora":
        assert [set(entry) >= CHECKED for log in results[name]["logs"] for entry in log] == [True] * 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["sharded", "sharded-lora"])
def test_a_checkpoint_of_sharded_weights_is_exported_as_the_model_that_its_run_wrote(
    base: Path, outputs: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    """Byte for byte, by `elastic-agent export`, in one process."""
    folder, _ = outputs
    assert command(["export", str(folder / name), str(tmp_path / "out")]) == 0
    written = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.safetensors"))
    assert len(written) == (2 if name == "sharded-lora" else 1)
    for path in written:
        assert (tmp_path / "out" / path).read_bytes() == (folder / name / path).read_bytes(), path
    first, last = weights(base), weights(tmp_path / "out")
    assert first.keys() == last.keys()
    assert any(not first[key].equal(tensor) for key, tensor in last.items())


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """RUN in one process, in one go."""
    return train(small(base, tmp_path_factory.mktemp("alone"), **RUN), log=lambda _: None)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["whole", "sharded"])
def test_a_resumed_run_ends_with_the_weights_of_one_in_one_go(
    outputs: tuple[Path, dict[str, Any]], name: str
) -> None:
    import torch

    folder, _ = outputs
    one_go, resumed = weights(folder / name), weights(folder / f"{name}-cut")
    assert one_go.keys() == resumed.keys()
    assert all(torch.equal(weight, resumed[key]) for key, weight in one_go.items())


@pytest.mark.timeout(600)
def test_one_process_two_and_two_with_sharded_weights_learn_the_same(
    alone: Any, outputs: tuple[Path, dict[str, Any]]
) -> None:
    """Rewards are equal, since the samples are; losses and gradient norms differ by rounding."""
    folder, results = outputs
    want = [entry for entry in alone.state.log_history if "loss" in entry]
    output = Path(alone.args.output_dir).parent
    for name in ("whole", "sharded"):
        for mine, theirs in zip(want, results[name]["log"], strict=True):
            assert mine["reward"] == pytest.approx(theirs["reward"], abs=1e-6)
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=TOLERANCE)
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], abs=TOLERANCE)
        assert weights(folder / name).keys() == weights(output).keys(), "written alike, tied weights once"


@pytest.mark.timeout(600)
def test_a_group_of_episodes_on_two_ranks_teaches_what_it_teaches_on_one(
    base: Path, outputs: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """A row of one call, one that failed; on the other rank one of two sequences, one of no sampled token."""
    with rolling():
        trainer = train(small(base, tmp_path, **(RUN | ROWS | {"steps": 2})), log=lambda _: None)
    want = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in ("rows", "sharded-rows"):
        for mine, theirs in zip(want, outputs[1][name]["log"], strict=True):
            assert mine["agent/failed"] == theirs["agent/failed"] == 0.25
            assert mine["grad_norm"] > 0
            for key in ("reward", "reward_std", "loss", "grad_norm", "agent/calls"):
                assert mine[key] == pytest.approx(theirs[key], abs=TOLERANCE), (name, key)


UNSCHEDULED = RUN | {"checkpoint": {"every": 1000}, "device": {"bucket_tokens": 60, "timeout": 10}}


@pytest.fixture(scope="module")
def ended(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each fate, of one launch after another."""
    folder = tmp_path_factory.mktemp("ended")
    launch_fates(base, folder, FATES, UNSCHEDULED)
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fate", FATES)
def test_when_a_rank_is_lost_the_other_stops_with_a_checkpoint_that_resumes(
    base: Path, alone: Any, ended: Path, fate: str
) -> None:
    """Killed, without its engine, or silent for longer than `device.timeout`, in the midst of batch 3.
    No checkpoint was due; the one that is written resumes in one process, to losses of one go."""
    folder = ended / fate
    said = (folder / "said").read_text()
    assert float((folder / "over").read_text()) - float((folder / "at").read_text()) < 60
    left = checkpoints(folder / "run" / "checkpoints")
    assert [(step, fault(path)) for step, path in left] == [(2, None)], said[-3000:]
    assert said.count("stopped after step 2: --resume goes on from") >= 1
    resumed = train(small(base, folder / "run", **UNSCHEDULED), resume=True, log=lambda _: None)
    pairs = zip(resumed.state.log_history, alone.state.log_history, strict=True)
    for mine, theirs in pairs:
        assert mine.get("loss") == pytest.approx(theirs.get("loss"), abs=TOLERANCE)


def test_sigterm_ends_a_run_with_a_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_batches", 0)
    monkeypatch.setenv("FATE", "stop 0")
    monkeypatch.setenv("FATE_AT", str(tmp_path / "at"))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        train(small(base, tmp_path, **(RUN | {"checkpoint": {"every": 1000}})), log=lambda _: None)
    left = checkpoints(tmp_path / "checkpoints")
    assert [(step, fault(path)) for step, path in left] == [(2, None)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_waits_for_the_end_of_an_update() -> None:
    """Half of the weights moved would be no checkpoint."""
    signals = Signals()
    with signals.caught():
        signals.updating(True)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            signals.updating(False)
        signal.raise_signal(signal.SIGTERM)  # the run is ending already


def test_processes_that_do_not_divide_the_batch_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"4 do not divide .* on 3 device\(s\): make .* a multiple of 3"):
        validate(small(base, tmp_path, **RUN))


def test_sharding_needs_several_processes(base: Path, tmp_path: Path) -> None:
    """accelerate would train on whole weights, and not say so."""
    with pytest.raises(ConfigError, match=r"shard fsdp2 is for several processes, and this is one"):
        validate(small(base, tmp_path, **(RUN | SHARDED)))


@pytest.mark.parametrize(
    ("shard", "started", "kind", "runs"),
    [
        ("fsdp2", 2, "MULTI_CPU", 2),
        ("none", 2, "FSDP", 2),
        ("none", 2, "NO", 1),
        ("zero3", 2, "FSDP", 2),
    ],
)
def test_what_accelerate_runs_is_what_was_asked_for(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard: str,
    started: int,
    kind: str,
    runs: int,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(started))
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), num_processes=runs)
    with pytest.raises(ConfigError, match=f"accelerate runs {kind if runs == 2 else 1}"):
        check_launch(small(base, tmp_path, device={"shard": shard}), accelerator)


def test_a_folder_belongs_to_one_run_at_a_time(base: Path, tmp_path: Path) -> None:
    with (
        OutputLock(tmp_path).hold(),
        pytest.raises(ConfigError, match=r"a run that goes on \(process \d+ on"),
    ):
        train(small(base, tmp_path, **RUN), log=lambda _: None)
    with OutputLock(tmp_path) as lock:
        assert lock.take()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora": {"rank": 4}}, "lora "),
        ({"rollout": {"group": 4}}, r"rollout.group \(then 2, now 4\)"),
        ({"learning": {"minibatches": 2}}, r"learning.minibatches \(then 1, now 2\)"),
        (SHARDED, r"device.shard \(then none, now fsdp2\)"),
    ],
)
def test_checkpoints_of_another_config_are_refused(
    base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    keep_config(small(base, tmp_path))
    with pytest.raises(ConfigError, match=f"are of another config, in {said}"):
        check_resumed(small(base, tmp_path, **changes), print)


def test_checkpoints_of_another_base_are_refused(base: Path, tmp_path: Path) -> None:
    keep_config(small(base, tmp_path))
    with pytest.raises(ConfigError, match=r"of another config, in base \(then "):
        check_resumed(small(tmp_path, tmp_path), print)


def test_what_may_change_is_said(base: Path, tmp_path: Path) -> None:
    keep_config(small(base, tmp_path))
    lines: list[str] = []
    check_resumed(small(base, tmp_path, steps=9, learning={"rate": 0.5}), lines.append)
    assert len(lines) == 1
    assert "differs from the one it goes on with in steps, learning" in lines[0]
