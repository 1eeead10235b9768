"""The benchmark of an agent on a real model: its graph, its sheets, and how a plain answer is read."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks import real_agent as bench
from elastic_agent.budget import Caps
from elastic_agent.scheduler import Price
from elastic_agent.training.data.gym import Origin
from elastic_agent.usage import Usage
from tests.training.gym_only import needs_gym


@needs_gym
def test_every_question_is_asked_once_and_the_second_round_waits_for_the_first() -> None:
    sheets = bench.sheets_of("e1-gym-135m", 2, seed=3)
    assert [len(sheet) for sheet in sheets] == [6, 6]
    kinds = ["chain_sum", "leg_counting", "letter_counting"]
    assert [question["kind"] for question in sheets[0]] == kinds * 2
    sheet, asked, running, most = sheets[0], [], 0, 0

    async def ask(question: bench.Question) -> str:
        nonlocal running, most
        asked.append(question["text"])
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        entry = Origin(**question["origin"]).entry()
        return f"Answer: {entry['answer']}" if question["kind"] == "chain_sum" else "Answer: nothing"

    out = asyncio.run(bench.build_graph(ask).ainvoke({"sheet": sheet, "right": []}))
    assert sum(out["right"]) == 2
    assert most == 3
    assert set(asked[:3]) == {question["text"] for question in sheet[:3]}
    assert sorted(asked) == sorted(question["text"] for question in sheet)


def test_a_plain_answer_is_what_stands_behind_the_close() -> None:
    for text, answer in {
        "<think>two and two": "",
        "<think>two</think>Answer: 4<|im_end|>\n": "Answer: 4",
        "<think></think>4": "4",
    }.items():
        assert bench.plain_answer(text, ("</think>", "<|im_end|>")) == answer


def test_a_sheet_over_its_cap_is_a_violation() -> None:
    counted = iter([10, 75, 75, 105])

    async def meter() -> Usage:
        return Usage(solution=next(counted))

    async def right() -> int:
        return 3

    async def play() -> dict[str, Any]:
        score = bench.Score()
        for _ in range(2):
            await score.run(meter, Caps(tokens=60), Price("0", "0"), right())
        return bench.told(score)

    found = asyncio.run(play())
    assert (found["right"], found["tokens"], found["violations"]) == (0.5, 47.5, 1)
