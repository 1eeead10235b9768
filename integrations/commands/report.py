"""`elastic-agent report`: what a recorded run spent, and why."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .options import Commands


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    report = commands.add_parser(
        "report",
        help="what a recorded run spent, and why",
        description="Read a run.jsonl and print every call: granted, used, charged, and why; with sums by "
        "task, kind and agent, and what is left of each cap.",
    )
    report.add_argument("file", help="a run.jsonl")
    report.add_argument("--why", action="store_true", help="with the reason of each grant")
    how = report.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object instead of the tables")
    how.add_argument(
        "--html",
        metavar="FILE",
        help="write a page instead: calls over time, each decision, and what hindsight would have done",
    )
    report.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report, or write it.

    Raises:
        RunLogError: the file can't be read as a run log.
        ValueError: the page can't be written.
    """
    from ..report.run_file import read_run
    from ..report.run_model import run_of

    events, cut = read_run(options.file)
    if cut:
        print(f"{options.file}: the last line was cut short and is left out", file=sys.stderr)
    found = run_of(events)
    if options.json:
        from ..report.run_json import as_dict

        print(json.dumps(as_dict(found)))
    elif options.html is not None:
        from elastic_agent.credentials import make_private

        from ..report.run_page import run_page

        page = run_page(Path(options.file).name, found, _check(options.file))
        try:
            make_private(Path(options.html))  # the page has the names that the log has
            Path(options.html).write_text(page, encoding="utf-8")
        except OSError as error:
            raise ValueError(f"can't write {options.html}: {error.strerror or error}") from error
        print(f"wrote {options.html}: open it in a browser")
    else:
        from rich.console import Console

        from ..report.run_table import render_run

        Console().print(render_run(options.file, found, why=options.why))
    return 0


def _check(path: str) -> dict[str, Any]:
    """Whether the run replays, and its regret; `error` says why nobody knows."""
    from elastic_agent.scheduler.analysis.regret import regrets
    from elastic_agent.scheduler.analysis.replay import ReplayError, replay

    from ..report.replay_table import as_dict

    try:
        found = replay(path)
        return as_dict(found, regrets(found))
    except ReplayError as error:
        return {"error": f"The log can't be replayed: {error}"}
