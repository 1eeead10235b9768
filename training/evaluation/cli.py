"""`elastic-agent eval`: options in, engines drawn from, results and pictures out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Sampling
from elastic_agent.cli_arguments import given_markers
from elastic_agent.errors import BackendError
from elastic_agent.generation.wrap_up import wrap_up_of
from elastic_agent.model_location import model_path

from ..data.files import READERS
from ..data.gym import GYM
from ..data.rows import OWN_FILE
from ..plots.accuracy import plot
from ..rewards.codeforces import read_ratings
from .grid import Grid, GridError, check, run, weights_of
from .options import load_served, make_parser
from .progress import Progress
from .reports.inspector import inspector
from .reports.ratings import rate_cells, rating_report, rating_table
from .reports.stats import curves_of, summarize
from .reports.tables import paper_table, report
from .results import Record, Results
from .runners.engines import Engine
from .runners.in_process import InProcess
from .runners.served import Served
from .strategies.strategies import make_strategy
from .suites import Suite, gym_suite, set_suite, word_problem_suite


def main(argv: Sequence[str] | None = None) -> int:
    """Run `elastic-agent eval`; returns its exit status.

    Raises:
        ElasticError, ValueError, OSError: bad input; nothing has been spent.
        BackendError: the upstream is lost; what was drawn is kept.
    """
    given = {text.split("=")[0] for text in (sys.argv[1:] if argv is None else argv)}
    if given & {"--agent", "--caps"}:
        from .agents.cli import main as evaluate_agent

        return evaluate_agent(argv)
    options = make_parser(argv is not None).parse_args(argv)
    names, pairs = _models(options)
    suite = _suite(options)
    grid = Grid(
        suite,
        [make_strategy(text) for text in options.strategy or ("elastic",)],
        options.thinking,
        options.solution,
        options.samples,
        Sampling(temperature=options.temperature, top_p=options.top_p),
        options.seed,
    )
    views = _views(options, names, grid) if options.inspect else None
    if options.curves and (len(names) != 1 or len(grid.solution) != 1 or "elastic" not in _labels(grid)):
        raise GridError("--curves needs one --model, one --solution, and the strategy elastic")
    output: Path = options.output
    people = read_ratings(options.people) if options.people else []
    with closing(suite.grader), Results(output / "results.jsonl", grid.header()) as results:
        if results.dropped:
            print(f"{results.path}: dropped a torn last line", file=sys.stderr)
        _draw(options, grid, results, names, pairs)
        records = list(results.records.values())
    rows = [*names, *(f"{a}>{b}" for a, b in pairs)]
    cells = summarize(records, models=rows, strategies=_labels(grid))
    rated = rate_cells(records, cells, {i.id: i.rating for i in suite.items if i.rating is not None}, people)
    page = report(cells, title=suite.name) + (rating_report(rated) if rated else "")
    (output / "table.md").write_text(page, encoding="utf-8")
    (output / "plot.svg").write_text(plot(cells, title=f"{suite.name}: accuracy by tokens"), encoding="utf-8")
    print(paper_table(cells))
    if rated:
        print(f"\nCodeforces rating\n\n{rating_table(rated)}")
    written = [results.path, output / "table.md", output / "plot.svg"]
    if options.curves:
        found = curves_of(
            records, model=names[0], name=Path(names[0]).name, split=suite.name, command=_command(argv)
        )
        options.curves.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        written.append(options.curves)
    if views:
        page = inspector(records, {item.id: item.prompt for item in suite.items}, **views)
        options.inspect.write_text(page, encoding="utf-8")
        written.append(options.inspect)
    print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    if options.json:
        found = {"cells": [cell.as_json() for cell in cells], "ratings": [one.as_json() for one in rated]}
        print(json.dumps(found))
    return 0


def _draw(
    options: argparse.Namespace,
    grid: Grid,
    results: Results,
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Load and check the models whose samples are missing, then draw these samples."""
    rows = [*((name,) for name in names), *pairs]
    there = [sum(key in results.records for key, _, _ in grid.keys(">".join(parts))) for parts in rows]
    for part in dict.fromkeys(part for parts in rows for part in parts):
        if not options.base_url and Path(model_path(part)).is_dir():
            results.note_model(part, weights_of(model_path(part)))
    load = cache(partial(_engine, options))
    engines: list[Any] = []
    for parts, drawn in zip(rows, there, strict=True):
        if drawn < len(grid):
            first, *others = map(load, parts)
            engines.append(first.swapped(others[0]) if others else first)
    for engine in engines:
        engine.ready()
        check(grid, engine)
        if None in grid.thinking:
            print(
                f"t=none on {engine.name}: thinking may fill the context of {engine.context_length} tokens, "
                f"and a model that does not stop by itself will",
                file=sys.stderr,
            )
    progress = Progress(len(rows) * len(grid), sum(there))
    failed: list[Record] = []

    def done(record: Record) -> None:
        progress.one(record.right)
        if record.error:
            failed.append(record)

    try:
        for engine in engines:
            run(grid, engine, results, done)
    except (BackendError, KeyboardInterrupt):
        progress.end()
        print(
            f"stopped: {len(results.records)} samples are kept in {results.path}; the same command goes on",
            file=sys.stderr,
        )
        raise
    progress.end()
    if failed:
        print(
            f"the grader failed on {len(failed)} samples, counted as wrong; the first: {failed[0].error}",
            file=sys.stderr,
        )


def _engine(options: argparse.Namespace, name: str) -> Engine:
    if not options.base_url:
        import torch

        torch.set_num_threads(options.threads)
        return InProcess.load(name, rows=options.rows, markers=given_markers(options))
    return Served(load_served(options, name), concurrency=options.concurrency)


def _models(options: argparse.Namespace) -> tuple[list[str], list[tuple[str, str]]]:
    """Models, and pairs that are swapped, both ways."""
    names = list(dict.fromkeys(name.rstrip("/") for name in options.model))
    a, b = (name.rstrip("/") for name in options.swap or ("", ""))
    if not names and not options.swap:
        raise GridError("name a model: --model NAME, or --swap A B")
    if any(">" in name for name in (*names, a, b)):
        raise GridError("a model's name can't hold '>': it marks a swap")
    if options.swap and a == b:
        raise GridError("--swap needs two different models")
    return names, [(a, b), (b, a)] if options.swap else []


def _suite(options: argparse.Namespace) -> Suite:
    """The problems, with the words that strategies use."""
    suite = _problems(options)
    if options.wrap_up is None:
        return suite
    wrap_up_of(options.wrap_up)
    return replace(suite, cues=replace(suite.cues, wrap_up=options.wrap_up))


def _problems(options: argparse.Namespace) -> Suite:
    name, path = options.data, options.path
    if name == "word-problems":
        for given in ("grader", "path", "instruction"):
            if getattr(options, given) is not None:
                raise GridError(f"--{given} goes with --data; word problems have their own")
        count = 504 if options.problems is None else options.problems
        return word_problem_suite(options.split or "dev", count, each_kind=options.curves is not None)
    families = dict(options.family)
    if bool(families) != (name == GYM) or len(families) < len(options.family):
        raise GridError("--data gym and --family go together: --data gym --family chain_sum, each once")
    if families:
        for given in ("grader", "path"):
            if getattr(options, given) is not None:
                raise GridError(f"--{given} goes with other data: reasoning-gym grades by itself")
        return gym_suite(
            families, options.problems or 300, split=options.split or "test", instruction=options.instruction
        )
    if path is None and Path(name).suffix.lower() in READERS:
        name, path = OWN_FILE, Path(name)
    return set_suite(
        name,
        path=path,
        split=options.split,
        count=options.problems,
        instruction=options.instruction,
        grader=options.grader,
        log=lambda line: print(line, file=sys.stderr),
    )


def _views(options: argparse.Namespace, names: Sequence[str], grid: Grid) -> dict[str, Any]:
    """What the inspector compares: the first two models, at a budget that cuts and at the largest."""
    finite = sorted(t for t in grid.thinking if t)
    uncut = None if None in grid.thinking else (finite or [0])[-1]
    cuts = [t for t in finite if t != uncut]
    cut = options.inspect_at
    if cut is None and cuts:
        cut = cuts[len(cuts) // 2]
    if len(names) < 2 or cut is None or cut not in grid.thinking or cut == uncut or len(grid.solution) > 1:
        raise GridError(
            "--inspect compares two --model (before, after) at one --solution and two --thinking budgets: a "
            "cut one (--inspect-at), and none or the largest"
        )
    strategy = "elastic" if "elastic" in _labels(grid) else grid.strategies[0].label
    return {"before": names[0], "after": names[1], "cut": cut, "uncut": uncut, "strategy": strategy}


def _labels(grid: Grid) -> list[str]:
    return [strategy.label for strategy in grid.strategies]


def _command(argv: Sequence[str] | None) -> str:
    return " ".join(["elastic-agent", "eval", *(sys.argv[1:] if argv is None else argv)])
