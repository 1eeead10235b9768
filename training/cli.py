"""E1: GRPO on rollouts whose thinking is cut, so that a model answers well wherever it is cut.

    elastic-agent train --base DIR --output DIR [--seed N]
    elastic-agent train --config FILE|PRESET [--set section.field=value ...] [--resume]
    elastic-agent train --config FILE|PRESET --estimate [--processes N] [--gpu GIB] [--json]
    elastic-agent train --recipe NAME --base FOLDER --output DIR

Without --config it is the second stage of e1-tiny, on word problems (the first is tools/e1_tiny/sft.py).
Every group of samples gets one budget; thinking is cut there, the close is forced and masked, and the
solution alone is rewarded. --output gets the model, metrics.csv, metrics.svg, config.yaml, train_log.json and
checkpoints, from which --resume goes on to the same weights as a run in one go.
"""

# What is heavy (torch, TRL) is imported after the flags are read: help and bad flags come at once.

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from elastic_agent.cli_arguments import COUNT, Parser, add_marker_options, given_markers
from elastic_agent.errors import ConfigError, InvalidValueError, UsageError
from elastic_agent.validation import argument, integer, real

from .budgets.distributions import parse_mixture
from .config.loading import build, describe, dump, override, presets, read_layers
from .config.processes import processes
from .config.schema import TrainConfig
from .recipes.recipe import recipes

DEFAULT = "e1-tiny"
AGENT = "agent"
"""The preset under --agent."""


def configure(args: argparse.Namespace) -> TrainConfig:
    """The config of a command line: preset or file, then --set, then the flags."""
    tree = override(read_layers(args.config or (AGENT if args.agent else DEFAULT)), args.set)
    for name in ("base", "output", "seed", "steps"):
        if getattr(args, name) is not None:
            tree[name] = getattr(args, name)
    if args.thinking is not None:
        if (tree.get("budgets") or {}).get("kind", "mixture") != "mixture":
            raise ConfigError("--thinking is for a mixture: use --set for other kinds of budgets")
        tree = override(tree, [])
        tree["budgets"] = {**(tree.get("budgets") or {}), "thinking": args.thinking}
    if (named := given_markers(args)) is not None:
        tree["markers"] = {"open": named.open, "close": named.close}
    if args.agent is not None or args.caps is not None:
        tree["agent"] = _agent_section(args, tree.get("agent") or {})
    if args.data is not None:
        source = "own" if tree.get("agent") is None else "rows"
        tree["data"] = {**(tree.get("data") or {}), "source": source, "path": args.data}
    if args.learning_rate is not None:
        tree["learning"] = {**(tree.get("learning") or {}), "rate": args.learning_rate}
    if args.threads is not None:
        tree["device"] = {**(tree.get("device") or {}), "threads": args.threads}
    return build(tree)


def _agent_section(args: argparse.Namespace, section: dict[str, Any]) -> dict[str, Any]:
    if args.agent is not None:
        section = {**section, "run": args.agent}
    return section if args.caps is None else {**section, "caps": args.caps}


def parse_cap_ranges(text: str) -> dict[str, list[float]]:
    """Read "tokens=500..4000" or "tokens=2000,seconds=20": a number or a range for each unit.

    Raises:
        InvalidValueError: an entry is something else.
    """
    found: dict[str, list[float]] = {}
    for entry in text.split(","):
        unit, equals, ends = entry.partition("=")
        unit = unit.strip()
        if not equals or unit not in ("tokens", "usd", "seconds") or unit in found:
            raise InvalidValueError(
                f"expected caps like tokens=500..4000 or tokens=2000,seconds=20, not {text!r}"
            )
        read = integer if unit == "tokens" else real
        found[unit] = [read(f"caps {unit}", end.strip()) for end in ends.split("..", 1)]
    return found


def _add_estimate_options(out: argparse.ArgumentParser) -> None:
    out.add_argument(
        "--estimate", action="store_true", help="print the memory that each process needs, and exit"
    )
    out.add_argument("--processes", type=COUNT, metavar="N", help="of the launch to estimate (1)")
    out.add_argument(
        "--gpu",
        type=argument(real, above=True, most=100_000.0, of="GiB"),
        metavar="GIB",
        help="estimate for GPUs of so much memory; default: this machine's, or its processor",
    )
    out.add_argument("--json", action="store_true", help="print the estimate as JSON")


def estimate_of(args: argparse.Namespace, config: TrainConfig) -> str:
    """What `--estimate` prints."""
    from .estimate.estimate import GIB, estimate
    from .estimate.table import as_json, render

    gpu: float | None = args.gpu
    if gpu is None:
        import torch

        if torch.cuda.is_available():
            gpu = round(torch.cuda.get_device_properties(0).total_memory / GIB, 1)
    found = estimate(config, args.processes or processes(), gpu)
    return json.dumps(as_json(found)) if args.json else render(found)


def check_estimate_options(args: argparse.Namespace) -> None:
    """Check that options of `--estimate` come with it.

    Raises:
        UsageError: one stands alone.
    """
    for name in ("processes", "gpu", "json"):
        if getattr(args, name) and not args.estimate:
            raise UsageError(f"--{name} says what to estimate: give --estimate, too")


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    out = Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument(
        "--config",
        metavar="FILE|PRESET",
        help=f"YAML, or {', '.join(presets())} ({DEFAULT}; with --agent: {AGENT})",
    )
    out.add_argument(
        "--recipe",
        metavar="FILE|RECIPE",
        help=f"from a pretrained --base to an E1, cold start included: {', '.join(recipes())}",
    )
    out.add_argument(
        "--agent", metavar="MODULE:NAME", help="train this agent: a coroutine of a row and a model"
    )
    out.add_argument(
        "--data", metavar="FILE", help="your own problems, or the rows of --agent: JSON lines, CSV"
    )
    out.add_argument(
        "--caps",
        type=argument(lambda _, text: parse_cap_ranges(text)),
        metavar="UNIT=A..B",
        help="what an episode of --agent may spend: tokens=500..4000",
    )
    out.add_argument("--base", metavar="MODEL", help="embedded model, model folder or hub id to start from")
    add_marker_options(out)
    out.add_argument("--output", metavar="DIR", help="folder for the model, its log and checkpoints")
    out.add_argument(
        "--seed",
        type=argument(integer, most=2**31 - 1, of=""),
        metavar="N",
        help="of problems, budgets and samples",
    )
    out.add_argument(
        "--steps", type=COUNT, metavar="N", help="batches of rollouts; about 20 s each for e1-tiny"
    )
    out.add_argument(
        "--thinking",
        type=argument(lambda _, text: parse_mixture(text)),
        metavar="T,T,...",
        help="thinking budgets that groups are dealt; none is unlimited",
    )
    out.add_argument("--learning-rate", type=argument(real, most=1000.0), metavar="X", help="after warm-up")
    out.add_argument("--threads", type=COUNT, metavar="N", help="torch threads on a CPU")
    out.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="any other field; may be repeated"
    )
    out.add_argument("--resume", action="store_true", help="go on from the last good checkpoint in --output")
    out.add_argument("--fields", action="store_true", help="print every field of a config, and exit")
    out.add_argument(
        "--check", action="store_true", help="check the config against what it names, print it, and exit"
    )
    _add_estimate_options(out)
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run `elastic-agent train`."""
    if not (sys.argv[1:] if argv is None else argv):
        raise UsageError(
            "what shall be trained? --config NAME|FILE and --base MODEL say it; `elastic-agent train "
            "--config e1-tiny` trains the small preset, in 45 minutes on two cores, --check shows what it "
            "would do, --help lists the rest"
        )
    args = parser("elastic-agent train" if argv is not None else None).parse_args(argv)
    check_estimate_options(args)
    if args.recipe is not None:
        from .recipes.run import main as run_recipe

        run_recipe(args)
    elif args.fields:
        print(describe())
    else:
        config = configure(args)
        if args.estimate:
            print(estimate_of(args, config))
        elif args.check:
            _check(config)
        else:
            _train(config, resume=args.resume)


def _check(config: TrainConfig) -> None:
    """Print a config, and whether anything is wrong with it."""
    from .grpo.validate import validate

    if config.about.what:
        print("".join(f"# {name}: {text}\n" for name, text in config.about.model_dump().items()))
    print(dump(config), flush=True)
    validate(config)
    print("# nothing is wrong with it", file=sys.stderr)


def _train(config: TrainConfig, *, resume: bool) -> None:
    import torch
    from transformers.utils import logging

    from .run import train

    torch.set_num_threads(config.device.threads)
    logging.disable_progress_bar()  # a line a step says more than bars for each file
    train(config, resume=resume)
