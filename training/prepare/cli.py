"""The options of `elastic-agent prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from elastic_agent.cli_arguments import COUNT, TOKENS, Parser
from elastic_agent.errors import UsageError
from elastic_agent.validation import argument, integer, real

from .markers import OFFERED
from .settings import Settings, digest_of

DTYPES = ("float32", "bfloat16")
GRADERS = ("math", "word-problems")
_RANK = 16
_EPOCHS = 3.0


def parser(description: str | None, prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    out = Parser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = out.add_argument
    add("--base", required=True, metavar="MODEL", help="model folder or hub id to start from: any causal LM")
    add("--output", required=True, type=Path, metavar="DIR", help="new folder for the prepared model")
    traces = "rows of question, thinking, solution (JSON lines); without, markers and template alone"
    add("--traces", type=Path, metavar="FILE", help=traces)
    pairs = ", ".join(f"{name} ({pair.open})" for name, pair in OFFERED.items())
    add("--markers", choices=list(OFFERED), metavar="NAME", help=f"for a base that has none: {pairs}; think")
    length = out.add_mutually_exclusive_group()
    length.add_argument("--steps", type=COUNT, metavar="N", help="updates of --batch traces each")
    epochs = argument(real, above=True, most=1000.0, of="")
    length.add_argument("--epochs", type=epochs, metavar="X", help=f"passes over the traces ({_EPOCHS:g})")
    add("--batch", type=COUNT, default=16, metavar="N", help="traces of an update (16)")
    add("--microbatch", type=COUNT, metavar="N", help="traces of one pass; default: about 8,192 tokens")
    rate = "default: 3e-4 up to 0.3B parameters, 5e-5 up to 1.5B, 1e-5 above; 2e-4 with --lora"
    add("--learning-rate", type=argument(real, above=True, most=1.0, of=""), metavar="X", help=rate)
    lora = f"train adapters of this rank ({_RANK}) and merge them, in place of all weights"
    add("--lora", type=COUNT, nargs="?", const=_RANK, metavar="RANK", help=lora)
    add("--dtype", choices=DTYPES, help="to compute in; default: bfloat16 where the machine has it")
    add("--context", type=COUNT, metavar="N", help="longer traces are left out; default: the model's context")
    check = "questions kept apart and asked at the end, at most a tenth of all (32); 0: none"
    add("--check", type=TOKENS, default=32, metavar="N", help=check)
    add("--compare", action="store_true", help="ask them before the training, too")
    add("--grader", choices=GRADERS, default="math", help="of the column `answer`, where there is one (math)")
    add(
        "--seed",
        type=argument(integer, most=2**31 - 1, of=""),
        default=0,
        metavar="N",
        help="of all that is drawn (0)",
    )
    add("--threads", type=COUNT, metavar="N", help="torch threads on a CPU; default: all cores")
    add("--resume", action="store_true", help="go on with the run in --output that was stopped")
    return out


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that a command line asks for.

    Raises:
        UsageError: options of the training without traces.
    """
    if args.traces is None:
        given = [name for name in ("steps", "epochs", "lora", "compare", "context") if getattr(args, name)]
        if given:
            raise UsageError(f"--{given[0]} is for the training on traces: name them with --traces FILE")
    elif not args.traces.exists():
        raise UsageError(f"--traces {args.traces} does not exist")
    return Settings(
        base=args.base,
        output=args.output,
        traces=args.traces,
        digest=digest_of(args.traces) if args.traces else "",
        markers=args.markers,
        steps=args.steps,
        epochs=args.epochs or (None if args.steps else _EPOCHS),
        batch=args.batch,
        microbatch=args.microbatch,
        rate=args.learning_rate,
        lora=args.lora,
        dtype=args.dtype or default_dtype(),
        context=args.context,
        seed=args.seed,
        check=args.check,
        compare=args.compare,
        grader=args.grader,
    )


def default_dtype() -> str:
    """bfloat16 where this machine computes fast in it."""
    import torch

    from elastic_agent.backends.transformers.backend import has_bfloat16

    able = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else has_bfloat16()
    return "bfloat16" if able else "float32"
