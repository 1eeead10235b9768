"""Right answers out of the same cap: the default policy beside what it replaces, and beside what is possible.

    python benchmarks/allocation.py [--quick] [--live] [--json] [--write]
    python benchmarks/allocation.py --objective each --outcomes benchmarks/data/e1-gym-135m/e1-0.csv.gz

Tasks of 3 to 9 calls (chains and branches, kinds mixed) are played from measured outcomes of e1-tiny
(`benchmarks/data`) through the real desk, under caps over a 16-fold range. With --outcomes they are those of
another model (`benchmarks/_allocation_data.py` measures them), whose curves are then those of the problems
that policies are tuned on. Every policy with a parameter is tuned per cap, on tasks drawn from other
problems than those on which all are compared. A task's success is 1 when all of its calls are right; with
--objective each it is the share of calls that are right, which policies then aim at. The area under success
against cap, on the log axis, is the mean over the range.

Two bounds stand beside the policies. `clairvoyant` knows how each call will turn out at every limit and takes
the cheapest right one: no policy can. `informed` knows how likely every outcome is, not which will come, and
is the best of all policies that do (`elastic_agent.scheduler.analysis.hindsight`). Branches count there as
one after another.

With --live the same kinds of tasks run on e1-tiny itself, with the three policies that matter, at three caps.

With --json the last line of stdout is one JSON object:
    auc                by policy
    oracle_auc         the clairvoyant's; informed_auc: the best that is possible without clairvoyance
    best_fixed_auc     one t for every call, the best for each cap, under the same desk; `max_tokens` is one
    cap
                       for thinking and solution without any desk
    default_auc, learnt_auc   with the shipped curves, and from nothing (with feedback; learnt_quiet_auc
    without) over_fixed, of_informed, learnt_of_informed, of_oracle   ratios, with 95% intervals
    behind_uniform     caps at which the default is behind Uniform beyond the interval
    violations, tasks  caps broken at the replay's own meter, and tasks played
    half_spend         by policy: right calls under half of what a task uses uncapped, as a share of those
                       uncapped, with its 95% interval
    over_reservation   by policy: tokens held for calls by tokens used, at the cap in the middle
    regret             by policy: how far it is behind `informed` in the area, with its 95% interval
    curves             policy: [[cap a call, success, low, high, share of right calls], ...]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._baselines import (
    Decay,
    GreedyUpfront,
    Guessed,
    Informed,
    MarginalGreedy,
    Myopic,
    Proportional,
)
from benchmarks._picture import picture
from benchmarks._replay import (
    Memory,
    Outcome,
    Played,
    Work,
    curves_of,
    load,
    make_work,
    play,
    play_plain,
    pool_of,
    table_of,
)
from elastic_agent.scheduler.analysis.hindsight import Option, lp_bound
from elastic_agent.scheduler.estimates.curve_files import load as load_curves
from elastic_agent.scheduler.estimates.online_curves import LearntCurves
from elastic_agent.scheduler.estimates.success_curve import Objective
from elastic_agent.scheduler.policies.marginal import Marginal
from elastic_agent.scheduler.policies.protocol import AllocationPolicy
from elastic_agent.scheduler.policies.simple import FixedCap, Uniform

STEPS = tuple(2 ** (i / 2) for i in range(9))
LEAST = 20
"""Tokens a call of the task, where even the clairvoyant fails; at 16 times as many everybody has enough."""

MODEL = "e1-tiny"
GIVEN, LEARNT, QUIET, SILENT, KNOWN = (
    "default",
    "default, learnt",
    "default, learnt, no feedback",
    "default, undeclared",
    "default, known agent",
)
CANDIDATES: dict[str, tuple[AllocationPolicy, ...]] = {
    "fixed": tuple(map(FixedCap, (0, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256))),
    "uniform": (Uniform(),),
    "proportional": (Proportional(),),
    "greedy": tuple(map(GreedyUpfront, (48, 64, 96, 128, 512))),
    "decay": tuple(
        Decay(schedule, rate)
        for schedule, rates in {
            "linear": (0.3, 0.8),
            "polynomial": (0.5, 1.0, 2.0),
            "exponential": (0.3, 1.0, 2.0),
            "cosine": (0.3, 0.8),
        }.items()
        for rate in rates
    ),
    "myopic": tuple(map(Myopic, (0.0, 0.001, 0.002, 0.004, 0.008))),
    "marginal-greedy": tuple(map(MarginalGreedy, (4, 8, 16, 32))),
}


@dataclass
class Row:
    """A policy's outcomes: by cap, then task, its success and the share of calls that were right."""

    name: str
    success: list[list[float]] = field(default_factory=list)
    share: list[list[float]] = field(default_factory=list)
    tuned: list[str] = field(default_factory=list)

    def auc(self, picked: Sequence[int] | None = None) -> float:
        """The mean success over the log axis (trapezoids), of these tasks (all)."""
        means = [
            statistics.fmean(row if picked is None else [row[i] for i in picked]) for row in self.success
        ]
        inner = math.fsum(means[1:-1]) + (means[0] + means[-1]) / 2
        return inner / (len(means) - 1)


class Bench:
    """The tasks, and the count of what was played."""

    def __init__(
        self,
        outcomes: Path | None,
        tasks: int,
        tuning: int,
        steps: Sequence[float],
        objective: Objective = "chain",
    ) -> None:
        self.objective = objective
        found = load() if outcomes is None else load(outcomes)
        least = LEAST if outcomes is None else statistics.fmean(map(_whole, found)) / 6
        self.caps = tuple(least * step for step in steps)
        self.pool = [one for one in found if one.problem % 3]
        self.work = make_work(pool_of(self.pool), tasks, seed=1)
        others = [one for one in found if not one.problem % 3]
        self.practice = make_work(pool_of(others), tuning, seed=2)
        self.model = MODEL if outcomes is None else outcomes.name.partition(".")[0]
        self.curves = load_curves(MODEL) if outcomes is None else curves_of(others, self.model)
        self.candidates = dict(CANDIDATES)
        guesses = None if outcomes is None else outcomes.with_name("guesses.json")
        if guesses is not None and guesses.is_file():
            guessed = tuple(json.loads(guesses.read_text(encoding="utf-8")).items())
            self.candidates["guessed"] = (Guessed(guessed),)
        self.played = self.violations = 0

    def one(
        self, work: Work[Outcome], each: float, policy: AllocationPolicy, memory: Memory, **how: bool
    ) -> Any:
        cap = round(each * len(work.calls))
        played = play(work, cap, policy, memory, **how)
        self.played += 1
        self.violations += played.metered > cap
        return self.scores(played)

    def scores(self, played: Played) -> tuple[float, float]:
        """The success of a task, and the share of its calls that are right."""
        share = statistics.fmean(played.right)
        return share if self.objective == "each" else float(all(played.right)), share

    def tuned(self, candidates: Sequence[AllocationPolicy], each: float) -> AllocationPolicy:
        """The candidate with the most whole tasks, then right calls, on the tuning tasks."""
        if len(candidates) == 1:
            return candidates[0]

        def worth(policy: AllocationPolicy) -> tuple[float, float]:
            memory = Memory.of(self.curves)
            found = [self.one(work, each, policy, memory) for work in self.practice]
            return math.fsum(whole for whole, _ in found), math.fsum(share for _, share in found)

        return max(candidates, key=worth)

    def baseline(self, name: str) -> Row:
        """A policy that is tuned per cap."""
        row = Row(name)
        for each in self.caps:
            policy, memory = self.tuned(self.candidates[name], each), Memory.of(self.curves)
            found = [self.one(work, each, policy, memory) for work in self.work]
            row.success.append([whole for whole, _ in found])
            row.share.append([share for _, share in found])
            row.tuned.append(repr(policy))
        return row

    def plain(self) -> Row:
        """One `max_tokens` for every call, tuned per cap, and no scheduler."""
        row = Row("max_tokens")
        for each in self.caps:
            most = max(
                range(32, 513, 16),
                key=lambda most, each=each: math.fsum(  # type: ignore[misc]
                    self.scores(play_plain(work, round(each * len(work.calls)), most))[0]
                    for work in self.practice
                ),
            )
            found = [self.scores(play_plain(work, round(each * len(work.calls)), most)) for work in self.work]
            row.success.append([whole for whole, _ in found])
            row.share.append([share for _, share in found])
            row.tuned.append(str(most))
        return row

    def default(self, name: str, memory: Memory, **how: bool) -> Row:
        """The default policy on one stream of all tasks and caps, in mixed order."""
        policy = Marginal(objective=self.objective)
        row = Row(
            name, [[0.0] * len(self.work) for _ in self.caps], [[0.0] * len(self.work) for _ in self.caps]
        )
        stream = [(c, i) for c in range(len(self.caps)) for i in range(len(self.work))]
        random.Random(3).shuffle(stream)
        for c, i in stream:
            row.success[c][i], row.share[c][i] = self.one(self.work[i], self.caps[c], policy, memory, **how)
        return row

    def thrift(self, policies: Mapping[str, AllocationPolicy]) -> dict[str, dict[str, Any]]:
        """Of each policy: what is kept at half the spend, and how much it holds for what it uses."""
        kept, held = {}, {}
        halves = [round(sum(map(_whole, work.calls)) / 2) for work in self.work]
        full = [statistics.fmean(call.right[-1] for call in work.calls) for work in self.work]
        for name, policy in policies.items():
            memory = Memory.of(self.curves)
            half = [
                statistics.fmean(play(work, cap, policy, memory).right)
                for work, cap in zip(self.work, halves, strict=True)
            ]
            low, high = interval(len(half), lambda picked, half=half: _sum(half, picked) / _sum(full, picked))
            kept[name] = [round(sum(half) / sum(full), 4), low, high]
            middle = self.caps[len(self.caps) // 2]
            played = [play(w, round(middle * len(w.calls)), policy, memory) for w in self.work]
            held[name] = round(sum(one.held for one in played) / sum(one.metered for one in played), 3)
        return {"half_spend": kept, "over_reservation": held}

    def bounds(self) -> list[Row]:
        """The clairvoyant and the informed; the share of the first is the LP bound on right calls."""
        clairvoyant, informed = Row("clairvoyant"), Row("informed")
        best = Informed(table_of(self.pool), self.pool[0].sizes.close, self.objective)
        best.worth((), round(max(self.caps) * 9))  # so that one table serves all caps
        for each in self.caps:
            whole, lp, reached = [], [], []
            for work in self.work:
                cap = round(each * len(work.calls))
                costs = [call.cheapest for call in work.calls]
                known = [cost for cost in costs if cost is not None]
                whole.append(float(len(known) == len(costs) and sum(known) <= cap))
                lp.append(lp_bound([(Option(0, 0.0), Option(cost, 1.0)) for cost in known], cap) / len(costs))
                reached.append(best.worth([call.kind for call in work.calls], cap))
            clairvoyant.success.append(lp if self.objective == "each" else whole)
            clairvoyant.share.append(lp)
            informed.success.append(reached)
        return [clairvoyant, informed]


def interval(count: int, of: Callable[[list[int]], float], draws: int = 400) -> tuple[float, float]:
    """95% bootstrap interval over tasks; the same tasks are drawn for all rows that `of` looks at."""
    rng = random.Random(0)
    found = sorted(of(rng.choices(range(count), k=count)) for _ in range(draws))
    return round(found[int(0.025 * draws)], 4), round(found[int(0.975 * draws) - 1], 4)


def _sum(values: Sequence[float], picked: Sequence[int]) -> float:
    return math.fsum(values[i] for i in picked)


def _whole(call: Outcome) -> int:
    """What a call uses without any cap."""
    return call.thinking + call.sizes.close + call.solution[-1]


def replay(
    outcomes: Path | None, tasks: int, tuning: int, steps: Sequence[float], objective: Objective = "chain"
) -> dict[str, Any]:
    """All policies and bounds."""
    bench = Bench(outcomes, tasks, tuning, steps, objective)
    rows: dict[str, Row] = {"max_tokens": bench.plain()}
    for name in bench.candidates:
        rows[name] = bench.baseline(name)
        print(f"{name:30} {rows[name].auc():.4f}", flush=True)
    rows[GIVEN] = bench.default(GIVEN, Memory.of(bench.curves))
    rows[SILENT] = bench.default(SILENT, Memory.of(bench.curves), declare=False)
    rows[KNOWN] = bench.default(KNOWN, Memory.of(bench.curves), declare=False, agents=True)
    rows[LEARNT] = bench.default(LEARNT, Memory.of(LearntCurves(bench.model)))
    rows[QUIET] = bench.default(QUIET, Memory.of(LearntCurves(bench.model), feedback=False))
    rows |= {row.name: row for row in bench.bounds()}
    for name in (GIVEN, SILENT, KNOWN, LEARNT, QUIET, "informed", "clairvoyant"):
        print(f"{name:30} {rows[name].auc():.4f}", flush=True)

    def ratio(a: str, b: str) -> list[float]:
        low, high = interval(tasks, lambda picked: rows[a].auc(picked) / max(1e-9, rows[b].auc(picked)))
        return [round(rows[a].auc() / max(1e-9, rows[b].auc()), 4), low, high]

    def regret(name: str) -> list[float]:
        low, high = interval(tasks, lambda picked: rows["informed"].auc(picked) - rows[name].auc(picked))
        return [round(rows["informed"].auc() - rows[name].auc(), 4), low, high]

    middle = len(bench.caps) // 2
    compared = {name: bench.tuned(found, bench.caps[middle]) for name, found in bench.candidates.items()}
    thrift = bench.thrift({GIVEN: Marginal(objective=objective), **compared})
    behind = []
    for c, each in enumerate(bench.caps):
        less = [a - b for a, b in zip(rows[GIVEN].success[c], rows["uniform"].success[c], strict=True)]
        _, high = interval(tasks, lambda picked, less=less: statistics.fmean(less[i] for i in picked))
        if high < 0:
            behind.append(round(each, 1))
    return {
        "auc": {name: round(row.auc(), 4) for name, row in rows.items()},
        "oracle_auc": round(rows["clairvoyant"].auc(), 4),
        "informed_auc": round(rows["informed"].auc(), 4),
        "best_fixed_auc": round(rows["fixed"].auc(), 4),
        "default_auc": round(rows[GIVEN].auc(), 4),
        "learnt_auc": round(rows[LEARNT].auc(), 4),
        "learnt_quiet_auc": round(rows[QUIET].auc(), 4),
        "over_fixed": ratio(GIVEN, "fixed"),
        "over_max_tokens": ratio(GIVEN, "max_tokens"),
        "of_informed": ratio(GIVEN, "informed"),
        "learnt_of_informed": ratio(LEARNT, "informed"),
        "of_oracle": ratio(GIVEN, "clairvoyant"),
        "behind_uniform": behind,
        "over": {name: ratio(GIVEN, name) for name in bench.candidates},
        "regret": {name: regret(name) for name in (GIVEN, LEARNT, *bench.candidates)},
        **thrift,
        "violations": bench.violations,
        "tasks": bench.played,
        "curves": {name: points(row, bench.caps) for name, row in rows.items()},
        "tuned": {name: row.tuned for name, row in rows.items() if len(set(row.tuned)) > 1},
    }


def points(row: Row, caps: Sequence[float]) -> list[list[float]]:
    """(cap a call, success, low, high, share of right calls if known)."""
    found = []
    for c, each in enumerate(caps):
        values = row.success[c]
        low, high = interval(
            len(values), lambda picked, v=values: statistics.fmean(v[i] for i in picked), 200
        )
        share = round(statistics.fmean(row.share[c]), 4) if row.share else None
        found.append([round(each, 1), round(statistics.fmean(values), 4), low, high, share])
    return found


def table(result: dict[str, Any]) -> str:
    """Markdown: success by policy and cap."""
    curves = result["curves"]
    caps = [point[0] for point in next(iter(curves.values()))]
    lines = [
        "| policy | AUC | " + " | ".join(f"{cap:.0f}" for cap in caps) + " |",
        "| --- " * (len(caps) + 2) + "|",
    ]
    for name, auc in sorted(result["auc"].items(), key=lambda item: item[1]):
        lines.append(
            f"| {name} | {auc:.3f} | " + " | ".join(f"{point[1]:.2f}" for point in curves[name]) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer tasks and caps; under a minute")
    parser.add_argument("--live", action="store_true", help="on e1-tiny itself, at three caps")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--outcomes", type=Path, metavar="FILE", help="of another model than e1-tiny")
    parser.add_argument(
        "--objective", choices=("chain", "each"), default="chain", help="all calls right, or how many (chain)"
    )
    parser.add_argument("--tasks", type=int, help="tasks a policy and cap (400; quick: 24; live: 24)")
    parser.add_argument("--write", action="store_true", help="docs/*.svg and benchmarks/data/*.json")
    args = parser.parse_args()
    if args.live:
        from benchmarks._live import live

        result = live(args.tasks or 24)
    elif args.quick:
        result = replay(args.outcomes, args.tasks or 24, 8, STEPS[2:8:2], args.objective)
    else:
        result = replay(args.outcomes, args.tasks or 400, 120, STEPS, args.objective)
    print(table(result))
    for name in ("over_fixed", "over_max_tokens", "of_informed", "learnt_of_informed", "of_oracle"):
        if name in result:
            value, low, high = result[name]
            print(f"{name}: {value:.3f} ({low:.3f} to {high:.3f})")
    print(f"{result['violations']} caps broken in {result['tasks']} tasks")
    if args.write:
        name, here = "allocation-live" if args.live else "allocation", Path(__file__).parent
        name += "" if args.outcomes is None else f"-{args.outcomes.parent.name}"
        here.joinpath("data", f"{name}.json").write_text(json.dumps(result) + "\n")
        if not args.live:  # a few tasks at three caps: no picture
            here.parent.joinpath("docs", f"{name}.svg").write_text(picture(result["curves"], args.objective))
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
