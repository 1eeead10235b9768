"""An agent trained under the scheduler's own grants, beside E1 with one fixed t*, and the model before.

    python benchmarks/agents.py [--quick] [--json] [--steps N] [--seeds 0,1] [--rows N] [--folder DIR]

The agent is a LangGraph with a tool and a parallel step (`_sums_agent.py`). From e1-tiny-base, at equal
steps:

    before   the base itself
    fixed    every call cut at t*=32 (the policy "fixed"), with no cap that binds: E1 as in the paper
    grants   each group of episodes draws a cap, and the scheduler grants each call what it does in service

All are measured by `elastic-agent eval --agent` under the production scheduler at four caps, on rows that
nobody was trained on. Groups whose rewards are all the same are sampled again at other caps.

With --json the last line of stdout is one JSON object: `rows` of `model`, `seed`, `cap`, `success` (the total
is right) with its 95% interval `low` and `high` over rows, `reward`, `tokens`, `answered`, `overspend`, `n`;
`ahead`: at each cap the difference in success of each two, with intervals over rows, means over seeds;
`steps`, `minutes`; `recording`: seconds spent recording by the calls' own seconds (`overhead`, of 64 episodes
of 8 calls side by side; median of turns), and the most that one spent above its cap. A folder that is given
is gone on with. --quick trains two steps, and measures a few rows: that everything works, nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._commands import BASE, ROOT, elastic_agent
from benchmarks._recording import recording
from benchmarks._sums_agent import make_rows
from elastic_agent.training.evaluation import bootstrap

AGENT = "benchmarks._sums_agent:agent"
CAPS = (110, 170, 260, 400)
FIXED = 32
SOLUTION = 96
CURVES = ROOT / "elastic_agent" / "models" / "e1-tiny" / "curves.json"
"""Of all three alike: the scheduler's view of how thinking helps."""
WAYS: dict[str, tuple[str, ...]] = {
    "fixed": (
        "agent.caps={tokens: 100000}",
        f"agent.scheduler.thinking={FIXED}",
        "agent.scheduler.policy=fixed",
    ),
    "grants": (f"agent.caps={{tokens: [{CAPS[0] * 2 // 3}, {CAPS[-1] * 4 // 3}]}}",),
}


def train(folder: Path, way: str, seed: int, steps: int, *, quick: bool) -> str:
    """GRPO on the agent in one of the ways; nothing to do when the result is there. Its folder's name."""
    name = f"{way}-{seed}"
    if (folder / name / "train_log.json").exists():
        return name
    settings = (
        f"agent.scheduler.curves={CURVES}",
        *WAYS[way],
        f"agent.llm={{solution_budget: {SOLUTION}}}",
        f"rollout.prompts={2 if quick else 8}",
        f"rollout.group={2 if quick else 6}",
        "rollout.context=768",
        "learning={rate: 1.5e-4, schedule: linear, warmup_steps: 5}",
        "sample_table.every=0",
        "checkpoint.every=10",
    )
    overrides = [word for setting in settings for word in ("--set", setting)]
    what = ("--agent", AGENT, "--data", "train.jsonl", "--base", BASE, "--output", name)
    elastic_agent(folder, "train", *what, "--seed", str(seed), "--steps", str(steps), *overrides, "--resume")
    return name


def measure(folder: Path, model: str, seed: int) -> dict[int, list[dict[str, Any]]]:
    """The episodes of a model, by cap."""
    name = f"eval-{model.replace('/', '-')}-{seed}"
    if not (folder / name / "table.json").exists():
        settings = (f"scheduler.curves={CURVES}", f"llm={{solution_budget: {SOLUTION}}}")
        overrides = [word for setting in settings for word in ("--set", setting)]
        caps = f"tokens={','.join(map(str, CAPS))}"
        what = ("--model", model, "--agent", AGENT, "--data", "test.jsonl", "--caps", caps)
        elastic_agent(folder, "eval", *what, "--output", name, "--seed", str(seed), *overrides)
    found: dict[int, list[dict[str, Any]]] = {cap: [] for cap in CAPS}
    for line in (folder / name / "results.jsonl").read_text().splitlines():
        episode = json.loads(line)
        found[int(episode["cap"].removeprefix("tokens="))].append(episode)
    return found


def success(episode: dict[str, Any]) -> float:
    return float(episode["metrics"].get("whole", 0.0))


def summary(model: str, seed: int, cap: int, episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    hits = [success(episode) for episode in episodes]
    low, high = bootstrap(hits)
    return {
        "model": model,
        "seed": seed,
        "cap": cap,
        "success": round(fmean(hits), 4),
        "low": low,
        "high": high,
        "reward": round(fmean(episode["reward"] or 0.0 for episode in episodes), 4),
        "tokens": round(fmean(episode["tokens"] for episode in episodes), 1),
        "answered": round(fmean(not episode["refused"] for episode in episodes), 4),
        "overspend": max(0, *(episode["tokens"] - cap for episode in episodes)),
        "n": len(episodes),
    }


def difference(
    ours: Sequence[Sequence[dict[str, Any]]], theirs: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, float]:
    """Mean difference in success on the same rows, over seeds, with its interval."""
    rows = [
        fmean(success(ours[s][i]) for s in range(len(ours)))
        - fmean(success(theirs[s][i]) for s in range(len(theirs)))
        for i in range(len(ours[0]))
    ]
    low, high = bootstrap(rows)
    return {"mean": round(fmean(rows), 4), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two steps, one seed, a few rows")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--steps", type=int, help="GRPO steps (default: 40)")
    parser.add_argument("--seeds", default="0,1", help="(default: 0,1)")
    parser.add_argument("--rows", type=int, help="unseen rows to measure on (default: 240)")
    parser.add_argument("--folder", type=Path, help="keep models and results here, and go on with them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        steps = args.steps or (2 if args.quick else 40)
        seeds = [0] if args.quick else [int(seed) for seed in args.seeds.split(",")]
        rows = args.rows or (6 if args.quick else 240)
        result = run(folder, steps, seeds, rows, quick=args.quick)
    if args.json:
        print(json.dumps(result))


def run(folder: Path, steps: int, seeds: Sequence[int], rows: int, *, quick: bool) -> dict[str, Any]:
    """Train, measure, compare."""
    began = time.perf_counter()
    for name, split, count in (("train", "train", 40 if quick else 2000), ("test", "test", rows)):
        lines = [json.dumps(row) for row in make_rows(7 if name == "train" else 8, count, split)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    episodes: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    found = []
    for seed in seeds:
        for model in ("before", *WAYS):
            name = BASE if model == "before" else train(folder, model, seed, steps, quick=quick)
            for cap, there in measure(folder, name, seed).items():
                episodes[model, seed, cap] = there
                found.append(summary(model, seed, cap, there))
                print(
                    "{model} {seed} {cap:4}: {success:.3f} ({low:.3f} to {high:.3f})".format(**found[-1]),
                    flush=True,
                )
    ahead = [
        {"cap": cap, "of": f"{ours} over {theirs}"}
        | difference([episodes[ours, s, cap] for s in seeds], [episodes[theirs, s, cap] for s in seeds])
        for cap in CAPS
        for ours, theirs in (("grants", "fixed"), ("grants", "before"), ("fixed", "before"))
    ]
    minutes = (time.perf_counter() - began) / 60
    watched = recording(1 if quick else 5)
    return {"rows": found, "ahead": ahead, "steps": steps, "minutes": round(minutes, 1), "recording": watched}


if __name__ == "__main__":
    sys.exit(main())
