"""Full weights to vLLM servers, on a scripted wire: a server that has other weights is found out, whenever it
gets them, and no sample of it is trained on. test_vllm_training has the real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import BackendUnavailableError, ConfigError
from elastic_agent.training.config.loading import dump
from elastic_agent.training.config.schema import TrainConfig
from elastic_agent.training.grpo.checkpoints import checkpoints, fault
from elastic_agent.training.grpo.logger import read_csv
from elastic_agent.training.grpo.validate import validate
from elastic_agent.training.rollouts.engines import nccl, ways
from elastic_agent.training.rollouts.engines.full_weights import FolderWeights
from elastic_agent.training.rollouts.engines.nccl import NcclWeights
from elastic_agent.training.rollouts.engines.probe import FLOOR, StaleWeightsError
from elastic_agent.training.run import train
from tests.training.rollouts.engines.weights_wire import WeightsWire, serving
from tests.training.runs import EASY, at_servers, make_base, small


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def wire(base: Path) -> Iterator[WeightsWire]:
    with serving(base) as wire:
        yield wire


def served(base: Path, output: Path, *wires: WeightsWire, **changes: Any) -> TrainConfig:
    """Two steps, of which each moves the weights a lot."""
    rollout = at_servers(*(wire.base_url for wire in wires), **changes.pop("server", {}))
    options = {"rollout": rollout, "reward": {"kind": EASY}, "learning": {"rate": 0.01}}
    # The servers' log-probs depend a little on which samples they decode together
    options["trl"] = {"vllm_importance_sampling_correction": False}
    return small(base, output, **options | changes)


def weights_of(trainer: Any) -> list[Any]:
    return list(trainer.model.state_dict().values())


def equal(one: Any, other: Any) -> bool:
    import torch

    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_every_batch_is_sampled_with_the_weights_in_training(
    base: Path, wire: WeightsWire, tmp_path: Path
) -> None:
    """The base at the start, then the weights after each update; nothing is left in the folder."""
    lines: list[str] = []
    trainer = train(served(base, tmp_path, wire, trl={}), log=lines.append)
    reload = ["pause", "elastic_reload", "reset_prefix_cache", "update_weight_version", "resume"]
    asked = [name for name in wire.asked if name != "elastic_precision"]
    assert asked == reload * 2
    assert len({version.partition(".")[0] for version in wire.versions}) == 2
    assert wire.version == wire.versions[-1]
    rows = read_csv((tmp_path / "metrics.csv").read_text())
    for row in rows:
        assert row["rollout/sync_gap"] < FLOOR["float32"]
        assert row["rollout/logprob_gap_max"] < 1e-4
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
        assert row["rollout/lost"] == 0
    assert any("the servers took the weights" in line for line in lines)
    assert not list((tmp_path / "weights").iterdir())
    assert wire.precisions == {"float32"}
    assert trainer.state.global_step == 2


def test_the_next_batch_is_sampled_ahead(base: Path, wire: WeightsWire, tmp_path: Path) -> None:
    """`rollout.ahead`: new weights come between two batches, never into one."""
    config = served(base, tmp_path, wire, trl={}, steps=3)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"ahead": 1})})
    train(config, log=lambda _: None)
    assert len(wire.versions) == 2, "the base for two batches, then the weights after the first update"
    rows = read_csv((tmp_path / "metrics.csv").read_text())
    assert [row["rollout/lost"] for row in rows] == [0, 0, 0]
    assert rows[0]["rollout/logprob_gap_max"] < 1e-4 < rows[1]["rollout/logprob_gap_max"]


def test_a_server_that_falls_behind_in_mid_batch_is_named_and_mended(base: Path, tmp_path: Path) -> None:
    """Restarted, or given other weights, while it samples the second batch: the run ends with the weights of
    a run on servers to which nothing happened."""
    with serving(base) as quiet:
        whole = train(served(base, tmp_path / "whole", quiet), log=lambda _: None)
        batch = len(quiet.requests) // 2
    lines: list[str] = []

    def fall_behind(wire: WeightsWire, n: int) -> None:
        if n == batch + 3:
            wire.restart()
        if n == batch + 9:
            wire.version = "another run's"

    with serving(base) as wire:
        wire.plan = fall_behind
        behind = train(served(base, tmp_path / "behind", wire), log=lines.append)
    assert len(wire.versions) == 2 + 2
    assert equal(behind, whole)
    said = "\n".join(lines)
    assert "samples are missing: " in said
    assert "has the weights 'default' and not " in said
    assert "those in training: it was restarted; it is given them again" in said
    assert 'has the weights "another run\'s" and not ' in said
    lost = [row["rollout/lost"] for row in read_csv((tmp_path / "behind" / "metrics.csv").read_text())]
    assert [bool(n) for n in lost] == [False, True]


def test_a_server_that_says_it_has_the_weights_is_not_believed(
    base: Path, wire: WeightsWire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has those of the batch before, under the version of this one: found by its log-probs."""
    current = FolderWeights.current

    def spoiled(self: FolderWeights, trainer: Any) -> Path:
        folder = current(self, trainer)
        if len(wire.versions) == 2:
            version = wire.version
            wire.restart()
            wire.version = version
        return folder

    monkeypatch.setattr(FolderWeights, "current", spoiled)
    lines: list[str] = []
    train(served(base, tmp_path, wire), log=lines.append)
    assert len(wire.versions) == 3
    assert wire.versions[1].partition(".")[0] == wire.versions[2].partition(".")[0]
    assert any("it was given others; it is given them again" in line for line in lines)


@pytest.mark.parametrize("loses", [lambda name: True, lambda name: "self_attn" in name], ids=["all", "half"])
def test_a_reload_that_is_lost_or_half_done_stops_the_run(
    base: Path, wire: WeightsWire, tmp_path: Path, loses: Any
) -> None:
    """Nothing is sampled with old weights; a checkpoint of the last update is there."""
    wire.loses = loses
    batch: list[int] = []
    wire.plan = lambda wire, n: batch.append(len(wire.versions))
    with pytest.raises(StaleWeightsError, match="has not taken them all, and nothing was sampled"):
        train(served(base, tmp_path, wire), log=lambda _: None)
    assert set(batch) == {1}
    assert [(step, fault(path)) for step, path in checkpoints(tmp_path / "checkpoints")] == [(1, None)]


def test_a_server_that_keeps_another_model_is_refused_at_the_start(base: Path, tmp_path: Path) -> None:
    with serving(base) as wire:
        wire.loses = lambda name: True
        for weight in wire.module.parameters():
            weight.data.mul_(3)
        with pytest.raises(ConfigError, match="serves another model under this name"):
            train(served(base, tmp_path, wire), log=lambda _: None)
    assert not wire.requests


def test_a_server_in_bfloat16_gets_half_the_bytes(base: Path, wire: WeightsWire, tmp_path: Path) -> None:
    """Adapters are merged into what it gets, if there are any."""
    wire.precision = "bfloat16"
    train(served(base, tmp_path, wire, steps=1, server={"weights": "folder"}, lora={"rank": 4}))
    assert wire.precisions == {"bfloat16"}


class Client:
    """In place of TRL's client, which streams over NCCL."""

    def __init__(self, wire: WeightsWire, events: list[str]) -> None:
        self._wire, self.events = wire, events
        events.append("client")

    def init_communicator(self, device: Any) -> None:
        self.events.append("join")

    def update_named_params(self, metadata: list[Any], weights: Iterator[tuple[str, Any]]) -> None:
        held = dict(weights)
        assert [(name, list(w.shape)) for name, w in held.items()] == [(n, s) for n, _, s in metadata]
        self._wire.take(held)
        self.events.append("stream")

    def close_communicator(self) -> None:
        self.events.append("leave")


def test_weights_over_nccl(
    base: Path, wire: WeightsWire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TRL's client, and nothing is written. A restarted server stops the batch, if it is the only one;
    restarted between two batches it is in a new group."""
    events: list[str] = []
    monkeypatch.setattr(ways, "check_cuda", lambda: None)
    monkeypatch.setattr(NcclWeights, "make_client", staticmethod(lambda root, port: Client(wire, events)))

    def restart(wire: WeightsWire, n: int) -> None:
        if n == 1:
            batch.extend(wire.versions)

    batch: list[str] = []
    wire.plan = restart
    config = served(base, tmp_path / "one", wire, server={"weights": "nccl"})
    train(config, log=lambda _: None)
    assert events == ["client", "join", "stream", "stream", "leave"]
    assert not (tmp_path / "one" / "weights").exists()
    rows = read_csv((tmp_path / "one" / "metrics.csv").read_text())
    assert all(row["rollout/sync_gap"] < FLOOR["float32"] for row in rows)
    at = len(wire.requests)
    wire.plan = lambda wire, n: wire.restart() if n == at + 3 else None
    with pytest.raises(BackendUnavailableError, match=r"has the weights 'default' and not .* restarted"):
        train(served(base, tmp_path / "two", wire, server={"weights": "nccl"}), log=lambda _: None)


def test_nccl_without_a_gpu_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = small(base, tmp_path, rollout={"engine": "vllm-server", "server": {"weights": "nccl"}})
    with pytest.raises(ConfigError, match=r"no CUDA device here; take rollout\.server\.weights folder"):
        validate(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nccl, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs vLLM in this Python"):
        nccl.check_cuda()


@pytest.mark.timeout(300)  # a launcher and two interpreters that import TRL, on a machine that may be busy
def test_two_processes_with_sharded_weights(
    root: Path, base: Path, wire: WeightsWire, tmp_path: Path
) -> None:
    """FSDP2, by the command that a user types: all gather, the first writes; the server is given each set of
    weights once, whole."""
    config = served(base, tmp_path / "out", wire, device={"shard": "fsdp2", "bucket_tokens": 8192})
    (tmp_path / "config.yaml").write_text(dump(config))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    words += ["elastic_agent.training", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(wire.versions) == 2
    rows = read_csv((tmp_path / "out" / "metrics.csv").read_text())
    assert all(row["rollout/sync_gap"] < FLOOR["float32"] for row in rows)
