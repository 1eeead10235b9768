"""Evaluation of models whose markers are plain text: strategies find them across the borders of tokens."""

from __future__ import annotations

import pytest

from elastic_agent.backends.base import Sampling
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.prompts.marker_profiles import MarkerText
from elastic_agent.prompts.tokenizer import HFCodec
from elastic_agent.training.evaluation.strategies.passes import Chunk, StrategyInputs, Transcript
from elastic_agent.training.evaluation.strategies.strategies import make_strategy
from tests.core.prompts.vocabularies import QUESTION, merging

PREFILLED = HFCodec(merging())
OPENS_ITSELF = HFCodec(merging(prefill=""), markers=MarkerText("<think>", "</think>"))


def drawn(codec: HFCodec, name: str, says: str, t: int, answer: str = "ok") -> Transcript:
    """A sample of a model that says one text, and `answer` where a strategy has it go on elsewhere."""

    def ids(text: str) -> list[int]:
        found: list[int] = codec.tokenizer.encode(text, add_special_tokens=False)
        return [*found, codec.tokenizer.eos_token_id]

    prompt = tuple(codec.encode_chat(QUESTION))
    inputs = StrategyInputs(prompt, t, 40, False, codec, Sampling())
    running = make_strategy(name).run(inputs)
    asking = next(running)
    tape, source, left, stops = ids(says), list[int](), 0, frozenset[int]()
    while True:
        if asking is not None:
            written = list(asking.request.prompt_ids[len(prompt) :])
            source = tape[len(written) :] if written == tape[: len(written)] else ids(answer)
            left, stops = asking.request.max_tokens, asking.request.stop_ids
        token, source, left = source[0], source[1:], left - 1
        try:
            asking = running.send(Chunk((token,), "stop" if token in stops else None if left else "length"))
        except StopIteration as end:
            found: Transcript = end.value
            return found


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        *((PREFILLED, name) for name in ("elastic", "truncate", "l1-exact", "early-exit:every=64")),
        *((OPENS_ITSELF, name) for name in ("elastic", "truncate", "l1-exact")),
    ],
)
def test_a_close_that_shares_its_tokens(codec: HFCodec, name: str) -> None:
    """`.</` `think` `>{"`: the segments' texts are whole, whatever found them."""
    begin = "" if codec is PREFILLED else "<think>\n"
    said = drawn(codec, name, begin + 'so it is.</think>{"a": 4}', 60)
    assert said.text(Segment.THINKING, codec) == "so it is."
    assert said.text(Segment.SOLUTION, codec) == '{"a": 4}'
    assert said.finished
    assert not said.cut


@pytest.mark.parametrize("name", ["elastic", "early-exit:every=64"])
def test_a_cut(name: str) -> None:
    """The same where thinking is cut."""
    said = drawn(PREFILLED, name, "so it is.</think>4", 3)
    assert said.cut
    assert said.sampled(Segment.THINKING) == 3
    assert said.text(Segment.SOLUTION, PREFILLED) == "ok"
