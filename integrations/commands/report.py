"""`elastic-agent report`: what a recorded run spent, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Commands


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    report = commands.add_parser(
        "report",
        help="what a recorded run spent, and why",
        description="Read a run.jsonl and print every call: granted, used, refunded, and why.",
    )
    report.add_argument("file", help="a run.jsonl")
    report.add_argument("--why", action="store_true", help="with the reason of each grant")
    report.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from rich.console import Console

    from ..report.run_table import render_run

    Console().print(render_run(options.file, why=options.why))
    return 0
