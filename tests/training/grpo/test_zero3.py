"""ZeRO-3 on two real ranks, where DeepSpeed is installed; and what is said where it is not."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from elastic_agent.errors import ConfigError
from elastic_agent.integrations.commands.main import main as command
from elastic_agent.training.config.trl_arguments import sharding
from elastic_agent.training.grpo import launch as launching
from elastic_agent.training.run import train
from tests.training import ranks
from tests.training.ranks import TOLERANCE, launch
from tests.training.runs import EASY, make_base, small

RUN: dict[str, Any] = ranks.RUN | {"checkpoint": {"every": 2, "keep": 9}, "reward": {"kind": EASY}}
SHARDED: dict[str, Any] = {"device": {"bucket_tokens": 60, "shard": "zero3"}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="no DeepSpeed here: pip install 'elastic-agent[train,deepspeed]'"
)
@pytest.mark.timeout(600)
def test_two_ranks_learn_what_one_process_learns(base: Path, tmp_path: Path) -> None:
    """Rollouts gather the weights; a resumed run ends with the weights of one in one go; a checkpoint is
    exported as the model that its run wrote."""
    short = RUN | SHARDED | {"steps": 2}
    runs = {
        "whole": RUN | SHARDED,
        "lora": short | {"lora": {"rank": 4}, "validation": {"every": 1, "problems": 2}},
        "cut": RUN | SHARDED | {"resume": ["whole", 4]},
    }
    done, results = launch(base, tmp_path, runs, TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 process(es) on cpu, weights sharded by zero3") == len(runs)
    assert {(run["processes"], run["kind"]) for run in results.values()} == {(2, "DEEPSPEED")}
    assert all("validation/unconstrained/reward" in entry for entry in results["lora"]["log"])

    alone = train(small(base, tmp_path / "alone", **RUN), log=lambda _: None).state.log_history
    for mine, theirs in zip(results["whole"]["log"], alone[:-1], strict=True):
        assert mine["reward"] == pytest.approx(theirs["reward"], abs=1e-6)
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=TOLERANCE)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], abs=TOLERANCE)

    one_go, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one_go.keys() == resumed.keys() == weights(tmp_path / "alone").keys()
    assert all(weight.equal(resumed[key]) for key, weight in one_go.items())
    for name in ("whole", "lora"):
        out = tmp_path / f"{name}-out"
        assert command(["export", str(tmp_path / name), str(out)]) == 0
        for path in out.rglob("*.safetensors"):
            assert path.read_bytes() == (tmp_path / name / path.relative_to(out)).read_bytes(), path


def test_without_deepspeed_a_run_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = sharding(small(base, tmp_path, **SHARDED))["deepspeed"]
    assert plan["zero_optimization"] == {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}
    assert json.loads(json.dumps(plan)) == plan
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"zero3: DeepSpeed is not installed: pip install"):
        launching.check_deepspeed(small(base, tmp_path, **SHARDED))
