"""A task of several calls without any framework: two steps side by side, then an answer, under one ceiling.

python examples/plain_asyncio.py
"""

import asyncio

from elastic_agent import Caps, load_backend
from elastic_agent.errors import CapExceededError
from elastic_agent.scheduler import BudgetScheduler

STEPS = (
    "A shop has 37 pens . #1 It sells 12 . #2 It gets 20 . #3 It gets 3 boxes of 4 . #4 It sells 9 . "
    "How many pens are left ?",
    "A shop has 8 cups . #1 It gets 3 boxes of 9 . #2 It uses 2 . #3 It gets 14 . #4 It sells 6 . "
    "How many cups are left ?",
)
ANSWER = "A shop has 48 pens . #1 It gets 41 . #2 It sells 5 . How many pens are left ?"


async def main() -> None:
    async with BudgetScheduler(load_backend("e1-tiny")) as scheduler:
        for tokens in (600, 250, 10):
            caps = Caps(tokens=tokens, seconds=60)
            try:
                async with scheduler.task(caps, expect={"steps-4": 2, "final": 1}) as task:
                    found = await asyncio.gather(
                        *(task.generate(step, kind="steps-4", solution=64) for step in STEPS)
                    )
                    answer = await task.generate(ANSWER, kind="final", solution=64)
            except CapExceededError as error:  # before a token was spent
                print(f"{tokens} tokens: {error}")
            else:
                thought = [call.usage.thinking for call in (*found, answer)]
                print(f"{tokens} tokens: {task.spent.tokens} spent, {thought} of them thinking")
                print("   ", answer.solution)


if __name__ == "__main__":
    asyncio.run(main())
