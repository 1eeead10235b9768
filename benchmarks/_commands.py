"""What the training benchmarks share: the project's own commands, each on one core, its output kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BASE = "e1-tiny-base"
SOLUTION = 96
ROOT = Path(__file__).resolve().parents[1]
STEPS, PROMPTS, GROUP = 60, 8, 12


def environment() -> dict[str, str]:
    """Of a command: one core, no hub, and this project, which `.venv-vllm` does not have."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def elastic_agent(folder: Path, *words: str) -> str:
    """Run `elastic-agent WORDS` in a folder; what it printed goes to `log` there, and is returned."""
    command = [sys.executable, "-m", "elastic_agent.integrations.commands.main", *words]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    with (folder / "log").open("a") as log:
        log.write(f"$ elastic-agent {' '.join(words)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        raise SystemExit(f"elastic-agent {' '.join(words)}\nfailed in {folder}:\n{done.stderr[-2000:]}")
    return done.stdout


def train(folder: Path, name: str, seed: int, steps: int, settings: Sequence[str], base: str = BASE) -> None:
    """GRPO from a model that ships, under some settings; nothing to do when the result is there."""
    if (folder / name / "train_log.json").exists():
        return
    every = (f"rollout.prompts={PROMPTS}", f"rollout.group={GROUP}", *settings)
    overrides = [word for setting in every for word in ("--set", setting)]
    run = ("--base", base, "--output", name, "--seed", str(seed), "--steps", str(steps))
    elastic_agent(folder, "train", *run, *overrides, "--resume")


def measure(
    folder: Path,
    name: str,
    seed: int,
    thinking: Sequence[int | None],
    problems: int,
    strategies: str = "elastic",
) -> list[dict[str, Any]]:
    """`elastic-agent eval` on the test split, as rows."""
    shown = ",".join("none" if t is None else str(t) for t in thinking)
    grid = ("--strategy", strategies, "--thinking", shown, "--solution", str(SOLUTION), "--seed", str(seed))
    what = ("--model", name, "--split", "test", "--problems", str(problems), "--output", f"eval-{name}")
    said = elastic_agent(folder, "eval", *what, *grid, "--json")
    kept = ("model", "strategy", "t", "s", "accuracy", "low", "high", "tokens", "n")
    cells = json.loads(said.splitlines()[-1])["cells"]
    return [{"seed": seed} | {key: cell[key] for key in kept} for cell in cells]
