"""`elastic-agent bench`: whether a recorded run replays, and its regret against hindsight."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .options import Commands

DESCRIPTION = """\
Feed a run.jsonl to a fresh scheduler: every decision must come out the same, byte
for byte. Exit status 0: all identical; 1: not, with the first line that differs.

Then, for each task with a cap on tokens or money, its regret: what was granted
against the best split of the same cap by a hindsight that knows which calls came
and what their solutions really used.

  all right   the chance that all calls are right (sum of log p), as granted;
              beside it that of the best split, and the difference: the regret
  right       how many calls are right, expected; beside it the most possible
  judged      answers that were correct, of those that got call.feedback(correct=)

Both are valued by the success curves that the scheduler had. Whether these are
true is another question, and hindsight does not know which answers would be right.
Regret is below zero where calls used less than they do on average.
"""


def add_command(commands: Commands) -> None:
    """Add the command and its options."""
    bench = commands.add_parser(
        "bench",
        help="whether a recorded run replays, and its regret against hindsight",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    bench.add_argument(
        "--replay", metavar="FILE", required=True, help="a run.jsonl, as BudgetScheduler(log=) writes it"
    )
    bench.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    bench.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replay the run and print its regret; 0 where all decisions are identical, else 1.

    Raises:
        ReplayError: the run can't be replayed.
    """
    from rich.console import Console

    from elastic_agent.scheduler.analysis.regret import regrets
    from elastic_agent.scheduler.analysis.replay import replay

    from ..report.replay_table import as_dict, render_check

    found = replay(options.replay)
    tasks = regrets(found)
    if options.json:
        print(json.dumps(as_dict(found, tasks)))
    else:
        Console().print(render_check(options.replay, found, tasks))
    return 0 if found.difference is None else 1
