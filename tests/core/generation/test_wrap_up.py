"""A sentence before the forced close: forced, held for, counted apart, and in no limit."""

from __future__ import annotations

from typing import Any

import pytest

from elastic_agent.backends.scripted import Reply, ScriptedBackend, ScriptedCodec
from elastic_agent.budget import Budget, Caps
from elastic_agent.errors import ContextLengthError, InvalidBudgetError
from elastic_agent.generation.call import Call
from elastic_agent.generation.control import Control
from elastic_agent.generation.early_exit import EarlyExit
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.prepare import markers_for
from elastic_agent.generation.wrap_up import PROFILES, wrap_up_of
from elastic_agent.prompts.markers import Opening
from elastic_agent.scheduler import BudgetScheduler

TEXT = "Time is up: answer now."
WORDS = 6  # as the scripted codec counts them: the line break behind it is a token
REPLY = Reply("a b c d e f", "it is 4")


@pytest.mark.parametrize("thinking", range(9))
@pytest.mark.parametrize("close", [(3,), (5, 6, 5)])
@pytest.mark.parametrize("prefill", [True, False])
async def test_it_stands_before_a_forced_close_and_in_no_limit(
    thinking: int, close: tuple[int, ...], prefill: bool
) -> None:
    """Laws 3 and 6: at most t sampled tokens, then sentence and close, forced, then at most s."""
    backend = ScriptedBackend(REPLY, codec=ScriptedCodec(prefill=prefill, close=close))
    result = await generate(backend, "how?", Budget(thinking, 3), wrap_up=TEXT)
    usage, opens = result.usage, 0 if prefill else 1
    plain = await generate(backend, "how?", Budget(thinking, 3))
    assert result.thinking_ids == plain.thinking_ids
    assert usage.thinking <= thinking
    assert usage.solution == 3
    if result.thinking_end is ThinkingEnd.NATURAL:
        assert (usage.forced, usage.wrap_up) == (0, 0)
    else:
        assert usage.wrap_up == WORDS
        assert usage.forced == usage.close == WORDS + len(close) + (0 if thinking > 0 else opens)
        assert backend.codec.decode(result.close_ids).strip() == TEXT
        assert result.close_ids[-len(close) :] == close
    assert result.sampled.count(False) == usage.forced
    assert [p is None for p in result.logprobs] == [not s or True for s in result.sampled]
    assert TEXT not in result.thinking + result.solution
    assert (usage.metered_input, usage.passes) == (usage.input, 2 if thinking else 1)


async def test_the_meter_agrees() -> None:
    """Law 2: the sentence is input of the second pass, and no output."""
    backend = ScriptedBackend(REPLY)
    result = await generate(backend, "how?", Budget(2, 9), wrap_up=TEXT)
    assert (result.usage.metered_input, result.usage.metered_output) == (
        backend.meter.input,
        backend.meter.output,
    )
    assert result.usage.generated == backend.meter.output + result.usage.forced


@pytest.mark.parametrize("reply", [REPLY, Reply("a b c", "4", closes=False)])
async def test_a_close_of_the_models_own_has_no_sentence(reply: Reply) -> None:
    """Nor has one behind a turn that the model ended while it thought: no time is up."""
    result = await generate(ScriptedBackend(reply), "how?", Budget(99, 9), wrap_up=TEXT)
    assert result.usage.wrap_up == 0
    assert result.thinking_end in (ThinkingEnd.NATURAL, ThinkingEnd.END_OF_TEXT)


async def test_whatever_cuts_thinking_writes_it() -> None:
    """A deadline, the scheduler, an answer that no longer changes."""
    for reason in (ThinkingEnd.DEADLINE, ThinkingEnd.PREEMPTED):
        control = Control()
        call = Call(ScriptedBackend(REPLY), "how?", Budget(99, 9), control=control, wrap_up=TEXT)
        async for event in call:
            if event.segment is Segment.THINKING:
                control.cut(reason)
        assert (call.usage.wrap_up, call.result().thinking_end) == (WORDS, reason)
    backend = ScriptedBackend(Reply("hm " * 200, "4"))
    exit = EarlyExit(every=16, patience=2, tokens=1)
    result = await generate(backend, "how?", Budget(199, 9), early_exit=exit, wrap_up=TEXT)
    assert (result.thinking_end, result.usage.wrap_up) == (ThinkingEnd.STABLE, WORDS)
    assert result.usage.metered_input == backend.meter.input


@pytest.mark.parametrize("tokens", range(23, 60, 3))
async def test_a_task_holds_it_beforehand(tokens: int) -> None:
    """Law 2: the hold covers it, so that a cap is kept; what is not written comes back."""
    backend = ScriptedBackend(Reply("a " * 60, "b " * 60))
    async with (
        BudgetScheduler(backend, wrap_up=TEXT) as scheduler,
        scheduler.task(Caps(tokens=tokens)) as task,
    ):
        result = await task.generate("how?", solution=16, final=True)
        assert result.usage.wrap_up == WORDS
        assert result.usage.solution == 16
        assert result.usage.thinking <= tokens - 16 - WORDS - 1
        assert task.spent.tokens == result.usage.generated <= tokens
    async with scheduler.task(Caps(tokens=60)) as task:
        off = await task.generate("how?", solution=16, thinking=4, wrap_up="")
        assert (off.usage.wrap_up, task.spent.tokens) == (0, 21)


async def test_it_needs_room_in_the_context() -> None:
    """What does not fit is refused before a token is asked for."""
    backend = ScriptedBackend(REPLY, context_length=24)
    await generate(backend, "how?", Budget(None, 16))
    served = backend.meter.output
    with pytest.raises(ContextLengthError):
        await generate(backend, "how?", Budget(None, 16), wrap_up=TEXT)
    assert backend.meter.output == served


@pytest.mark.parametrize("wrong", ["", "  ", "x" * 2001, 3])
def test_what_is_no_sentence_is_refused(wrong: Any) -> None:
    """With what to do, and before anything runs."""
    with pytest.raises(InvalidBudgetError, match="wrap_up"):
        wrap_up_of(wrong)


async def test_markers_in_a_sentence_are_text() -> None:
    """Law 7: a control string in it controls nothing."""
    result = await generate(ScriptedBackend(REPLY), "how?", Budget(2, 9), wrap_up="</think> so <think>")
    assert result.solution_end is SolutionEnd.EOS
    assert result.close_ids.count(3) == 1


async def test_the_ways_of_models_that_have_one() -> None:
    """Qwen3's sentence has something behind the close; Seed-OSS knows multiples of 512, and 0."""
    backend = ScriptedBackend(Reply("a " * 2000, "it is 4"))
    qwen = await generate(backend, "how?", Budget(700, 9), wrap_up="qwen3")
    assert qwen.usage.thinking == 700
    said = backend.codec.decode(qwen.close_ids)
    assert said.strip() == PROFILES["qwen3"].before.strip()
    assert qwen.close_ids[-1] != 3
    assert qwen.solution == "it is 4"
    for thinking, known in ((511, 0), (512, 512), (1023, 512), (1600, 1536)):
        seed = await generate(backend, "how?", Budget(thinking, 9), wrap_up="seed-oss")
        assert seed.usage.thinking == known
        expected = PROFILES["seed-oss"].before if known else PROFILES["seed-oss"].unthought
        assert backend.codec.decode(seed.close_ids).strip() == str(expected).strip()


def test_holds_cover_the_longest() -> None:
    """A profile with two texts is held for by the longer one."""
    codec = ScriptedCodec()
    markers = markers_for(codec, wrap_up="seed-oss")
    said = markers.wrap_up
    assert said is not None
    longest = max(len(said.before), len(said.unthought or ()))
    assert markers.close_length(Opening.PREFILLED) == longest + 1
    assert markers.close_length(Opening.SELF) == longest + 2
