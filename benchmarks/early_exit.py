"""What early exit saves, and what it costs: e1-tiny with probes of its answer, beside plain thinking limits.

    python benchmarks/early_exit.py            280 unseen problems
    python benchmarks/early_exit.py --quick    42 problems
    python benchmarks/early_exit.py --json     one JSON object as the last line

Each problem is asked with thinking that nobody cuts, with probes at every `--every` thinking tokens and a
patience of 2 and of 3, and with fixed thinking limits; at T=0.6, on the embedded model, the same seeds. A
probe (`whole`) writes the solution that an E1 would write there, what it has not thought of included; with
the lead "Answer:" (`lead`) it says in a few tokens what it has so far.
`right` is the share of right answers; `thinking` and `generated` are tokens a call, `generated` with those
that the probes brought; `input` is what all passes read, before any prefix cache; `ended` is the share of
calls whose thinking it ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from typing import Any

from elastic_agent import Budget, load_backend
from elastic_agent.backends.base import Backend, Sampling
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.generate import generate
from elastic_agent.training.data.word_problems import WordProblem, make_problems, parse_answer
from elastic_agent.training.rewards.word_problems import solution_reward
from elastic_agent.usage import Usage

SEED, SOLUTION, UNCUT = 8100, 96, 1024
AT_ONCE = 16
LIMITS = (48, 64, 96, 128)


def last_answer(text: str) -> str | None:
    """The number that a solution ends with."""
    found = parse_answer(text)
    return None if found is None else str(found)


def first_number(text: str) -> str | None:
    """The number that follows the lead."""
    found = re.match(r"\s*(-?[\d ]*\d)", text)
    return found and found[1].replace(" ", "")


async def ask(
    backend: Backend, problems: list[WordProblem], thinking: int, stable: EarlyExit | None
) -> dict[str, float]:
    """All problems, some at once."""
    lanes = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, problem: WordProblem) -> tuple[bool, Usage, str]:
        async with lanes:
            said = await generate(
                backend,
                problem.text,
                Budget(thinking, SOLUTION),
                sampling=Sampling(seed=1000 * number),
                early_exit=stable,
            )
        right = solution_reward(said.solution, said.solution_end == "eos", problem.answer) > 0
        return right, said.usage, str(said.thinking_end)

    found = await asyncio.gather(*(one(*each) for each in enumerate(problems)))
    used = sum([usage for _, usage, _ in found], Usage())
    return {
        "right": round(sum(right for right, _, _ in found) / len(found), 3),
        "thinking": round(used.thinking / len(found), 1),
        "generated": round(used.generated / len(found), 1),
        "input": round(used.input / len(found), 1),
        "ended": round(sum(end == "stable" for _, _, end in found) / len(found), 3),
    }


async def measure(count: int, every: int) -> dict[str, Any]:
    """Every way, on the same problems."""
    backend = load_backend("e1-tiny")
    problems = make_problems(SEED, count, split="test")
    ways: dict[str, tuple[int, EarlyExit | None]] = {"uncut": (UNCUT, None)}
    for patience in (2, 3):
        whole = EarlyExit(every, patience, tokens=SOLUTION, read=last_answer)
        led = EarlyExit(every, patience, tokens=6, lead=" Answer:", read=first_number)
        ways |= {f"whole-{patience}": (UNCUT, whole), f"lead-{patience}": (UNCUT, led)}
    ways |= {f"t-{t}": (t, None) for t in LIMITS}
    found: dict[str, Any] = {}
    for name, (thinking, stable) in ways.items():
        found[name] = await ask(backend, problems, thinking, stable)
        print(f"{name:12} {found[name]}", flush=True)
    await backend.aclose()
    return {"problems": count, "every": every, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="42 problems")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument(
        "--every", type=int, default=16, help="thinking tokens between two probes (default 16)"
    )
    args = parser.parse_args()
    result = asyncio.run(measure(42 if args.quick else 280, args.every))
    if args.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
