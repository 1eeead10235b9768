"""E1 beside what it is compared with: trained here from one base, measured on problems none of them saw.

    python benchmarks/training.py [--quick] [--json] [--output DIR]

Trains, by the commands that a user types, for each of two seeds and from the base that ships (e1-tiny-base):

    vanilla     GRPO as everyone does it: nothing is cut while training
    e1-fixed    E1 as published: thinking cut at one t*, which is 48
    e1-sampled  E1 with t* of 24, 48, 96 and, in a half of the groups, unlimited
    l1-max      L1-Max's reward (arXiv 2503.04697): the length stands in the prompt, nothing is cut

all with the same steps, problems, group size and learning rate, and measures each at t of 16 to 2t* and
unconstrained, s=96, 504 problems of the test split a point, beside the base itself, truncated (one cap of
t + s), and under S1's budget forcing. An L1 model is asked for its length and capped at t + s in all; its
rows under `elastic` show it cut like the others.

The two seeds run side by side, one core each; about three quarters of an hour on two idle cores. The same
command goes on where it was stopped. --quick measures the models that ship instead, in under a minute.
With --json the last line of stdout is one JSON object: {"rows": [...], ...}; t is null for unconstrained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BASE = "e1-tiny-base"
T_STAR, SOLUTION = 48, 96
BUDGETS: tuple[int | None, ...] = (16, 32, 48, 64, 96, None)
STEPS, PROMPTS, GROUP = 50, 8, 12
RUNS: dict[str, tuple[str, ...]] = {
    "vanilla": ("budgets.thinking=[null]",),
    "e1-fixed": (f"budgets.thinking=[{T_STAR}]",),
    "e1-sampled": ("budgets.thinking=[24, 48, 96, null, null, null]",),
    "l1-max": (
        f"budgets={{kind: uniform, low: 16, high: 160, solution: {SOLUTION}, stated: l1-max}}",
        "reward={kind: stock, length: l1-max, alpha: 0.003}",  # L1's 3e-4 is for lengths of thousands
    ),
}
STRATEGIES = {BASE: "elastic,truncate,s1", "l1-max": "l1-max,elastic"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "elastic_agent.integrations.cli", *words]


def run(words: Sequence[str], folder: Path) -> str:
    """Run one command on one core; its output goes to `log` and is returned."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    with (folder / "log").open("a") as log:
        log.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)}\nfailed; its output is in {folder / 'log'}:\n{done.stderr[-2000:]}"
        )
    return done.stdout


def train(folder: Path, name: str, seed: int, steps: int) -> None:
    """One run of `elastic-agent train`; nothing to do when its model is there."""
    if (folder / name / "train_log.json").exists():
        return
    words = ["--base", BASE, "--output", name, "--seed", str(seed), "--steps", str(steps)]
    settings = (f"rollout.prompts={PROMPTS}", f"rollout.group={GROUP}", *RUNS[name])
    overrides = [word for setting in settings for word in ("--set", setting)]
    run(command("train", *words, *overrides, "--resume"), folder)


def measure(
    folder: Path, name: str, seed: int, thinking: Sequence[int | None], problems: int
) -> list[dict[str, Any]]:
    """One run of `elastic-agent eval`, as rows."""
    shown = ",".join("none" if t is None else str(t) for t in thinking)
    words = ["--model", name, "--strategy", STRATEGIES.get(name, "elastic"), "--thinking", shown]
    words += ["--solution", str(SOLUTION), "--split", "test", "--problems", str(problems)]
    said = run(command("eval", *words, "--seed", str(seed), "--output", f"eval-{name}", "--json"), folder)
    kept = ("model", "strategy", "t", "s", "accuracy", "low", "high", "tokens", "n")
    cells = json.loads(said.splitlines()[-1])["cells"]
    return [{"seed": seed} | {key: cell[key] for key in kept} for cell in cells]


def lane(output: Path, seed: int, steps: int) -> list[dict[str, Any]]:
    """All of one seed, one thing after another, on one core."""
    folder = output / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(folder, BASE, seed, BUDGETS, 504)
    for name in RUNS:
        start = time.perf_counter()
        train(folder, name, seed, steps)
        trained = time.perf_counter()
        rows += measure(folder, name, seed, BUDGETS, 504)
        spent = f"trained in {trained - start:.0f} s, measured in {time.perf_counter() - trained:.0f} s"
        print(f"seed {seed}: {name} {spent}", file=sys.stderr, flush=True)
    return rows


def mean_by_cell(
    rows: Sequence[dict[str, Any]],
) -> dict[tuple[str, str], dict[int | None, tuple[float, float]]]:
    """(model, strategy) -> t -> (accuracy, tokens), means over the seeds."""
    found: dict[tuple[str, str], dict[int | None, list[tuple[float, float]]]] = {}
    for row in rows:
        cells = found.setdefault((row["model"], row["strategy"]), {})
        cells.setdefault(row["t"], []).append((row["accuracy"], row["tokens"]))
    return {
        which: {t: (sum(a for a, _ in v) / len(v), sum(n for _, n in v) / len(v)) for t, v in cells.items()}
        for which, cells in found.items()
    }


def claims(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the comparison is for, over the means of the seeds."""
    means = mean_by_cell(rows)
    limited = [t for t in BUDGETS if t is not None]
    e1s = [name for name in ("e1-fixed", "e1-sampled") if (name, "elastic") in means]
    better = max(e1s, key=lambda name: sum(means[name, "elastic"][t][0] for t in limited))
    best, vanilla = means[better, "elastic"], means["vanilla", "elastic"]
    others = {w: c for w, c in means.items() if w[0] not in e1s}
    behind = {
        f"t={t} {model} {strategy}": round(cells[t][0] - best[t][0], 4)
        for (model, strategy), cells in others.items()
        for t in limited
        if cells[t][0] >= best[t][0]
    }
    return {
        "better_e1": better,
        "not_ahead_of": behind,
        "ahead_of_vanilla": {t: round(best[t][0] - vanilla[t][0], 4) for t in limited},
        "unconstrained_behind_vanilla": {
            n: round(vanilla[None][0] - means[n, "elastic"][None][0], 4) for n in e1s
        },
        "fewer_tokens_than_base": round(1 - best[None][1] / means[BASE, "elastic"][None][1], 4),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy by t, means over the seeds; behind unconstrained, its tokens."""
    means = mean_by_cell(rows)
    budgets = sorted({row["t"] for row in rows}, key=lambda t: (t is None, t or 0))
    head = [f"t={t}" if t is not None else "unconstrained (tokens)" for t in budgets]
    lines = [" | ".join(["| model", "strategy", *head]) + " |", "| --- | --- |" + " --- |" * len(budgets)]
    for (model, strategy), cells in means.items():
        shown = [
            f"{cells[t][0]:.3f}" + (f" ({cells[t][1]:.0f})" if t is None else "") if t in cells else ""
            for t in budgets
        ]
        lines.append(" | ".join([f"| {model}", strategy, *shown]) + " |")
    return "\n".join(lines)


def quick() -> dict[str, Any]:
    """The models that ship, at three budgets, on few problems."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as lanes:
        both = [Path(folder, name) for name in (BASE, "e1-tiny")]
        for one in both:
            one.mkdir()
        rows = [
            row
            for rows in lanes.map(lambda at: measure(at, at.name, 0, (16, 48, 96), 63), both)
            for row in rows
        ]
    print(table(rows))
    return {"rows": rows, "quick": True}


def full(output: Path, steps: int) -> dict[str, Any]:
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as lanes:
        found = list(lanes.map(lambda seed: lane(output, seed, steps), (0, 1)))
    rows = [row for rows in found for row in rows]
    print(table(rows))
    summary = {
        "rows": rows,
        **claims(rows),
        "steps": steps,
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }
    (output / "rows.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the models that ship, under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument(
        "--output", type=Path, default=Path(".cache/benchmarks/training"), help="models and samples"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"GRPO steps of each run ({STEPS})")
    args = parser.parse_args()
    found = quick() if args.quick else full(args.output.resolve(), args.steps)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
