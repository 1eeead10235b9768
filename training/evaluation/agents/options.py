"""The options of `elastic-agent eval --agent`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from elastic_agent.budget import Caps
from elastic_agent.cli_arguments import COUNT, Parser
from elastic_agent.errors import InvalidValueError
from elastic_agent.validation import argument, integer, real

from ..options import add_model_options

DESCRIPTION = """\
An agent's success by caps: each row of the data is an episode, a task with the cap, in which the agent runs
as it does in production.

    elastic-agent eval --model ./e1-shop --agent shop:agent --data test.jsonl --caps tokens=500,1000,2000
    elastic-agent eval --model NAME --base-url http://localhost:8000/v1 --config e1-shop/config.yaml \\
        --data test.jsonl --caps usd=0.001,0.01

Every episode is a line of OUTPUT/results.jsonl; table.json has the numbers by cap. The agent's other settings
(scheduler, price, tell, llm, seconds, concurrency) come from the `agent` section of --config, or --set.
"""


def parse_cap_list(text: str) -> tuple[Caps, ...]:
    """Read "tokens=500,1000": the values of one unit.

    Raises:
        InvalidValueError, InvalidCapsError: something else.
    """
    unit, equals, values = text.partition("=")
    if not equals or unit not in ("tokens", "usd", "seconds"):
        raise InvalidValueError(f"expected caps of one unit, like tokens=500,1000,2000, not {text!r}")
    read = integer if unit == "tokens" else real
    found = tuple(_caps(unit, read(f"caps {unit}", value.strip())) for value in values.split(","))
    if len(set(found)) < len(found):
        raise InvalidValueError(f"each cap once, not {text!r}")
    return found


def _caps(unit: str, value: float) -> Caps:
    given: dict[str, Any] = {unit: value}
    return Caps(**given)


def make_agent_parser(installed: bool) -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="elastic-agent eval --agent" if installed else None,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="embedded model, folder, hub id, or served name")
    add("--agent", metavar="MODULE:NAME", help="the agent: a coroutine of a row and a model")
    add("--config", metavar="FILE", help="a training config whose agent section says the rest")
    add("--set", action="append", default=[], metavar="A=B", help="a field of that section: price={...}")
    add("--data", required=True, type=Path, metavar="FILE", help="the rows: JSON lines, JSON, CSV, parquet")
    caps = "values of one unit: tokens=500,1000,2000; usd=0.01; seconds=5,20"
    add(
        "--caps",
        required=True,
        type=argument(lambda _, text: parse_cap_list(text)),
        metavar="UNIT=N,...",
        help=caps,
    )
    add("--rows", type=COUNT, metavar="N", help="only the first N rows")
    add("--samples", type=COUNT, default=1, metavar="K", help="episodes a row (default: 1)")
    add("--output", type=Path, default=Path("eval"), metavar="DIR", help="where results go (default: eval)")
    add("--curves", type=Path, metavar="FILE", help="also write success curves by kind of call")
    add_model_options(parser)
    return parser
