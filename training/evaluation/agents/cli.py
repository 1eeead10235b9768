"""`elastic-agent eval --agent`: options in, tables and files out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.backends.load import load_backend
from elastic_agent.cli_arguments import given_markers
from elastic_agent.errors import DataError, UsageError

from ...agents.agent import AgentRun, make_agent
from ...agents.command import caps_text
from ...agents.episode import Episode
from ...config.loading import build, override, read_layers
from ...data.files import read_rows
from ..options import load_served
from .evaluate import evaluate
from .options import make_agent_parser
from .summary import curves_of, line_of, summarize, table


def main(argv: Sequence[str] | None = None) -> int:
    """Run `elastic-agent eval --agent`; returns its exit status.

    Raises:
        ElasticError, ValueError, OSError: bad input; nothing has been spent.
        BackendError: the upstream is lost; the caps that were done are kept.
    """
    options = make_agent_parser(argv is not None).parse_args(argv)
    agent = _agent(options)
    rows = [dict(row) for _, row in islice(read_rows(options.data), options.rows)]
    if not rows:
        raise DataError(f"{options.data} holds no rows")
    backend, output = _backend(options), options.output
    output.mkdir(parents=True, exist_ok=True)
    sampling = Sampling(temperature=options.temperature, top_p=options.top_p)
    summaries, found = [], []
    with (output / "results.jsonl").open("w", encoding="utf-8") as results:
        for caps in options.caps:
            print(f"{caps_text(caps)}: {len(rows) * options.samples} episodes", file=sys.stderr)
            episodes = evaluate(
                agent, backend, rows, caps, sampling=sampling, samples=options.samples, seed=options.seed
            )
            for episode in episodes:
                results.write(json.dumps(line_of(caps, episode)) + "\n")
            results.flush()
            _tell(episodes)
            summaries.append(summarize(caps, episodes))
            found += episodes
    print(table(summaries))
    page: dict[str, Any] = {"rows": [row.as_json() for row in summaries]}
    (output / "table.json").write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    written = [output / "results.jsonl", output / "table.json"]
    if options.curves:
        command = " ".join(["elastic-agent", "eval", *(sys.argv[1:] if argv is None else argv)])
        curves = curves_of(found, name=Path(options.model).name, split=options.data.name, command=command)
        options.curves.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
        written.append(options.curves)
    print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    if options.json:
        print(json.dumps(page))
    return 0


def _tell(episodes: Sequence[Episode]) -> None:
    """Say on standard error what went wrong, by row."""
    failed = [episode for episode in episodes if episode.failed]
    for episode in failed[:3]:
        print(f"row {episode.spec.number}: {episode.failure}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(episodes)} episodes failed, and are in no mean", file=sys.stderr)
    notes = {note: episode.spec.number for episode in reversed(episodes) for note in episode.notes}
    for note, number in notes.items():
        print(f"row {number}: {note}", file=sys.stderr)


def _agent(options: argparse.Namespace) -> AgentRun:
    """The agent of --agent, or of the config."""
    tree: dict[str, Any] = read_layers(options.config) if options.config else {}
    section = dict(tree.get("agent") or {})
    if options.agent is not None:
        section = {**{k: v for k, v in section.items() if k not in ("run", "command")}, "run": options.agent}
    if not section.get("run") and not section.get("command"):
        raise UsageError("which agent? --agent module:name, or --config with an agent section")
    section.setdefault("caps", {"tokens": 1})  # of training; here --caps says them
    if any(caps.usd is not None for caps in options.caps) and not _priced(section, options.set):
        raise UsageError("caps in usd need a price: --set price='{input: 0.15, output: 0.6}' (per million)")
    given = {"base": "e1-tiny", "output": "eval", "steps": 1, "agent": section}
    config = build(override(given, [f"agent.{assignment}" for assignment in options.set])).agent
    assert config is not None
    return make_agent(config)


def _priced(section: dict[str, Any], assignments: Sequence[str]) -> bool:
    return section.get("price") is not None or any(text.startswith("price") for text in assignments)


def _backend(options: argparse.Namespace) -> Backend:
    if options.base_url:
        return load_served(options, options.model)
    import torch

    torch.set_num_threads(options.threads)
    return load_backend(options.model, markers=given_markers(options), threads=options.threads)
