"""Thinking that is opened again behind the close is no answer, and what an answer quotes is no marker."""

from __future__ import annotations

import pytest

from elastic_agent.backends.scripted import Reply, ScriptedCodec
from elastic_agent.budget import Budget
from elastic_agent.generation.call import Call
from elastic_agent.generation.generate import generate
from elastic_agent.generation.phases.answer import AnswerReader, read_answer
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.prepare import markers_for
from elastic_agent.generation.result import Event
from tests.core.generation.saying import Saying

ADD = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}

FENCED = "see:\n```\n<think> hm </think>\n```\n so <think> x </think> done"
SAID = {
    "the fault": ("<think> secret doubts go on </think> it is 4", "it is 4", "secret doubts go on"),
    "behind an answer": ("it is 4 <think> is it? </think> indeed", "it is 4 indeed", "is it?"),
    "several": ("a <think> b </think> c <think> d </think> e", "a c e", "b d"),
    "opened twice": ("<think> a <think> b </think> c", "c", "a b"),
    "empty": ("<think> </think> it is 4", "it is 4", ""),
    "an orphan close": ("so it is </think> it is 4", "so it is it is 4", ""),
    "two orphans": ("</think> </think> it is 4", "it is 4", ""),
    "closed twice": ("<think> a </think> </think> it is 4", "it is 4", "a"),
    "inline code": ("the tag ` <think> ` opens, ` </think> ` closes", None, ""),
    "quotes": ('write " <think> secret </think> " there', None, ""),
    "a fence": (FENCED, FENCED.replace("<think> x </think> ", ""), "x"),
    "behind a fence": ("```\ncode\n``` <think> x </think> done", "```\ncode\n``` done", "x"),
    "an apostrophe": ("it's <think> x </think> 4", "it's 4", "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
async def test_what_is_opened_again_is_reasoning(name: str) -> None:
    """C 13 and its siblings: read along, and read at the end, in every budget of thinking."""
    said, answer, again = SAID[name]
    for thinking in (0, 2, 9):
        for thought in ("a b c d", ""):
            backend = Saying(Reply(thought, said))
            result = await generate(backend, "say", Budget(thinking, 99))
            assert squeezed(result.solution) == squeezed(said if answer is None else answer)
            assert squeezed(result.reopened) == squeezed(again)
            assert result.solution_end is SolutionEnd.EOS
            assert result.usage.solution == len(result.solution_ids) == len(said.split()) + 1
            assert (result.usage.reopened > 0) == ("<think>" in said and answer is not None)
            call = Call(backend, "say", Budget(thinking, 99))
            events = [event async for event in call]
            assert text(events, Segment.SOLUTION) == squeezed(result.solution)
            assert text(events, Segment.REOPENED) == squeezed(result.reopened)
            assert [i for e in events for i in e.ids] == list(call.result().output_ids)
            assert call.result().solution == result.solution


def squeezed(said: str) -> str:
    """Without blanks: a scripted marker that is quoted has none before it."""
    return "".join(said.split())


def text(events: list[Event], segment: Segment) -> str:
    return squeezed("".join(e.text for e in events if e.segment is segment))


@pytest.mark.parametrize("said", ["<think> secret doubts", "it is 4 <think> secret", "<think>"])
async def test_opened_again_and_never_closed_is_no_end_of_an_answer(said: str) -> None:
    """The model stopped while it thought: that is said, and what it thought is not shown as its answer."""
    result = await generate(Saying(Reply("a b", said)), "say", Budget(9, 99))
    assert result.solution_end is SolutionEnd.REOPENED
    assert result.solution == said.partition("<think>")[0].strip()
    cut = await generate(Saying(Reply("a b", f"{said} and on and on")), "say", Budget(9, 3))
    assert cut.solution_end is SolutionEnd.LENGTH
    assert cut.usage.solution == 3
    assert "secret" not in cut.solution


@pytest.mark.parametrize("solution", range(1, 9))
async def test_the_solutions_limit_covers_it(solution: int) -> None:
    """Law 3: what is opened again is in the solution's limit, to the token."""
    backend = Saying(Reply("a b c", "<think> b </think> it is 4 ."))
    result = await generate(backend, "say", Budget(2, solution))
    assert result.usage.solution == min(solution, 8)
    assert result.usage.reopened == min(solution, 3)
    assert result.usage.metered_output == backend.meter.output
    assert result.usage.reasoning == 2 + result.usage.reopened


async def test_a_stop_string_is_looked_for_in_the_answer_alone() -> None:
    """A stop string in thinking is none, before the close or behind it."""
    backend = Saying(Reply("a STOP b", "<think> STOP </think> it is STOP no"))
    result = await generate(backend, "say", Budget(9, 99), stop=["STOP"])
    assert (result.solution, result.stop) == ("it is", "STOP")


async def test_a_marker_spelled_in_plain_tokens_stays_text() -> None:
    """A vocabulary with a token of its own for the marker spells it otherwise only where it is quoted."""
    from elastic_agent.backends.scripted import ScriptedBackend

    said = "<think> is a tag </think> indeed"
    result = await generate(ScriptedBackend(Reply("a b", said)), "say", Budget(9, 99))
    assert (result.solution, result.reopened) == (said, "")


async def test_in_a_tool_call_markers_are_data() -> None:
    """An argument may hold them; behind the call they are markers again."""
    call = '<tool_call> {"name": "say", "arguments": {"x":\n"a\n <think> b"}} </tool_call>'
    said = f"{call} <think> secret </think> done"
    result = await generate(Saying(Reply("a", said)), "say", Budget(9, 99), tools=[ADD])
    assert squeezed(result.solution) == squeezed(f"{call} done")
    assert result.reopened == "secret"


def test_a_reader_gives_out_every_token_once() -> None:
    """Whatever is held back comes in the end, in order."""
    codec = ScriptedCodec(close=(5, 6, 5))
    tape = [5, 6, 9, 2, 5, 5, 6, 5, 6, 5, 2, 2, 9, 5]
    reader = AnswerReader(codec.markers)
    spans = [s for token in tape for s in reader.take(token)] + reader.end()
    assert [i for s in spans for i in s.ids] == tape
    assert reader.inside
    assert [i for s in spans if not s.reopened for i in (s.ids if s.text_ids is None else s.text_ids)] == [
        5,
        6,
        9,
        6,
        5,
    ]


def test_a_hostile_answer_is_read_in_linear_time() -> None:
    """Many markers cost each as much as one."""
    codec = ScriptedCodec()
    markers = markers_for(codec, tools=True)
    word = codec.encode("`x")[0]
    assert read_answer(markers, [word, *markers.open_ids, *markers.close_ids] * 5_000).text_ids


async def test_a_call_that_ended_in_thinking_is_no_answer_of_its_task() -> None:
    """Law 4: the reserve of a task's answer is kept until there is one."""
    from elastic_agent.budget import Caps
    from elastic_agent.scheduler import BudgetScheduler

    backend = Saying(Reply("a b", "<think> hm"))
    async with BudgetScheduler(backend) as scheduler, scheduler.task(Caps(tokens=500)) as task:
        await task.generate("say", thinking=4, solution=50, final=True)
        assert [call.outcome for call in task.report().calls] == ["stopped"]
        assert task.report().calls[0].solution_end == "reopened"


async def test_thinking_end_and_the_other_segments_are_as_ever() -> None:
    """What is opened again changes nothing before the close."""
    result = await generate(Saying(Reply("a b c", "<think> x </think> 4")), "say", Budget(9, 99))
    assert (result.thinking, result.thinking_end) == ("a b c", ThinkingEnd.NATURAL)
    assert result.sampled.count(False) == 0


@pytest.mark.parametrize("controls", [(), ("<think>", "</think>", "<tool_call>")])
async def test_on_vocabularies_with_the_merges_of_real_ones(controls: tuple[str, ...]) -> None:
    """Markers as control tokens, and as text that is merged with what stands around it."""
    from elastic_agent.prompts.tokenizer import HFCodec
    from tests.core.prompts.vocabularies import QUESTION, Speaker, merging

    codec = HFCodec(merging(controls=controls))
    cases = {
        'so.</think>\n\n<think>secret.</think>{"a": 4}': ('{"a": 4}', "secret."),
        "so.</think>\n\nit is <think>\nsecret</think>4 <think>b</think>\n": ("it is 4", "secretb"),
        "so.</think>\n\nx.</think>4": ("x.4", ""),
        "so.</think>\n\n<th is no tag": ("<th is no tag", ""),
        "so.</think>\n\n`<think>` opens, `</think>` ends": ("`<think>` opens, `</think>` ends", ""),
        "so.</think>\n\n```\n<think>\n```\n4": ("```\n<think>\n```\n4", ""),
    }
    for said, (answer, again) in cases.items():
        backend = Speaker(codec, said, context_length=4096)
        result = await generate(backend, QUESTION, Budget(40, 99))
        assert (result.solution, result.reopened) == (answer, again), said
        assert list(result.output_ids) == backend.tape
        assert result.usage.metered_output == backend.meter.output
        call = Call(Speaker(codec, said, context_length=4096), QUESTION, Budget(40, 99))
        events = [event async for event in call]
        assert text(events, Segment.SOLUTION) == squeezed(answer)
        assert [i for e in events for i in e.ids] == list(call.result().output_ids)
    begun = 'so it is.<tool_call>\n{"name": "add", "arguments": {"a": 1}}'
    backend = Speaker(codec, begun, context_length=4096)
    result = await generate(backend, QUESTION, Budget(60, 9), tools=[ADD])
    assert result.thinking_end is ThinkingEnd.TOOL_CALL
    assert result.thinking in ("so it is.", "so it is")  # a token may begin the tag and end a word
    assert result.usage.metered_output == backend.meter.output
    assert result.began_call
