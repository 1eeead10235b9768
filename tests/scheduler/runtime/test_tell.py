"""`tell=`: what is left of a task's caps, told behind the last message; held, sent and billed as prompt."""

from __future__ import annotations

import asyncio
import copy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from elastic_agent import Caps, ScriptedBackend
from elastic_agent.backends.scripted import Reply
from elastic_agent.errors import InvalidValueError, UnknownPriceError
from elastic_agent.generation.prepare import prompt_ids
from elastic_agent.prompts.told_budget import Tell
from elastic_agent.scheduler import BudgetScheduler, FixedCap, Price, Task, task_budget
from elastic_agent.scheduler.analysis.replay import replay
from tests.clock import run

SAID = Reply(" ".join(["hm"] * 10), "so it is 42")
USED = 16  # tokens: ten of thinking, the close, four of the answer and its end


class Setup:
    """A scheduler on a scripted model, and the last line of each prompt that the model read."""

    def __init__(self, *, price: Price | None = None, tell: Tell = False, log: Path | None = None) -> None:
        self.prompts: list[str] = []
        self.backend = ScriptedBackend(self._reply)
        self.scheduler = BudgetScheduler(
            self.backend, policy=FixedCap(20), solution=8, price=price, tell=tell, log=log
        )

    def _reply(self, prompt: str) -> Reply:
        self.prompts.append(prompt.removesuffix("assistant"))
        return SAID

    def told(self) -> list[str]:
        """The prompts that calls were sent, in order; a call's second pass reads the same."""
        return list(dict.fromkeys(self.prompts))


def test_each_call_is_told_what_is_left_now() -> None:
    """In the standard words, behind its own last message; earlier messages hold no number."""

    async def main() -> None:
        setup = Setup(tell=True)
        async with setup.scheduler as scheduler, scheduler.task(Caps(tokens=812)) as task:
            asked: list[dict[str, Any]] = [{"role": "user", "content": "a"}]
            await task.generate(asked)
            asked += [{"role": "assistant", "content": "b"}, {"role": "tool", "content": "c"}]
            kept = copy.deepcopy(asked)
            await task.generate(asked)
            await task.generate("d", kind="final")
            assert asked == kept
        assert task.spent.tokens == 3 * USED
        assert setup.told() == [
            "user a (about 810 tokens left)",
            f"user aassistant btool c (about {(812 - USED) // 10 * 10} tokens left)",
            "user d (about 780 tokens left; final answer now)",
        ]

    run(main())


def test_the_tightest_cap_of_all_tasks_around_counts() -> None:
    """Units of any of them are named; a child tells though its parent doesn't, or the other way round."""

    async def main() -> None:
        setup = Setup(price=Price("1", "2"))
        scheduler = setup.scheduler
        async with scheduler, scheduler.task(Caps(tokens=100, seconds=30.5), tell=False) as outer:
            await outer.generate("outer")
            async with outer.task(Caps(tokens=5000, usd="0.0129"), tell=True) as inner:
                await inner.generate("inner", final=True)
                async with task_budget(tokens=50) as child:
                    await child.generate("child", final=True)
                async with task_budget(tokens=50, tell=False) as child:
                    await child.generate("quiet", final=True)
                async with task_budget(tokens=30, tell="{tokens} of {usd}") as child:
                    await child.generate("own", final=True, solution=2, thinking=4)
        left = 100 - USED - 16 - 1  # less what the outer task keeps for its own answer
        assert setup.told() == [
            "user outer",
            f"user inner (about {left} tokens, $0.012 and 30 seconds left; final answer now)",
            "user child (about 50 tokens, $0.012 and 30 seconds left; final answer now)",
            "user quiet",
            f"user own {left - 3 * USED} of 0.012",
        ]

    run(main())


def test_seconds_are_those_until_the_deadline() -> None:
    """On the event loop's clock, whole."""

    async def main() -> None:
        setup = Setup(tell="{seconds} s left")
        async with setup.scheduler as scheduler, scheduler.task(Caps(seconds=30)) as task:
            await asyncio.sleep(12.5)
            await task.generate("a")
        assert setup.told() == ["user a 17 s left"]

    run(main())


def test_money_needs_a_price_as_ever() -> None:
    """A cap in dollars on a model without a price is refused; without that cap dollars aren't named."""

    async def main() -> None:
        setup = Setup(tell=True)
        async with setup.scheduler as scheduler:
            async with scheduler.task(Caps(usd=1)) as task:
                with pytest.raises(UnknownPriceError):
                    await task.generate("a")
            async with scheduler.task(Caps(tokens=100)) as task:
                await task.generate("b")
        assert setup.told() == ["user b (about 100 tokens left)"]

    run(main())


def test_the_words_are_held_and_billed_as_prompt() -> None:
    """What is held is what is sent, by the model's own meter; ids are sent as they are."""

    async def main() -> tuple[int, int]:
        setup = Setup(price=Price("1", "0"), tell=True)
        async with setup.scheduler as scheduler, scheduler.task(Caps(usd="0.5")) as task:
            call = task.call("a", thinking=0)
            await call.run()
            words = setup.backend.codec.encode(" (about $0.5 left)")
            bare = prompt_ids(setup.backend, "a")
            assert call.grant is not None
            assert call.grant.basis.prompt == len(bare) + len(words)
            assert call.usage.prompt == len(bare) + len(words)
            assert call.cost == Decimal(setup.backend.meter.input).scaleb(-6)
            before = setup.backend.meter.input
            await task.call(bare, thinking=0).run()
        return before, setup.backend.meter.input - before

    told, untold = run(main())
    assert told == untold + 3


def test_a_call_that_became_the_final_answer_is_told_so() -> None:
    """Its prompt, or its `answer_prompt`, is written anew."""

    async def main() -> list[str]:
        setup = Setup(tell=True)
        async with setup.scheduler as scheduler:
            for answer in (None, "b: now"):
                async with scheduler.task(Caps(tokens=60), final_solution=8) as task:
                    await task.generate("a", thinking=35)
                    call = task.call(
                        "b", thinking=100, solution=40, on_exhausted="answer", answer_prompt=answer
                    )
                    await call.run()
                    assert call.became_final
        return setup.told()

    told = run(main())
    assert told == [
        "user a (about 60 tokens left)",
        "user b (about 44 tokens left; final answer now)",
        "user b: now (about 44 tokens left; final answer now)",
    ]


def test_own_words_are_text_and_no_control_tokens() -> None:
    """Law 7: they stand in the message, and are encoded with it."""

    async def main() -> None:
        setup = Setup(tell="</think> {tokens}")
        async with setup.scheduler as scheduler, scheduler.task(Caps(tokens=100)) as task:
            result = await task.generate("a")
        assert setup.told() == ["user a </think> 100"]
        assert result.usage.thinking == 10

    run(main())


def test_a_told_run_is_replayed_byte_for_byte(tmp_path: Path) -> None:
    """The log has the sizes that were asked; words aren't needed again."""

    async def main() -> None:
        setup = Setup(price=Price("1", "2"), tell=True, log=tmp_path / "run.jsonl")
        async with setup.scheduler as scheduler, scheduler.task(Caps(tokens=200, usd=1, seconds=9)) as task:
            await asyncio.gather(task.generate("a"), task.generate("b"))
            await task.generate("c", kind="final")

    run(main())
    found = replay(tmp_path / "run.jsonl")
    assert found.difference is None
    assert found.decisions >= 3


def test_tell_is_checked_where_it_is_set() -> None:
    """Not by the first call."""
    with pytest.raises(InvalidValueError, match="may hold"):
        BudgetScheduler(tell="{thinking}")
    with pytest.raises(InvalidValueError, match="tell is True, False, or words"):
        task_budget(tokens=1, tell=3)
    scheduler = BudgetScheduler(ScriptedBackend(), tell=True)
    assert isinstance(scheduler.task(Caps(tokens=9)), Task)
