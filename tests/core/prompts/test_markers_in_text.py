"""Markers that are plain text: found across the borders of tokens, and limits kept to the token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.budget import Budget
from elastic_agent.generation.generate import generate, stream
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.result import Event, Generation
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.markers import Opening
from elastic_agent.prompts.tokenizer import HFCodec
from tests.core.prompts.vocabularies import QUESTION, Speaker, merging

CODEC = HFCodec(merging())
OPENS_ITSELF = HFCodec(merging(prefill=""), markers=MarkerText("<think>", "</think>"))


def ids(text: str) -> list[int]:
    found: list[int] = CODEC.tokenizer.encode(text, add_special_tokens=False)
    return found


def texts(tokens: list[int]) -> list[str]:
    return [CODEC.tokenizer.decode([i]) for i in tokens]


def test_the_vocabulary_merges_across_markers_as_real_ones_do() -> None:
    """What the tests below rest on."""
    assert texts(ids("<think>")) == ["<th", "ink", ">"]
    assert texts(ids("<think>\n")) == ["<th", "ink", ">\n"]
    assert texts(ids(".</think>")) == [".</", "think", ">"]
    assert texts(ids("</think>\n\n")) == ["</", "think", ">\n\n"]


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("<|im_start|>assistant\n<think>\n", Opening.PREFILLED),
        ("<|im_start|>assistant\n<think>", Opening.PREFILLED),
        ("<|im_start|>assistant\n<think>\nso.</think>", Opening.CLOSED),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Opening.CLOSED),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n<think>\n", Opening.PREFILLED),
        ("<|im_start|>assistant\n", Opening.SELF),
        ("<think>\nso.</think>\n\n4<|im_end|>\n<|im_start|>assistant\n", Opening.SELF),
        ("<|im_start|>assistant\n<think", Opening.SELF),
    ],
)
def test_openings_across_borders(prompt: str, opening: Opening) -> None:
    """A template's `<think>\\n` is read as an open block though no token of it is the marker's last."""
    assert CODEC.markers.opening(ids(prompt)) is opening


@given(st.lists(st.sampled_from(["<think>", "</think>", "<think", "<", "/", "think>", "</", "a", "\n", ">"])))
def test_a_user_spells_no_marker(parts: list[str]) -> None:
    """Law 7: text of a user that reads like a marker is none, whether or not turns can be told apart."""
    text = "".join(parts)
    assert OPENS_ITSELF.markers.opening(OPENS_ITSELF.encode(text)) is Opening.SELF
    for other in parts:
        halves = [*OPENS_ITSELF.encode(text), *OPENS_ITSELF.encode(other)]
        assert OPENS_ITSELF.markers.opening(halves) is Opening.SELF
    assert OPENS_ITSELF.decode(OPENS_ITSELF.encode(text)) == text


async def say(
    says: str | list[int], t: int, s: int = 64, codec: HFCodec = CODEC
) -> tuple[Generation, Speaker]:
    """What comes of it, the same when streamed."""
    backend = Speaker(codec, says, context_length=4096)
    done = await generate(backend, QUESTION, Budget(t, s))
    events: list[Event] = []
    async for event in stream(Speaker(codec, says, context_length=4096), QUESTION, Budget(t, s)):
        events.append(event)
    streamed = {seg: "".join(e.text for e in events if e.segment is seg).strip() for seg in Segment}
    assert streamed[Segment.THINKING] == done.thinking
    assert streamed[Segment.SOLUTION] == done.solution
    assert tuple(i for e in events for i in e.ids) == done.output_ids
    return done, backend


async def test_a_close_that_shares_its_tokens() -> None:
    """The minimal input: `.</` `think` `>` ends thinking; the full stop stays in it, ids stay as sampled."""
    says = 'so it is.</think>\n\n{"a": 4}'
    done, backend = await say(says, 40)
    assert (done.thinking, done.solution) == ("so it is.", '{"a": 4}')
    assert done.thinking_end is ThinkingEnd.NATURAL
    assert done.solution_end is SolutionEnd.EOS
    assert texts(list(done.close_ids)) == [".</", "think", ">\n\n"]
    assert list(done.output_ids) == backend.tape
    assert all(done.sampled)
    assert (done.usage.forced, done.usage.close, done.usage.passes) == (0, 3, 2)


async def test_a_close_that_begins_the_answer() -> None:
    """A token that ends the close and begins the answer: no letter of the answer is lost."""
    done, _ = await say('so.</think>{"a": 4}', 40)
    assert texts(list(done.close_ids)) == [".</", "think", '>{"']
    assert done.solution == '{"a": 4}'


@pytest.mark.parametrize("t", range(12))
async def test_limits_are_kept_to_the_token(t: int) -> None:
    """Law 3: at most t tokens are sampled before the close, which is forced where it did not come in time."""
    says = "so it is.</think>\n\n4"
    done, backend = await say(says, t)
    natural = len(ids("so it is.</think>\n\n"))
    if t >= natural:
        assert done.thinking_end is ThinkingEnd.NATURAL
        assert done.usage.thinking + done.usage.close == natural
    else:
        assert done.thinking_end is ThinkingEnd.BUDGET
        assert list(done.thinking_ids) == backend.tape[:t]
        assert done.close_ids == CODEC.markers.close_ids
        assert done.solution == "ok"
    assert done.sampled.count(False) == done.usage.forced
    assert done.usage.metered_output == backend.meter.output


@given(
    t=st.integers(0, 40), cut=st.lists(st.sampled_from(["<", "/", "th", "ink", "</think>", ">", ".", "a"]))
)
def test_any_tokens_that_spell_the_close_end_thinking(t: int, cut: list[str]) -> None:
    """However the close is cut into tokens, thinking ends where the text says so, within the limit."""
    import asyncio

    says = [i for part in [*cut, "</", "th", "ink", ">", " 4"] for i in ids(part)]
    text = "".join(cut) + "</think> 4"
    done, _ = asyncio.run(say(says, t))
    at = next((n for n in range(1, t + 1) if "</think>" in CODEC.tokenizer.decode(says[:n])), None)
    if at is None:
        assert done.thinking_end in (ThinkingEnd.BUDGET, ThinkingEnd.END_OF_TEXT)
        assert len(done.thinking_ids) == min(t, len(says))
    else:
        assert done.thinking_end is ThinkingEnd.NATURAL
        assert done.usage.thinking + done.usage.close == at
        assert done.thinking == text.split("</think>")[0].strip()
        # A close that nothing opened says nothing
        assert done.solution == text.split("</think>", 1)[1].replace("</think>", "").strip()


async def test_the_model_opens_in_text() -> None:
    """A start marker that the model writes itself is found across borders, and not shown."""
    done, _ = await say("<think>\nso it is.</think>\n\n4", 40, codec=OPENS_ITSELF)
    assert (done.thinking, done.solution) == ("so it is.", "4")
    assert done.thinking_end is ThinkingEnd.NATURAL
    done, _ = await say("\n<think>so it is", 6, codec=OPENS_ITSELF)
    assert (done.thinking, done.solution, done.usage.thinking) == ("so", "ok", 6)
    assert done.close_ids == OPENS_ITSELF.markers.close_ids


@pytest.mark.parametrize("says", ["4", "<th", "<thx</think>", "\n\n4", "<think"])
async def test_the_model_does_not_open(says: str) -> None:
    """What only begins like a start marker is the answer, whole; a close that nothing opened says nothing."""
    done, _ = await say(says, 40, codec=OPENS_ITSELF)
    assert done.thinking_end is ThinkingEnd.NEVER_OPENED
    assert (done.thinking, done.solution) == ("", says.replace("</think>", "").strip())


async def test_opened_and_closed_in_one_token() -> None:
    """`<think></think>`: a token that ends one marker and begins the other."""
    done, _ = await say("<think></think>4", 40, codec=OPENS_ITSELF)
    assert (done.thinking, done.solution) == ("", "4")
    assert done.thinking_end is ThinkingEnd.NATURAL


async def test_a_start_marker_cut_by_the_limit_is_completed() -> None:
    """A forced close adds what is missing of a start marker that the model has begun."""
    done, _ = await say("<think>\nso", 2, codec=OPENS_ITSELF)
    close = done.close_ids
    assert OPENS_ITSELF.tokenizer.decode([*done.thinking_ids, *close]) == "<think></think>"
    assert done.sampled[:2] == (True, True)
    assert done.usage.forced == len(close)
