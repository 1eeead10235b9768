"""Make a model folder ready for E1 training: markers, a chat template that opens thinking, and a cold start.

    elastic-agent prepare --base ./SmolLM2-135M-Instruct --traces traces.jsonl --output ./smol-thinks
    elastic-agent prepare --base ./SmolLM2-135M-Instruct --output ./smol-marked

E1 training needs a model that thinks between two markers, since budgets cut what stands between them. This
command makes one of any causal language model: it finds or adds the markers, lets the chat template open
thinking, and trains the model on traces of thinking, one JSON object a line:

    {"question": "What is 2 + 2?", "thinking": "Two and two more: 4.", "solution": "4", "answer": 4}

`question` may be a conversation; `thinking` may be "" in some rows; `answer` is optional. Some hundreds to
some thousands of rows do. Then it asks questions that it has kept apart, with thinking uncut and cut at two
places, and says whether the model closes its thinking, answers, and is right (check.json). Without --traces
the folder gets markers and template alone, and the model has learnt nothing. Ctrl-C ends a run with a
checkpoint; --resume goes on from it.
"""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..grpo.export import export_model
from ..grpo.output_lock import OutputLock
from .base import read_base
from .check import Limits, as_json, check, limits_of, table
from .cli import parser, settings_of
from .examples import Example, keep_apart, make_examples
from .markers import plan_markers
from .prepared import Prepared, prepare_tokenizer, starting_model
from .settings import CHECKPOINTS, START, Settings, check_output, is_finished, note, noted
from .traces import Trace, read_traces

Log = Callable[[str], None]
_ENOUGH = 0.8
"""Share of closed thinking and of answers under which the check says that this is little."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `elastic-agent prepare`."""
    args = parser(__doc__, "elastic-agent prepare" if argv is not None else None).parse_args(argv)
    settings = settings_of(args)
    import torch
    from transformers.utils import logging

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it tells of ends of text that the trainer changes; they are restored
    prepare(settings, resume=args.resume)


def prepare(
    settings: Settings, *, resume: bool = False, callbacks: Sequence[Any] = (), log: Log = print
) -> None:
    """Prepare a model and write it.

    Args:
        resume: go on with the run in the output, if there is one.
        callbacks: further callbacks of transformers' Trainer.
        log: gets the lines for people.

    Raises:
        ConfigError, DataError, NoMarkersError, UnknownModelError, UsageError: before a weight is loaded.
        KeyboardInterrupt: Ctrl-C or SIGTERM; of the training with a checkpoint.
    """
    check_output(settings, resume=resume)
    if is_finished(settings.output):
        log(f"{settings.output} is finished already")
        return
    traces = None if settings.traces is None else read_traces(settings.traces, log)
    base = read_base(settings.base)
    plan = plan_markers(base, settings.markers)
    log(f"markers: {plan.how}")
    with OutputLock(settings.output).hold() as lock:
        prepared = prepare_tokenizer(base, plan, settings.output / START)
        if traces is None:
            _write_untaught(settings, prepared)
            log(f"wrote {settings.output}: prepared, not taught: markers and chat template alone")
            log(f"next: elastic-agent prepare --base {settings.output} --traces FILE --output DIR")
        else:
            _teach(settings, prepared, traces, lock, callbacks, log)


def _write_untaught(settings: Settings, prepared: Prepared) -> None:
    import torch

    note(settings)
    model = starting_model(prepared, dtype=torch.bfloat16)
    export_model(model, prepared.tokenizer, settings.output)
    shutil.rmtree(settings.output / START)
    note(settings, finished=True, taught=False, markers=_markers(prepared))


def _teach(
    settings: Settings,
    prepared: Prepared,
    traces: Sequence[Trace],
    lock: OutputLock,
    callbacks: Sequence[Any],
    log: Log,
) -> None:
    context = min(settings.context or prepared.base.context, prepared.base.context)
    fitting = make_examples(traces, prepared, context, log)
    examples, asked = keep_apart(fitting, settings.check, settings.seed)
    limits = limits_of(examples, prepared.base.context)
    note(settings, markers=_markers(prepared))
    compare = (
        partial(_compare, settings, prepared, asked, limits, log) if settings.compare and asked else None
    )
    from .cold_start import cold_start  # imports TRL

    model = cold_start(settings, prepared, examples, lock, log, before=compare, callbacks=callbacks)
    export_model(model, prepared.tokenizer, settings.output)
    del model
    log(f"wrote {settings.output}: the model, prepare.json")
    if asked:
        _check(settings, asked, limits, log)
    shutil.rmtree(settings.output / START)
    shutil.rmtree(settings.output / CHECKPOINTS)
    note(settings, finished=True, taught=True, traces=len(examples))
    log(_next(settings))


def _compare(
    settings: Settings, prepared: Prepared, asked: Sequence[Example], limits: Limits, log: Log, model: Any
) -> None:
    """Note what the model does before it has learnt anything: a copy of it, in the precision of the run."""
    import torch

    from elastic_agent.backends.transformers.backend import TransformersBackend

    log(f"asking {len(asked)} questions before the training, at {len(limits.all)} budgets")
    copied = copy.deepcopy(model).to(getattr(torch, settings.dtype))
    backend = TransformersBackend(copied, prepared.codec, name=settings.base)
    cells = check(backend, asked, limits, seed=settings.seed, grader=settings.grader, log=log)
    note(settings, before=as_json(cells))


def _check(settings: Settings, asked: Sequence[Example], limits: Limits, log: Log) -> None:
    """Ask the model that was written, as its users will load it."""
    from elastic_agent.backends.transformers.backend import TransformersBackend

    log(f"asking {len(asked)} questions that it has not seen, at {len(limits.all)} budgets")
    backend = TransformersBackend.load(settings.output)
    cells = check(backend, asked, limits, seed=settings.seed, grader=settings.grader, log=log)
    after, before = as_json(cells), noted(settings.output).get("before")
    said = {"questions": len(asked), "solution": limits.solution, "seed": settings.seed, "after": after}
    text = json.dumps({**said, "before": before}, indent=1)
    (settings.output / "check.json").write_text(text + "\n", encoding="utf-8")
    log(table([*([("before", before)] if before else []), ("after", after)]))
    uncut = after[-1]
    if uncut["closed"] < _ENOUGH or uncut["answered"] < _ENOUGH:
        log(
            f"uncut it closes its thinking in {uncut['closed']:.0%} and answers in {uncut['answered']:.0%}: "
            f"little to train on. More --epochs or more traces help"
        )


def _markers(prepared: Prepared) -> dict[str, Any]:
    found = prepared.codec.markers
    return {
        "open": found.open_text,
        "close": found.close_text,
        "close_ids": list(found.close_ids),
        "rows": dict(prepared.plan.rows),
        "how": prepared.plan.how,
    }


def _next(settings: Settings) -> str:
    output = settings.output
    return (
        f"next: elastic-agent train --base {shlex.quote(str(output))} --config FILE --output "
        f"{shlex.quote(f'{output}-e1')}   (docs/train.md; --check first)\n"
        f'      elastic-agent ask "..." --model {shlex.quote(str(output))}'
    )
