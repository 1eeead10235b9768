"""Do the graders give reference answers their reward, and others none?

    python benchmarks/graders.py [--data DIR] [--quick] [--json]

For each evaluation set in DIR (`aime.json`, `math.json`, ... with a field `answer`; none is shipped), every
reference answer is graded against itself and against another problem's, drawn by shuffling. A few of the
others are right: "x=5" where 5 is wanted. `self_verified` leaves out the comparison as text, so that
math-verify has to say it. `--quick` takes 60 answers a file.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from elastic_agent.training.rewards import math as math_rewards
from elastic_agent.training.rewards.answers import references
from elastic_agent.training.rewards.grades import Sample
from elastic_agent.training.rewards.math import MathGrader

FILES = ("aime", "math", "amc", "minerva", "olympiad_bench", "gsm8k", "aime_train")


def solution(reference: str) -> str:
    return f"So the answer is $\\boxed{{{reference.replace('$', '')}}}$."


def measure(grader: MathGrader, name: str, answers: list[Any]) -> dict[str, Any]:
    wanted = [references(answer) for answer in answers]
    own = [Sample(solution(texts[0]), answer) for texts, answer in zip(wanted, answers, strict=True)]
    order = random.Random(0).sample(range(len(answers)), len(answers))
    others = [
        Sample(solution(wanted[j][0]), answers[i])
        for i, j in enumerate(order)
        if not set(wanted[i]) & set(wanted[j])
    ]
    start = time.perf_counter()
    row = {"file": name, "n": len(own), "self": rate(grader, own), "wrong": len(others)}
    row["wrong_accepted"] = sum(grade.score for grade in grader.grade(others))
    row["seconds"] = round(time.perf_counter() - start, 1)
    as_text = math_rewards.same_text
    math_rewards.same_text = lambda answer, reference: False
    try:
        row["self_verified"] = rate(grader, own)
    finally:
        math_rewards.same_text = as_text
    return row


def rate(grader: MathGrader, samples: list[Sample]) -> float:
    return round(sum(grade.score for grade in grader.grade(samples)) / len(samples), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default="shared/data",
        metavar="DIR",
        help="folder with the files (default: shared/data)",
    )
    parser.add_argument("--quick", action="store_true", help="60 answers a file")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    args = parser.parse_args()
    rows = []
    with MathGrader() as grader:
        for name in FILES:
            path = args.data / f"{name}.json"
            if not path.exists():
                continue
            problems = json.loads(path.read_text(encoding="utf-8"))[: 60 if args.quick else None]
            answers = [p["answer"] if p["answer"] is not None else p["solution"] for p in problems]
            rows.append(measure(grader, name, answers))
            print(rows[-1], flush=True)
    if not rows:
        print(f"none of the files is in {args.data}: nothing measured")
    if args.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
