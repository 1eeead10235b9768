"""`rollout.ahead`: which weights sample which batch, what corrects, how a run ends with a batch in flight."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from elastic_agent.errors import BackendUnavailableError, ConfigError
from elastic_agent.training.budgets.distributions import call_seeds
from elastic_agent.training.grpo.checkpoints import checkpoints, complete_checkpoints
from elastic_agent.training.rollouts.ahead import check_ahead
from elastic_agent.training.run import train
from tests.training.agents.talks import TALKS
from tests.training.rollouts.engines.test_vllm_servers import Staged, served, serving
from tests.training.runs import EASY, make_base
from tests.wire import Wire

ROWS = 8  # samples a batch in these runs
RUN: dict[str, Any] = {
    "steps": 4,
    "reward": {"kind": EASY},
    "learning": {"rate": 0.01, "minibatches": 2},
    "validation": {"every": 2, "budgets": [4], "problems": 2},
}
pytestmark = pytest.mark.timeout(300)  # the first run imports TRL, on a machine that may be busy


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def wire(base: Path) -> Iterator[Staged]:
    with serving(base) as wire:
        yield wire


def run(base: Path, output: Path, wire: Wire, *, resume: bool = False, ahead: int = 1, **changes: Any) -> Any:
    callbacks = changes.pop("callbacks", [])
    config = served(base, output, wire, **RUN | changes)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"ahead": ahead})})
    return train(config, resume=resume, callbacks=callbacks, log=lambda _: None)


def first_passes(wire: Wire, batches: int) -> list[list[dict[str, Any]]]:
    """The first request of each call, by batch, in the order of the calls."""
    by_seed = {body["seed"]: body for body in wire.requests}
    return [
        [by_seed[seed] for seed in call_seeds(0, n, 1, calls=range(ROWS)) if seed in by_seed]
        for n in range(batches)
    ]


def test_a_batch_is_sampled_with_the_weights_before_the_last_update(base: Path, tmp_path: Path) -> None:
    """The same rows, budgets and seeds as without; the first batch alone is of the weights of now."""
    interval = sys.getswitchinterval()
    with serving(base) as wire:
        run(base, tmp_path / "plain", wire, ahead=0)
        plain = first_passes(wire, 4)
    with serving(base) as wire:
        trainer = run(base, tmp_path / "ahead", wire)
        ahead = first_passes(wire, 4)
    same = ("prompt", "max_tokens", "seed", "temperature")
    for ours, theirs in zip(ahead, plain, strict=True):
        assert len(ours) == ROWS
        assert [[a[name] for name in same] for a in ours] == [[b[name] for name in same] for b in theirs]
    names = [{body["model"] for body in batch} for batch in ahead]
    assert sys.getswitchinterval() == interval, "it is shorter only while a batch is in flight"
    assert [len(batch) for batch in names] == [1] * 4
    assert names[0] == names[1]
    assert len(set.union(*names)) == 3
    # An adapter is what was published before the batch is handed out; validation publishes the newest
    published = [name for name in dict.fromkeys(wire.loads) if name in set.union(*names)]
    assert [names.index({name}) for name in published] == [0, 2, 3]

    rows = [row for row in trainer.state.log_history if "rollout/logprob_gap" in row]
    assert rows[0]["sampling/sampling_logp_difference/max"] < 1e-4
    assert rows[0]["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    assert rows[1]["sampling/sampling_logp_difference/max"] > 1e-3
    assert all(row["sampling/importance_sampling_ratio/mean"] > 0 for row in rows)
    assert "seconds/ahead" not in rows[0]
    assert all(row["seconds/ahead"] >= 0 and row["tokens_s/rollout"] > 0 for row in rows[1:3])
    assert [("validation/t=4/reward" in row) for row in rows] == [False, True, False, True]
    assert {"sampling/importance_sampling_ratio/mean", "seconds/ahead"} <= set(
        (tmp_path / "ahead" / "metrics.csv").read_text().splitlines()[0].split(",")
    )


def test_a_run_whose_server_is_lost_resumes_and_samples_its_first_batch_now(
    base: Path, tmp_path: Path
) -> None:
    """The batch in flight is lost with the server; the update beside it ends, and is in the checkpoint."""
    third = call_seeds(0, 2, 1, calls=range(ROWS))

    def die(wire: Wire, n: int) -> None:
        if any(body["seed"] in third for body in wire.requests):
            wire.faults.status = 503

    changes: dict[str, Any] = {"validation": {"every": 0}}
    with serving(base) as wire:
        wire.plan = die
        with pytest.raises(BackendUnavailableError, match="tries in a row"):
            run(base, tmp_path, wire, **changes)
        assert [step for step, _ in checkpoints(tmp_path / "checkpoints")] == [4], "two batches, two updates"
        wire.plan, wire.faults.status = Staged.plan, None
        wire.requests.clear()
        before = list(wire.loads)
        trainer = run(base, tmp_path, wire, resume=True, **changes)
        names = [{body["model"] for body in batch} for batch in first_passes(wire, 4)]
    assert names[:2] == [set(), set()]
    assert names[2] == names[3], "the first batch is sampled now, the next one beside its update"
    assert names[2] != {before[-1]}
    assert trainer.state.global_step == 8


def test_ctrl_c_gives_the_batch_in_flight_up(base: Path, wire: Staged, tmp_path: Path) -> None:
    second = call_seeds(0, 1, 1, calls=range(ROWS))

    def stall(wire: Wire, n: int) -> None:
        if any(body["seed"] in second for body in wire.requests):
            wire.faults.stall_after = 2

    class CtrlC(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                deadline = time.monotonic() + 60
                while wire.faults.stall_after is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.sent = time.monotonic()
                raise KeyboardInterrupt

    wire.plan, ctrl_c = stall, CtrlC()
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path, wire, callbacks=[ctrl_c], validation={"every": 0})
    assert time.monotonic() - ctrl_c.sent < 8
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch ")]
    assert len(complete_checkpoints(tmp_path / "checkpoints")) == 1


@pytest.mark.parametrize(
    "changes", [{"anytime": {"cuts": 2}}, {name: TALKS[name] for name in TALKS if name != "rollout"}]
)
def test_episodes_and_anytime_rewards_are_made_ahead(
    base: Path, wire: Staged, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trainer = run(base, tmp_path, wire, steps=2, validation={"every": 0}, **changes)
    assert trainer.state.global_step == 4
    assert len({body["model"] for body in wire.requests}) == 1, "both batches are of the first weights"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"engine": "transformers"}, "rollout.ahead: transformers decodes in the process that learns"),
        ({"engine": "vllm"}, "rollout.ahead: vllm decodes in the process that learns"),
        ({"temperature": 1.5}, "at rollout.temperature 1 and rollout.top_p 1"),
        ({"top_p": 0.9}, "at rollout.temperature 1 and rollout.top_p 1"),
        ({}, "leave trl.vllm_importance_sampling_correction on"),
    ],
)
def test_ahead_is_refused_where_nothing_runs_beside_or_nothing_corrects(
    base: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    trl = {} if changes else {"vllm_importance_sampling_correction": False}
    config = served(base, tmp_path, trl=trl, server={"urls": ["http://127.0.0.1:9/v1"]})
    check_ahead(config)
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"ahead": 1, **changes})})
    with pytest.raises(ConfigError, match=said):
        check_ahead(config)
