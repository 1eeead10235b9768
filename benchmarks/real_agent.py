"""An agent on a real E1 behind a real vLLM server, beside plain `ChatOpenAI` with `max_tokens`.

    python benchmarks/real_agent.py --model FOLDER --outcomes FILE [--recipe NAME] [--sheets N] [--json]
    python benchmarks/real_agent.py --quick [--json]     e1-tiny's weights, two sheets: that it all works

The agent is a LangGraph: a sheet of six questions, two of each family, in two rounds of three branches side
by side. Both ways run this graph on the same sheets with the same weights, sampling and caps, on one server
(`make vllm`), one after the other. `ours` is `ChatElasticReasoning` under a task with the cap. `plain` is
`ChatOpenAI` with the largest `max_tokens` with which six calls are sure to keep the cap: a sixth of it.
Questions are of the dev split; the curves come from the outcomes that --outcomes names, of the test split.

Right answers are told by the families' own scorers. A plain answer is what stands behind the close; an answer
that was cut counts where it is right all the same. `violations` are sheets that took more than their cap by
the server's own counters.

With --json the last line of stdout is one JSON object:

    caps    by cap: "ours" and "plain" with {"right": share of all questions, "low", "high": its 95% interval
            over sheets, "tokens": of a sheet, "violations"}; "ahead": [difference, low, high]
    model, sheets, questions (of a sheet)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, TypedDict

import aiohttp
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from benchmarks._replay import curves_of, load
from benchmarks._vllm import backend, parser, served
from benchmarks._vllm_agents import Plain, Score, metered
from elastic_agent.backends.vllm.server import VllmServerBackend
from elastic_agent.budget import Caps
from elastic_agent.errors import CapExceededError
from elastic_agent.integrations.langchain import ChatElasticReasoning
from elastic_agent.scheduler import BudgetScheduler, Price
from elastic_agent.scheduler.estimates.success_curve import CurveSet
from elastic_agent.training.data.gym import Origin, gym_problems
from elastic_agent.training.evaluation import bootstrap, interval
from elastic_agent.training.recipes.recipe import read_recipe
from elastic_agent.training.rewards.gym import solves

ROUNDS, BRANCHES = 2, 3
QUESTIONS = ROUNDS * BRANCHES
CAPS = (130, 190, 270, 400)
SOLUTION = 32
PLAIN = {"max_retries": 0, "extra_body": {"skip_special_tokens": False}}
"""Options of `ChatOpenAI`: with the special tokens left out nobody would see where thinking ends."""

Ask = Callable[["Question"], Awaitable[str]]
"""The answer to a question."""


class Question(TypedDict):
    """One question of a sheet: its family, and where its scorer finds it."""

    kind: str
    text: str
    origin: dict[str, Any]


class State(TypedDict, total=False):
    """What the graph hands on."""

    sheet: list[Question]
    question: Question
    right: Annotated[list[bool], operator.add]


def build_graph(ask: Ask) -> Any:
    """Two rounds; a round's branches run side by side, and the second round waits for the first."""

    async def answer(state: State) -> State:
        question = state["question"]
        said = await ask(question)
        return {"right": [solves(said, Origin(**question["origin"]))]}

    def branches(number: int) -> Callable[[State], list[Send]]:
        def send(state: State) -> list[Send]:
            first = number * BRANCHES
            return [
                Send(f"round{number}", {"question": one}) for one in state["sheet"][first : first + BRANCHES]
            ]

        return send

    graph = StateGraph(State)
    for number in range(ROUNDS):
        graph.add_node(f"round{number}", answer)
        graph.add_node(f"after{number}", lambda _: {})
        graph.add_edge(f"round{number}", f"after{number}")
        graph.add_conditional_edges(START if number == 0 else f"after{number - 1}", branches(number))
    graph.add_edge(f"after{ROUNDS - 1}", END)
    return graph.compile()


def sheets_of(recipe: str, count: int, seed: int) -> list[list[Question]]:
    """Sheets of unseen questions, the families mixed."""
    families = read_recipe(recipe).families
    each = -(-count * QUESTIONS // len(families))
    questions = [
        Question(kind=one.meta["kind"], text=one.question, origin=one.meta["origin"])
        for one in gym_problems(families, each, split="dev", seed=seed)
    ]
    return [questions[n * QUESTIONS : (n + 1) * QUESTIONS] for n in range(count)]


async def right_of(ask: Ask, sheet: list[Question]) -> int:
    """How many answers of a sheet are right."""
    out = await build_graph(ask).ainvoke({"sheet": sheet, "right": []})
    return sum(out["right"])


def plain_answer(text: str, ends: Sequence[str]) -> str:
    """What stands behind the close; nothing if thinking was cut.

    Args:
        ends: the texts of the close, and of the tokens that end a turn.
    """
    close, *eos = ends
    answer = text.partition(close)[2]
    for end in eos:
        answer = answer.partition(end)[0]
    return answer


async def run_plain(plain: Plain, ends: Sequence[str], sheet: list[Question]) -> int:
    """Right answers of a sheet."""

    async def ask(question: Question) -> str:
        return plain_answer(str((await plain.ainvoke(question["text"])).text), ends)

    return await right_of(ask, sheet)


async def run_ours(
    client: VllmServerBackend, curves: CurveSet | None, cap: int, sheet: list[Question], seed: int
) -> int:
    """Right answers of a sheet."""
    llm = ChatElasticReasoning(backend=client, solution_budget=SOLUTION, seed=seed)

    async def ask(question: Question) -> str:
        try:
            return str((await llm.ainvoke(question["text"], kind=question["kind"])).text)
        except CapExceededError:  # the cap is used up: the question stays without an answer
            return ""

    counts = Counter(question["kind"] for question in sheet)
    async with (
        BudgetScheduler(client, curves=curves) as scheduler,
        scheduler.task(Caps(tokens=cap), expect=counts, on_exhausted="shrink"),
    ):
        return await right_of(ask, sheet)


def told(score: Score) -> dict[str, Any]:
    """See the module."""
    shares = [right / QUESTIONS for right in score.right]
    low, high = interval(shares)
    return {
        "right": round(fmean(shares), 4),
        "low": low,
        "high": high,
        "tokens": round(fmean(score.tokens), 1),
        "violations": score.violations,
    }


async def measure(args: Any, base_url: str, sheets: Sequence[list[Question]]) -> dict[str, Any]:
    """Every cap, both ways."""
    client = await backend(args, base_url)
    curves = None if args.outcomes is None else curves_of(load(args.outcomes), client.model)
    markers = client.codec.markers
    ends = (
        markers.close_text.strip(),
        *client.codec.tokenizer.convert_ids_to_tokens(sorted(markers.eos_ids)),
    )
    free = Price("0", "0")
    found: dict[str, Any] = {}
    async with aiohttp.ClientSession() as session:
        meter = partial(metered, base_url, session)
        for cap in args.caps:
            caps, ours, plain = Caps(tokens=cap), Score(), Score()
            for number, sheet in enumerate(sheets):
                seed = args.seed + 1000 * number
                await ours.run(meter, caps, free, run_ours(client, curves, cap, sheet, seed))
                llm = Plain(args, base_url, cap // QUESTIONS, seed, **PLAIN)
                await plain.run(meter, caps, free, run_plain(llm, ends, sheet))
            ahead = [(a - b) / QUESTIONS for a, b in zip(ours.right, plain.right, strict=True)]
            found[str(cap)] = {
                "ours": told(ours),
                "plain": told(plain),
                "ahead": [round(fmean(ahead), 4), *bootstrap(ahead)],
            }
            print(cap, found[str(cap)], flush=True)
    await client.aclose()
    return found


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--recipe", default="e1-gym-135m", help="whose families are asked (e1-gym-135m)")
    options.add_argument(
        "--sheets", type=int, help="of six questions at each cap (default 30, 2 with --quick)"
    )
    options.add_argument(
        "--caps", type=int, nargs="+", default=list(CAPS), metavar="TOKENS", help="of a sheet"
    )
    options.add_argument("--outcomes", type=Path, help="of this model, for its curves (benchmarks/data)")
    args: argparse.Namespace = options.parse_args()
    count = args.sheets or (2 if args.quick else 30)
    sheets = sheets_of(args.recipe, count, args.seed)
    with served(args) as base_url:
        found = asyncio.run(measure(args, base_url, sheets))
    if args.json:
        print(json.dumps({"model": args.model, "sheets": count, "questions": QUESTIONS, "caps": found}))
    return int(any(way[name]["violations"] for way in found.values() for name in ("ours", "plain")))


if __name__ == "__main__":
    sys.exit(main())
