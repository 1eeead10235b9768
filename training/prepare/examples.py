"""Traces as token ids with their loss mask, the rows that are kept apart, and the order of a run."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from elastic_agent.errors import DataError
from elastic_agent.prompts.markers import Markers, Opening

from .prepared import Prepared
from .traces import Trace

MASKED = -100
"""The label of a token that is not learnt."""


@dataclass(frozen=True, slots=True)
class Example:
    """One trace as the model sees it: prompt, then what it learns to write.

    Attributes:
        ids: all tokens.
        prompt: how many of them are the prompt.
        thinking, solution: how many belong to each; with the close they are all that is learnt.
    """

    trace: Trace
    ids: tuple[int, ...]
    prompt: int
    thinking: int
    solution: int

    @property
    def labels(self) -> list[int]:
        """`ids`, masked but for thinking, close, solution and end of text."""
        return [MASKED] * self.prompt + list(self.ids[self.prompt :])


def example_of(trace: Trace, prepared: Prepared) -> Example:
    """A trace as ids.

    Each part is encoded by itself, as in a call of the finished model: the close is the ids that a forced
    close appends. Control strings in a trace stay text.

    Raises:
        DataError: the chat template closes thinking before the answer begins, or makes a control token out
            of the question.
    """
    codec = prepared.codec
    markers: Markers = codec.markers
    prompt = codec.encode_chat(trace.question)
    if markers.opening(prompt) is Opening.CLOSED:
        raise DataError(f"{trace.where}: the chat template of {prepared.base.name} switches thinking off")
    opened = [*markers.to_open(prompt), *codec.encode("\n")] if markers.to_open(prompt) else []
    thinking = [*opened, *(codec.encode(f"{trace.thinking}\n") if trace.thinking else ())]
    solution = [*codec.encode(f"\n\n{trace.solution}"), prepared.end]
    ids = (*prompt, *thinking, *markers.close_ids, *solution)
    return Example(trace, ids, len(prompt), len(thinking), len(solution))


def make_examples(
    traces: Sequence[Trace], prepared: Prepared, context: int, log: Callable[[str], None]
) -> list[Example]:
    """The traces that fit into `context` tokens; `log` gets how many don't, and which hold markers as text.

    Raises:
        DataError: none fits, or as `example_of` does.
    """
    every = [example_of(trace, prepared) for trace in traces]
    kept = [example for example in every if len(example.ids) <= context]
    if len(kept) < len(every):
        longest = max(len(example.ids) for example in every)
        log(f"{len(every) - len(kept)} of {len(every)} traces left out: over {context} tokens (--context)")
        if not kept:
            raise DataError(f"no trace fits into {context} tokens; the longest has {longest}")
    pair = prepared.plan.pair
    texts = [text for text in (pair.open, pair.close) if text]
    marked = [t for t in traces if any(text in f"{t.thinking}\n{t.solution}" for text in texts)]
    if marked:
        log(
            f"{len(marked)} traces hold {' or '.join(texts)} in thinking or solution ({marked[0].where}): "
            f"it is taken as text, not as the marker. If a column holds whole answers, split it at the marker"
        )
    return kept


def keep_apart(examples: Sequence[Example], most: int, seed: int) -> tuple[list[Example], list[Example]]:
    """(to learn from, to ask afterwards): at most a tenth of the questions is kept apart, one row of each.

    Rows that ask a question which is kept apart are not learnt from, either.
    """
    by_question: dict[object, list[Example]] = {}
    for example in examples:
        by_question.setdefault(example.trace.asked, []).append(example)
    count = min(most, max(1, len(by_question) // 10)) if len(by_question) > 1 else 0
    apart = set(random.Random(seed).sample(sorted(by_question, key=repr), count))
    learnt = [example for example in examples if example.trace.asked not in apart]
    return learnt, [rows[0] for question, rows in by_question.items() if question in apart]


def order_of(examples: Sequence[Example], batch: int, steps: int, seed: int) -> list[int]:
    """The rows of a run in order: whole passes over the examples, each in a random order of its own.

    Fixed before the run, so the number of a step alone says which rows it takes. Within a batch the longest
    rows come first: rows of like length are padded little, and what does not fit into memory shows at once.
    """
    rng = random.Random(seed)
    order: list[int] = []
    while len(order) < batch * steps:
        order += rng.sample(range(len(examples)), len(examples))
    batches = (order[at : at + batch] for at in range(0, batch * steps, batch))
    return [i for rows in batches for i in sorted(rows, key=lambda i: -len(examples[i].ids))]
