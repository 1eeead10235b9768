"""The options of `elastic-agent eval`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from elastic_agent.backends.base import Backend
from elastic_agent.backends.load import load_backend
from elastic_agent.cli_arguments import (
    COUNT,
    SEED,
    SOLUTION,
    TEMPERATURE,
    TOKENS,
    TOP_P,
    Parser,
    add_marker_options,
    given_markers,
)
from elastic_agent.credentials import add_key_options, check_address, upstream_key
from elastic_agent.validation import argument

from ..budgets.distributions import parse_mixture
from ..data.gym import parse_family
from .strategies.strategies import STRATEGIES

DESCRIPTION = """\
Accuracy against tokens: models by ways of keeping to a budget by t by s, each problem k times.

    elastic-agent eval --model e1-tiny --thinking 0,32,64,none
    elastic-agent eval --model e1-tiny-base --model e1-tiny --strategy elastic,s1 --inspect steps.html
    elastic-agent eval --model NAME --base-url http://localhost:8000/v1 --data aime24 --samples 16
    elastic-agent eval --model e1-tiny --curves curves.json
    elastic-agent eval --agent shop:agent --help          an agent's success by caps

Every sample is written to OUTPUT/results.jsonl as it comes; the same command again goes on where it was
stopped, and a larger grid draws only what is missing. table.md (the paper's layout) and plot.svg lie beside
it. t is the thinking budget (none is unconstrained), s the solution budget. Strategies: elastic (E1),
truncate, s1, l1-exact, l1-max, early-exit, native; with options as in early-exit:every=32,patience=2 or
elastic:wrap_up=1.
"""

CURVE_BUDGETS: tuple[int | None, ...] = (0, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, None)

_BUDGETS = argument(lambda _, text: parse_mixture(text))


def _limits(text: str) -> tuple[int, ...]:
    return tuple(SOLUTION(part) for part in text.split(","))


def make_parser(installed: bool) -> argparse.ArgumentParser:
    parser = Parser(
        prog="elastic-agent eval" if installed else None,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    what = "embedded model (e1-tiny, e1-tiny-base), folder, hub id, or served name; may be repeated"
    add("--model", action="append", default=[], help=what)
    swap = "thinking by A and solution by B, and the reverse"
    add("--swap", nargs=2, metavar=("A", "B"), help=swap)
    names = f"comma-separated or repeated: {', '.join(STRATEGIES)} (default: elastic)"
    add("--strategy", action=_Strategies, metavar="NAME[:OPTION=N]", help=names)
    shown = ",".join("none" if t is None else str(t) for t in CURVE_BUDGETS)
    thinking = f"values of t; none is unconstrained (default: {shown})"
    add("--thinking", type=_BUDGETS, default=CURVE_BUDGETS, metavar="T,T,...", help=thinking)
    add("--solution", type=_limits, default=(96,), metavar="S,...", help="values of s (default: 96)")
    add("--samples", type=COUNT, default=1, metavar="K", help="samples a problem: avg@K (default: 1)")
    data = "word problems, a set by name (math500, aime24, livecodebench, ...) or a file of your own"
    add("--data", default="word-problems", metavar="NAME|FILE", help=f"{data} (default: word-problems)")
    family = "of --data gym: a family of reasoning-gym, chain_sum:max_terms=4; may be repeated"
    add(
        "--family",
        action="append",
        default=[],
        type=argument(lambda _, text: parse_family(text)),
        metavar="NAME[:P=N,...]",
        help=family,
    )
    add("--path", type=Path, metavar="FILE", help="a copy of the set, file or folder, instead of the hub")
    add("--split", metavar="NAME", help="of the problems (default: dev, or the set's usual one)")
    many = "problems; of gym of each family, with --curves of each kind (default: 504 word problems, 300 of "
    many += "each family, or all of a set)"
    add("--problems", type=COUNT, metavar="N", help=many)
    words = "behind each question of a set (default: to box the answer, or to give code in one block)"
    add("--instruction", metavar="TEXT", help=words)
    wrap = "sentence that elastic:wrap_up=1 writes before a forced close, or qwen3, seed-oss"
    add("--wrap-up", metavar="TEXT", help=wrap)
    grader = "function(problem, solution, finished) instead of math-verify or the tests"
    add("--grader", metavar="MODULE:FUNCTION", help=grader)
    people = "ratings of people as JSON: adds a percentile to a Codeforces rating"
    add("--people", type=Path, metavar="FILE", help=people)
    add("--output", type=Path, default=Path("eval"), metavar="DIR", help="where results go (default: eval)")
    add("--curves", type=Path, metavar="FILE", help="also write success curves by kind, for the scheduler")
    page = "also write a page that shows the first two models' reasoning, cut and uncut"
    add("--inspect", type=Path, metavar="FILE", help=page)
    add("--inspect-at", type=TOKENS, metavar="T", help="its cut (default: the middle one of --thinking)")
    add(
        "--concurrency",
        type=COUNT,
        default=64,
        metavar="N",
        help="samples under way on a server (default: 64)",
    )
    add("--rows", type=COUNT, default=256, metavar="N", help="samples in a batch in process (default: 256)")
    add_model_options(parser)
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Where the model is and how it is sampled; and `--json`."""
    add = parser.add_argument
    add("--base-url", metavar="URL", help="a vLLM server, like http://localhost:8000/v1")
    add_key_options(parser)
    add("--tokenizer", metavar="NAME", help="tokenizer of a served model, when its name is no hub id")
    add_marker_options(parser)
    add("--threads", type=COUNT, default=1, metavar="N", help="torch threads in process (default: 1)")
    add("--temperature", type=TEMPERATURE, default=0.6, metavar="X", help="(default: 0.6, as in the paper)")
    add("--top-p", type=TOP_P, default=0.95, metavar="X", help="(default: 0.95, as in the paper)")
    add("--seed", type=SEED, default=0, metavar="N", help="of the sampling (default: 0)")
    add("--json", action="store_true", help="the numbers as one JSON object, the last line")


def load_served(options: argparse.Namespace, name: str) -> Backend:
    """The model that the server at --base-url serves under a name."""
    check_address(options.base_url, "--base-url")
    return load_backend(
        name,
        base_url=options.base_url,
        api_key=upstream_key(options),
        tokenizer=options.tokenizer,
        markers=given_markers(options),
    )


class _Strategies(argparse.Action):
    """Splits at the commas between strategies, not at those between one strategy's options."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        found = list(getattr(namespace, self.dest) or [])
        begun = len(found)
        for part in str(values).split(","):
            if "=" in part and ":" not in part and len(found) > begun:
                found[-1] += f",{part}"
            else:
                found.append(part)
        setattr(namespace, self.dest, found)
