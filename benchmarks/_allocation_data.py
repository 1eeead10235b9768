"""Measured outcomes of a model: each problem at each thinking limit, the data of `benchmarks/allocation.py`.

    python benchmarks/_allocation_data.py [--problems 130] [--samples 1] [--output FILE]
    python benchmarks/_allocation_data.py --recipe e1-gym-135m --model FOLDER --problems 300 --output FILE

A sample thinks once, uncut, and its thinking is cut at every t of the grid; each cut is answered anew, as a
live call with that budget would answer (the same two-phase machine closes it and counts). A cut beyond the
natural end of the thinking is the uncut one. So outcomes at different t belong together, as they do in life,
and a sample costs one thinking instead of twenty. Problems are of the test split: neither the model nor its
shipped curves (dev split) have seen them. Without --recipe they are word problems for e1-tiny, s=96; with it,
those of the recipe's families, s=32. Sampling is at T=0.6, top_p=0.95.

With --guesses the model is only asked how much thinking each family needs, and its numbers are written: what
a rule knows that lets a model guess its own curves.

What is done is written every 128 samples; stopped, the same command goes on where it was.

One row a sample: kind, problem, sample, prompt (tokens), thinking (natural length), right (0 or 1 a t),
solution (tokens a t). In the header stand the tokens of the close behind `thinking`, the grid behind `right`,
and the limit on the solution behind `solution`.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import io
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from elastic_agent import Budget, load_backend
from elastic_agent.backends.base import Codec, Sampling
from elastic_agent.generation.call import Call
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.training.data.gym import Origin, gym_problems
from elastic_agent.training.data.word_problems import DIFFICULTIES, make_problems
from elastic_agent.training.recipes.recipe import read_recipe
from elastic_agent.training.rewards.gym import solves
from elastic_agent.training.rewards.word_problems import solution_reward

SEED = 4100
OUTPUT = Path(__file__).with_name("data") / "e1-tiny.csv.gz"


@dataclass(frozen=True)
class Limits:
    """Where thinking is cut, how long it may be at most, and the limit on the solution."""

    grid: tuple[int, ...]
    uncut: int
    solution: int

    def header(self, close: int) -> list[str]:
        cuts = " ".join(map(str, (*self.grid, self.uncut)))
        limits = (f"thinking:{close}", f"right:{cuts}", f"solution:{self.solution}")
        return ["kind", "problem", "sample", "prompt", *limits]


TINY = Limits(
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 112, 128, 144, 160, 192, 224, 256, 320, 384), 512, 96
)
GYM = Limits((0, 16, 32, 48, 64, 96, 128), 256, 32)


@dataclass(frozen=True)
class Problem:
    """A question of a kind, and who says whether a finished solution of it is right."""

    kind: str
    index: int
    question: str
    right: Callable[[str], bool]
    seed: int


@dataclass
class Sample:
    """One thinking, and what its cuts led to: (right, solution tokens) by t."""

    problem: Problem
    number: int
    prompt: tuple[int, ...]
    seed: int
    thought: tuple[int, ...] = ()
    closed: bool = False
    length: int = 0
    found: dict[int, tuple[int, int]] = field(default_factory=dict)


def word_problems(count: int) -> Iterator[Problem]:
    """`count` word problems of each kind."""
    for lines in DIFFICULTIES:
        for index, one in enumerate(make_problems(SEED, count, split="test", steps=lines)):
            right = partial(_solves, answer=one.answer)
            yield Problem(one.kind, index, one.text, right, lines * 10_000 + index)


def _solves(solution: str, answer: int) -> bool:
    return solution_reward(solution, True, answer) == 1.0


def gym(recipe: str, count: int) -> Iterator[Problem]:
    """`count` problems of each family of a recipe."""
    families = read_recipe(recipe).families
    for number, one in enumerate(gym_problems(families, count, split="test")):
        family, index = number % len(families), number // len(families)
        right = partial(solves, origin=Origin(**one.meta["origin"]))
        yield Problem(one.meta["kind"], index, one.question, right, family * 10_000 + index)


def machine_at(sample: Sample, t: int, codec: Codec, solution: int) -> TwoPhase:
    """The machine of a call with this limit, before its solution."""
    markers = codec.markers
    machine = TwoPhase(sample.prompt, Budget(t, solution), markers, markers.opening(sample.prompt))
    if machine.phase is not Phase.CLOSING:
        machine.next_pass()
        machine.feed(sample.thought[: t + len(markers.close_ids)])
        machine.cut(ThinkingEnd.END_OF_TEXT)
    if machine.phase is Phase.CLOSING:
        machine.close()
    return machine


def measure(module: Any, codec: Codec, samples: list[Sample], rows: int, limits: Limits) -> None:
    """Think, cut, answer: all in one batch that is never empty."""
    from elastic_agent.backends.transformers.decode import BatchDecoder

    decoder = BatchDecoder(module, max_rows=rows)
    live: dict[int, tuple[Sample, int | None, TwoPhase]] = {}
    queue: list[tuple[Sample, int | None]] = [(sample, None) for sample in reversed(samples)]
    answers = 0
    started = time.monotonic()

    def begin(sample: Sample, t: int | None) -> None:
        sampling = Sampling(seed=sample.seed * 1000 + (999 if t is None else t))
        if t is None:
            markers = codec.markers
            machine = TwoPhase(
                sample.prompt, Budget(limits.uncut, limits.solution), markers, markers.opening(sample.prompt)
            )
        else:
            machine = machine_at(sample, t, codec, limits.solution)
        live[decoder.add(machine.next_pass(sampling))] = (sample, t, machine)

    while live or queue:
        while queue and len(live) < rows:
            begin(*queue.pop())
        for sampled in decoder.step():
            entry = live.get(sampled.key)
            if entry is None:
                continue
            sample, t, machine = entry
            machine.feed((sampled.token,))
            if t is None:
                sample.thought += (sampled.token,)
            if not machine.pass_over and sampled.finish is not None:
                machine.pass_ended(sampled.finish)
            if not machine.pass_over:
                continue
            decoder.cancel(sampled.key)
            del live[sampled.key]
            if t is None:
                sample.length = machine.usage.thinking
                shorter = [cut for cut in limits.grid if cut < sample.length]
                queue += [(sample, cut) for cut in (*shorter, limits.uncut)]
            else:
                said = codec.decode(machine.solution_text_ids)
                right = machine.solution_end is SolutionEnd.EOS and sample.problem.right(said)
                sample.found[t] = (int(right), machine.usage.solution)
                answers += 1
                if answers % 1000 == 0:
                    print(
                        f"{answers} answers, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
                    )


Key = tuple[str, int, int]
"""Kind, problem, sample."""


def read(path: Path, header: list[str]) -> dict[Key, list[str]]:
    """Rows that were measured before; none where there is no such file.

    Raises:
        SystemExit: it is of another grid.
    """
    if not path.exists():
        return {}
    found, *rows = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))
    if found != header:
        raise SystemExit(f"{path} was measured at other limits: move it away, or give another --output")
    return {(row[0], int(row[1]), int(row[2])): row for row in rows}


def row_of(sample: Sample, limits: Limits) -> list[str]:
    cells = [sample.found.get(t, sample.found[limits.uncut]) for t in (*limits.grid, limits.uncut)]
    return [
        sample.problem.kind,
        str(sample.problem.index),
        str(sample.number),
        str(len(sample.prompt)),
        str(sample.length),
        "".join(str(right) for right, _ in cells),
        " ".join(str(tokens) for _, tokens in cells),
    ]


def write(rows: dict[Key, list[str]], path: Path, header: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *(rows[key] for key in sorted(rows))])
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    # No time of day in it: the same measurement is the same file
    draft.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    draft.replace(path)


GUESS = "How many words of thinking do you need to answer this question? Say only a number."


async def guesses(backend: Any, recipe: str, asked: int) -> dict[str, float]:
    """By family, the median of the numbers that the model names for questions of the dev split."""
    families = read_recipe(recipe).families
    found: dict[str, list[float]] = {}
    for one in gym_problems(families, asked, split="dev"):
        said = ""
        call = Call(backend, [{"role": "user", "content": f"{one.question}\n\n{GUESS}"}], Budget(0, 24))
        async for event in call:
            said += getattr(event, "text", "")
        if number := re.search(r"\d{1,4}", said):
            found.setdefault(one.meta["kind"], []).append(max(1.0, float(number.group())))
    return {kind: statistics.median(numbers) for kind, numbers in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="e1-tiny")
    parser.add_argument("--recipe", help="measure on its families instead of word problems")
    parser.add_argument("--guesses", action="store_true", help="of a recipe: ask for guesses alone")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--problems", type=int, default=130, help="problems of each kind (130)")
    parser.add_argument("--samples", type=int, default=1, help="samples of each problem (1)")
    parser.add_argument("--rows", type=int, default=128, help="most rows of a batch (128)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    limits = GYM if args.recipe else TINY
    problems = gym(args.recipe, args.problems) if args.recipe else word_problems(args.problems)
    backend: Any = load_backend(args.model)
    if args.guesses:
        found = asyncio.run(guesses(backend, args.recipe, args.problems))
        args.output.write_text(json.dumps(found) + "\n", encoding="utf-8")
        return
    header = limits.header(len(backend.codec.markers.close_ids))
    rows = read(args.output, header)
    todo = []
    for one in problems:
        prompt = tuple(backend.codec.encode_chat([{"role": "user", "content": one.question}]))
        for number in range(args.samples):
            if (one.kind, one.index, number) not in rows:
                todo.append(Sample(one, number, prompt, one.seed * 10 + number))
    for first in range(0, len(todo), args.rows):
        batch = todo[first : first + args.rows]
        measure(backend.module, backend.codec, batch, args.rows, limits)
        rows |= {(each.problem.kind, each.problem.index, each.number): row_of(each, limits) for each in batch}
        write(rows, args.output, header)
        print(f"{len(rows)} samples in {args.output}, {args.output.stat().st_size:,} bytes", flush=True)


if __name__ == "__main__":
    main()
