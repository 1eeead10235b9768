"""What is learnt of a trace, token by token; which rows are kept apart; the order of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastic_agent.errors import DataError
from elastic_agent.training.prepare.base import read_base
from elastic_agent.training.prepare.examples import (
    MASKED,
    Example,
    example_of,
    keep_apart,
    make_examples,
    order_of,
)
from elastic_agent.training.prepare.markers import plan_markers
from elastic_agent.training.prepare.prepared import Prepared, prepare_tokenizer
from elastic_agent.training.prepare.traces import Trace
from tests.training.prepare.bases import bpe, make_base


@pytest.fixture(scope="module", params=[2, 0], ids=["tokens", "text"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("base")
    base = read_base(str(make_base(folder / "base", bpe(), spare=request.param)))
    return prepare_tokenizer(base, plan_markers(base, None), folder / "start")


def trace(number: int = 0, thinking: str = "so 5 .", solution: str = "it is 5", asked: str = "") -> Trace:
    question = ({"role": "user", "content": asked or f"how many {number} ?"},)
    return Trace(f"t.jsonl, line {number}", question, thinking, solution)


def test_the_loss_mask(prepared: Prepared) -> None:
    """Thinking, close, solution and end of text are learnt, as the ids that a call of the model has."""
    codec, tokenizer = prepared.codec, prepared.tokenizer

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    prompt = ids("<|im_start|>user\nhow many 0 ?<|im_end|>\n<|im_start|>assistant\n<think>\n")
    close, end = list(codec.markers.close_ids), tokenizer.convert_tokens_to_ids("<|im_end|>")
    example = example_of(trace(), prepared)
    learnt = [*ids("so 5 .\n"), *close, *ids("\n\nit is 5"), end]
    assert list(example.ids) == prompt + learnt
    assert example.labels == [MASKED] * len(prompt) + learnt
    empty = example_of(trace(thinking=""), prepared)
    assert list(empty.ids) == [*prompt, *close, *ids("\n\nit is 5"), end]
    assert (empty.thinking, empty.solution) == (0, len(ids("\n\nit is 5")) + 1)


def test_control_strings_in_a_trace_are_text(prepared: Prepared) -> None:
    """Law 7: the only control tokens that are learnt are the close between the two, and the end."""
    odd = "<|im_end|> </think> <think> <|im_start|>"
    example = example_of(trace(thinking=odd, solution=odd, asked=odd), prepared)
    codec, plain = prepared.codec, example_of(trace(), prepared)
    control = {prepared.tokenizer.convert_tokens_to_ids(text) for text in ("<|im_end|>", "<|im_start|>")}
    if not codec.markers.close_in_text:
        control |= {*codec.markers.open_ids, *codec.markers.close_ids}
    assert [i for i in example.ids if i in control] == [i for i in plain.ids if i in control]
    decoded = prepared.tokenizer.decode(example.ids[example.prompt :])
    assert decoded.count(odd) == 2


def test_what_does_not_fit_is_left_out_and_said(prepared: Prepared) -> None:
    """So are markers that stand in a column as text."""
    said: list[str] = []
    traces = [trace(1), trace(2, thinking="two " * 200), trace(3, solution="a </think> b")]
    kept = make_examples(traces, prepared, 100, said.append)
    assert [one.trace for one in kept] == [traces[0], traces[2]]
    assert said[0] == "1 of 3 traces left out: over 100 tokens (--context)"
    assert said[1].startswith("1 traces hold <think> or </think> in thinking or solution (t.jsonl, line 3)")
    with pytest.raises(DataError, match=r"no trace fits into 9 tokens; the longest has \d+"):
        make_examples(traces, prepared, 9, said.append)


def test_questions_are_kept_apart(tmp_path: Path) -> None:
    """By seed, at most a tenth; no row that asks one of them is learnt from."""
    examples = [Example(trace(n % 20, thinking=str(n)), (n,), 0, 0, 0) for n in range(60)]
    learnt, asked = keep_apart(examples, 32, seed=1)
    assert len(asked) == 2
    assert len(learnt) == 54
    assert not {one.trace.asked for one in learnt} & {one.trace.asked for one in asked}
    assert keep_apart(examples, 32, seed=1) == (learnt, asked)
    assert keep_apart(examples, 32, seed=2)[1] != asked
    assert keep_apart(examples, 0, seed=1) == (examples, [])
    assert len(keep_apart(examples[:2], 32, seed=1)[1]) == 1
    assert keep_apart(examples[:1], 32, seed=1) == (examples[:1], [])


def test_the_order_is_whole_passes_with_long_rows_first() -> None:
    """A step's rows follow from its number alone; each row is seen as often as any other."""
    examples = [Example(trace(n), (0,) * (n + 1), 0, 0, 0) for n in range(6)]
    order = order_of(examples, 4, 6, seed=3)
    assert len(order) == 24
    assert sorted(order) == sorted([*range(6)] * 4)
    batches = [order[at : at + 4] for at in range(0, 24, 4)]
    assert all(rows == sorted(rows, reverse=True) for rows in batches)
    assert order_of(examples, 4, 3, seed=3) == order[:12]
    assert order_of(examples, 4, 6, seed=4) != order
