"""Draws the demo's `shop_week.jsonl`: a shop's week of word problems from the test split. Takes some minutes.

python -m tools.draw_shop_week > integrations/demo/shop_week.jsonl
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict

from elastic_agent.integrations.demo.problems import Chain, Day
from elastic_agent.training.data.word_problems import NOUNS, combine_problem, make_problem, split_of

_WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def draw_week(seed: int, chains: int = 4, links: int = 2) -> Iterator[Day]:
    """The days of a week of mixed difficulty; totals are at most 99, as in what e1-tiny has learned."""
    rng = random.Random(seed)
    for name in _WEEK:
        while True:
            nouns = rng.sample(NOUNS, chains)
            parts = tuple(_draw_chain(rng, noun, links) for noun in nouns)
            ends = [chain.answers[-1] for chain in parts]
            if sum(ends) <= 99 and split_of(combine_problem(ends, nouns).text) == "test":
                break
        combine = combine_problem(ends, nouns)
        text = combine.text
        for i, noun in enumerate(nouns):
            text = re.sub(rf"\b{ends[i]} {noun}\b", f"{{{i}}} {noun}", text, count=1)
        yield Day(name, parts, text, combine.answer)


def _draw_chain(rng: random.Random, noun: str, links: int) -> Chain:
    steps: list[str] = []
    answers: list[int] = []
    for link in range(links):
        lines = rng.choice((2, 2, 3, 3, 4, 5, 6))
        start = answers[-1] if answers else None
        while True:
            problem = make_problem(rng, lines, split="test", start=start)
            one_story = problem.text.startswith(f"A shop has {problem.start} {noun} ")
            one_story &= problem.text.endswith(f"How many {noun} are left ?")
            if one_story and (link < links - 1 or problem.answer <= 45):  # small ends: the day's sum has room
                break
        steps.append(
            problem.text if start is None else problem.text.replace(f"has {start} ", "has {previous} ", 1)
        )
        answers.append(problem.answer)
    return Chain(noun, tuple(steps), tuple(answers))


if __name__ == "__main__":
    for drawn_day in draw_week(seed=11):
        sys.stdout.write(json.dumps(asdict(drawn_day)) + "\n")
