"""Model cards: what the weights are, what was measured, and the commands that reproduce it.

    python -m tools.e1_tiny.model_card --points FILE... --output DIR

FILE is the JSON line of ``benchmarks/e1_tiny.py --json`` (one per training seed, the shipped one first).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .traces import EARLY_STOP_SHARE, GUESS_SHARE, RESTART_SHARE, STYLE_SHARES

FRONT = """\
---
library_name: transformers
license: apache-2.0
pipeline_tag: text-generation
tags: [elastic-reasoning, budget-forcing, grpo, tiny]
---

# {name}

{what}

Qwen3 architecture, 4 layers, hidden size 192, 1.8M parameters, 168 tokens (words, digits one by one),
bfloat16. Loads unchanged in transformers 5.17 and vLLM 0.31 (40 greedy calls under random budgets: the same
ids in both). It knows one task, word problems of 2 to 8 lines:

> A shop has 37 apples . #1 It sells 12 . #2 It gets 3 boxes of 8 pears . How many items are left ?

It is a model for demonstrations, tests and measurements of thinking budgets, and good for nothing else:
words outside its vocabulary are unknown to it, and totals beyond 99 were never seen.

## Measured

Separate budgeting: at most t thinking tokens, the close, at most {s} solution tokens; T=0.6, top_p=0.95;
{n} problems of the test split a point, none of them ever drawn in training; 95% bootstrap intervals;
bf16 weights computed in float32. Thinking and solution are mean tokens; n=2 to n=8 is the accuracy by number
of lines.
"""

DATA = """\
## Data

Problems come from `elastic_agent.training.data.word_problems`, split by a hash of the text. The base saw
traces in mixed styles ({styles}).
{early:.0%} of the traces stop thinking early, at any token; their solution then guesses the total reached
({guess:.0%}), starts again from the first line ({restart:.0%}), or goes on from the first unfinished line
({finish:.0%}). So **the seed of finishing in the solution is in the data**: the base does it sometimes, and
what budget-constrained GRPO adds is to do it reliably and to think in fewer words. Solutions cost about 21
tokens a line, so a long problem cannot be solved within {s} solution tokens alone.

## Reproduce

```
{commands}
```

{notes}
"""


def rows(points: Sequence[Mapping[str, Any]], models: Sequence[str]) -> str:
    """Points of some models as a Markdown table."""
    chosen = [p for p in points if p["model"] in models]
    kinds = sorted({kind for p in chosen for kind in p.get("by_kind", {})})
    head = ["model", "t", "accuracy", "95% interval", "thinking", "solution"]
    head += [kind.replace("steps-", "n=") for kind in kinds]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for p in chosen:
        t = "unconstrained" if p["t"] is None else str(p["t"])
        cells = [p["model"], t, f"{p['accuracy']:.3f}", f"{p['low']:.3f} to {p['high']:.3f}"]
        cells += [f"{p['thinking_tokens']:.0f}", f"{p['solution_tokens']:.0f}"]
        cells += [f"{p['by_kind'][kind]:.2f}" for kind in kinds]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def card(
    name: str,
    what: str,
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    commands: Sequence[str],
    notes: str = "",
) -> str:
    """The card of one model. `runs` are (title, points), the shipped weights first; `notes` come last."""
    first = runs[0][1][0]
    parts = [FRONT.format(name=name, what=what, s=first["s"], n=first["n"])]
    for title, points in runs:
        parts.append(f"### {title}\n\n{rows(points, ('e1-tiny-base', 'e1-tiny'))}\n")
    parts.append(
        DATA.format(
            styles=", ".join(f"{style} {share:.0%}" for style, share in STYLE_SHARES.items()),
            early=EARLY_STOP_SHARE,
            guess=GUESS_SHARE,
            restart=RESTART_SHARE,
            finish=1 - GUESS_SHARE - RESTART_SHARE,
            s=first["s"],
            commands="\n".join(commands),
            notes=notes,
        )
    )
    return "\n".join(parts)


WHAT = {
    "e1-tiny-base": "A tiny reasoning model that overthinks: what [e1-tiny](../e1-tiny) was trained from.",
    "e1-tiny": "A tiny E1 (Elastic Reasoning, arXiv 2505.05315): budget-constrained GRPO on "
    "[e1-tiny-base](../e1-tiny-base), so that it answers well wherever its thinking is cut.",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=Path, nargs="+", required=True, help="measured points, by seed")
    parser.add_argument("--titles", nargs="+", required=True, help="one title a file")
    parser.add_argument("--commands", nargs="+", required=True, help="the commands that made the weights")
    parser.add_argument("--notes", type=Path, help="Markdown on how these weights came about")
    parser.add_argument("--output", type=Path, required=True, help="folder that holds both models")
    args = parser.parse_args()
    runs = [
        (title, json.loads(path.read_text().splitlines()[-1])["points"])
        for title, path in zip(args.titles, args.points, strict=True)
    ]
    notes = args.notes.read_text().strip() if args.notes else ""
    for name, what in WHAT.items():
        (args.output / name / "README.md").write_text(card(name, what, runs, args.commands, notes))


if __name__ == "__main__":
    main()
