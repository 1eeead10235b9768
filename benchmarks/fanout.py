"""32 parallel branches under one cap that can't hold them all at once.

    python benchmarks/fanout.py [--backend scripted|e1-tiny] [--quick] [--json]

Every branch asks for a call of its own at the same moment; afterwards one last call gives the final answer.
The holds of all branches together are several times the cap, so calls have to wait for refunds or shrink;
none may be refused while there are tokens left, and the upstream's own meter, not our ledger, must stay at
or under the cap. The scripted backend runs in virtual time and varies how long it would think and answer;
e1-tiny is the embedded model on problems that it was not trained on, in real time.

With --json the last line of stdout is one JSON object:
    branches      calls made in parallel
    answered      of them, with a solution: whole, or as long as it asked for
    cap, metered  tokens: the task's cap, and what the upstream counted as output
    held_after    tokens still held when the task is over
    final         whether the final answer was given
    cap_usd, metered_usd   the same for money
    whole         branches whose solution ended by itself
    shrunk        branches that were granted less than the solution they asked for
    refused       branches that were refused
    thinking      thinking tokens used by the branches
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from elastic_agent import Caps, Usage, load_backend
from elastic_agent.backends.base import Backend
from elastic_agent.backends.scripted import Reply, ScriptedBackend
from elastic_agent.generation.result import Generation
from elastic_agent.scheduler import BudgetScheduler, Price
from tests.clock import run as run_virtual

PRICE = Price("0.50", "2.00")


def scripted(branches: int, seed: int) -> tuple[Backend, list[tuple[str, str]], str]:
    """A backend that thinks 10 to 200 tokens and answers in 3 to 30, by the prompt."""

    def reply(prompt: str) -> Reply:
        rng = random.Random(f"{seed} {prompt}")
        thinking, solution = rng.randint(10, 200), rng.randint(3, 30)
        return Reply(thinking="hm " * thinking, solution="so " * solution)

    prompts = [("branch", f"branch {i}: how much is left ?") for i in range(branches)]
    return ScriptedBackend(reply, ttft=0.05, tpot=0.01), prompts, "all branches together ?"


def embedded(branches: int, seed: int) -> tuple[Backend, list[tuple[str, str]], str]:
    """e1-tiny on held-out word problems."""
    from elastic_agent.training.data.word_problems import make_problems

    *problems, last = make_problems(seed, branches + 1, split="test")
    return load_backend("e1-tiny"), [(problem.kind, problem.text) for problem in problems], last.text


async def fan_out(
    backend: Backend, prompts: Sequence[tuple[str, str]], last: str, *, cap: int, usd: str, solution: int
) -> dict[str, Any]:
    """Run it, and look at the upstream's meter."""
    before = (backend.meter.input, backend.meter.output)
    async with BudgetScheduler(backend, price=PRICE) as scheduler:
        async with scheduler.task(Caps(tokens=cap, usd=usd), expect={"final": 1}) as task:
            results = await asyncio.gather(
                *(task.generate(prompt, kind=kind, solution=solution) for kind, prompt in prompts),
                return_exceptions=True,
            )
            scheduler.check()
            final = await task.generate(last, kind="final", solution=solution)
            spent = task.spent
        held = task.state.account.held
    answers = [result for result in results if isinstance(result, Generation)]
    whole = [answer for answer in answers if answer.solution_end in ("eos", "stop")]
    shrunk = [answer for answer in answers if answer.budget.solution < solution]
    lost = [answer for answer in shrunk if answer not in whole]
    metered = backend.meter.output - before[1]
    bill = PRICE.charge(Usage(thinking=metered, input=backend.meter.input - before[0])) / 1e9
    assert spent.tokens is not None
    return {
        "branches": len(prompts),
        "answered": len(answers) - len(lost),
        "cap": cap,
        "metered": metered,
        "held_after": held.tokens,
        "final": final.solution_end == "eos" or final.budget.solution == solution,
        "ledger": spent.tokens,
        "cap_usd": float(usd),
        "metered_usd": bill,
        "held_after_nano_usd": held.nano,
        "whole": len(whole),
        "shrunk": len(shrunk),
        "thinking": sum(answer.usage.thinking for answer in answers),
        "refused": sum(isinstance(result, BaseException) for result in results),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=["scripted", "e1-tiny"], default="scripted")
    parser.add_argument("--branches", type=int, default=32)
    parser.add_argument(
        "--cap",
        type=int,
        help="tokens; default 42 a branch (e1-tiny: 128), a fraction of what all of them would hold",
    )
    parser.add_argument("--usd", help="dollars; default 0.0016 a branch")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--runs", type=int, help="independent runs; the worst of each key is reported")
    parser.add_argument("--quick", action="store_true", help="one run instead of ten; under 60 s")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    args = parser.parse_args()
    runs = args.runs or (1 if args.quick else 10)
    make: Callable[[int, int], tuple[Backend, list[tuple[str, str]], str]]
    make, solution, each = (scripted, 48, 42) if args.backend == "scripted" else (embedded, 96, 128)
    cap = args.cap or each * args.branches
    usd = args.usd or f"{0.0016 * args.branches:.4f}"
    results = []
    for seed in range(args.seed, args.seed + runs):
        backend, prompts, last = make(args.branches, seed)
        work = fan_out(backend, prompts, last, cap=cap, usd=usd, solution=solution)
        result = run_virtual(work) if args.backend == "scripted" else asyncio.run(work)
        results.append(result)
        print(
            f"seed {seed}: {result['answered']} of {result['branches']} answered, final {result['final']}; "
            f"metered {result['metered']:,} of {cap:,} tokens and ${result['metered_usd']:.6f} of ${usd}; "
            f"thinking {result['thinking']:,}; held afterwards {result['held_after']}",
            flush=True,
        )
    worst = dict(max(results, key=lambda result: result["metered"]))
    for key in ("answered", "whole"):
        worst[key] = min(result[key] for result in results)
    worst["final"] = all(result["final"] for result in results)
    for key in ("held_after", "held_after_nano_usd", "metered_usd", "shrunk", "refused"):
        worst[key] = max(result[key] for result in results)
    worst |= {"backend": args.backend, "runs": runs}
    if args.json:
        print(json.dumps(worst))


if __name__ == "__main__":
    main()
