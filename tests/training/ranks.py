"""Runs of two ranks by torch's launcher (gloo, CPU): the same command as on eight GPUs.

A launcher and two interpreters that import TRL take half a minute, so one launch makes several runs, one
after another. Each is a name and changes to `small`; results are what accelerate ran.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from elastic_agent.errors import BackendUnavailableError
from elastic_agent.training.config.processes import rank
from tests.training.episode_rows import rolling
from tests.training.runs import easy_reward

ROOT = Path(__file__).resolve().parents[2]
Runs = Mapping[str, Mapping[str, Any]]
"""Folder below the outputs -> changes to `small`; "resume": [run, step] first makes the folder of that run's,
without its checkpoint of that step, and goes on with what is left; "rolled": the rows are those of
`tests.training.episode_rows`."""

RUN: dict[str, Any] = {
    "steps": 4,
    "budgets": {"thinking": [4, None], "solution": 6},
    "rollout": {"prompts": 2, "group": 2, "context": 128},
    "learning": {"rate": 0.01},
    "device": {"bucket_tokens": 60},  # a row or two a pass: the ranks have unlike numbers of passes
}
"""Changes to `small` for two ranks."""
TOLERANCE = 2e-5
"""Of losses and gradient norms, between one process and two: float32, summed in another order."""

_batches = 0


def lopsided_reward(**columns: Any) -> list[float]:
    """All rows of rank 1 earn the same, so none of them has an advantage."""
    return easy_reward(**columns) if rank() == 0 else [1.0] * len(columns["solution_ids"])


def fatal_reward(**columns: Any) -> list[float]:
    """`easy_reward`, but in batch 3 the rank that FATE names ("kill 1") comes to its end."""
    global _batches
    _batches += 1
    fate, _, whose = os.environ.get("FATE", "").partition(" ")
    if fate and _batches == 3 and rank() == int(whose):
        Path(os.environ["FATE_AT"]).write_text(str(time.time()))
        if fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "hang":
            time.sleep(300)
        if fate == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(300)
        raise BackendUnavailableError("the engine is lost")
    return easy_reward(**columns)


def launch(
    base: Path, outputs: Path, runs: Runs, **env: str
) -> tuple["subprocess.CompletedProcess[str]", dict[str, Any]]:
    """The launcher's process, and the results of the runs by name."""
    outputs.mkdir(exist_ok=True)
    results = outputs / "results.json"
    results.unlink(missing_ok=True)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [sys.executable, *words, "tests.training.ranks", str(base), str(outputs), json.dumps(runs)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    return done, json.loads(results.read_text()) if results.exists() else {}


def launch_fates(base: Path, outputs: Path, fates: Sequence[str], changes: Mapping[str, Any]) -> None:
    """Runs that come to their end by `fatal_reward`, one after another, by the agent of torch's launcher.

    Ranks are forked from a process that has imported TRL: that saves a minute of importing. Of each fate the
    folder below the outputs gets the run, "said", and "over": when the last rank had ended, in seconds.
    """
    words = ["-m", "tests.training.ranks", "fates", str(base), str(outputs), json.dumps([fates, changes])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=env, check=True, timeout=500)


def run_fates(base: str, outputs: str, given: str) -> None:
    """What the process does that `launch_fates` starts."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    import elastic_agent.training.grpo.trainer  # noqa: F401  # TRL

    fates, changes = json.loads(given)
    for fate in fates:
        folder = Path(outputs) / fate
        folder.mkdir(parents=True)
        os.environ |= {"FATE": fate, "FATE_AT": str(folder / "at")}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=2,
            run_id=fate,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            start_method="fork",
            max_restarts=0,
        )
        try:
            elastic_launch(config, _forked)(base, str(folder), changes)
        except ChildFailedError:
            (folder / "over").write_text(str(time.time()))


def _forked(base: str, folder: str, changes: dict[str, Any]) -> None:
    with (Path(folder) / "said").open("a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    _run_all(base, folder, {"run": changes})


def main(base: str, outputs: str, runs: str) -> None:
    """What each rank does."""
    _run_all(base, outputs, json.loads(runs))


def _run_all(base: str, outputs: str, runs: dict[str, dict[str, Any]]) -> None:
    from accelerate.utils import gather_object

    from elastic_agent.training.run import train
    from tests.training.runs import small

    found = {}
    for name, changes in runs.items():
        output, resumed = Path(outputs) / name, changes.pop("resume", None)
        rows = rolling() if changes.pop("rolled", False) else nullcontext()
        if resumed is not None:
            _cut_back(Path(outputs) / resumed[0], output, resumed[1])
        with rows:
            trainer = train(small(Path(base), output, **changes), resume=resumed is not None)
        accelerator = trainer.accelerator
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        found[name] = {
            "processes": accelerator.num_processes,
            "kind": accelerator.distributed_type.value,
            "log": log,
            "logs": gather_object([log]),
        }
    if rank() == 0:
        (Path(outputs) / "results.json").write_text(json.dumps(found, default=str))


def _cut_back(run: Path, output: Path, step: int) -> None:
    from torch import distributed

    if rank() == 0:
        shutil.copytree(run, output)
        shutil.rmtree(output / "checkpoints" / f"checkpoint-{step}")
    distributed.barrier()


if __name__ == "__main__":
    run_fates(*sys.argv[2:]) if sys.argv[1] == "fates" else main(*sys.argv[1:])
