"""What the reasoning traces promise: known words, right answers, styles that differ in cost, early stops."""

import random

import pytest

from elastic_agent.training.data.word_problems import make_problem, parse_answer
from tools.e1_tiny.tokenizer import vocabulary
from tools.e1_tiny.traces import STYLE_SHARES, render_trace, words


def test_traces_stay_within_the_vocabulary() -> None:
    rng, vocab = random.Random(0), vocabulary()
    for _ in range(300):
        problem = make_problem(rng)
        trace = render_trace(problem, rng)
        assert set(trace.thinking) | set(trace.solution) | set(words(problem.text)) <= set(vocab)


@pytest.mark.parametrize("style", list(STYLE_SHARES))
def test_a_trace_that_thinks_to_its_end_answers_right(style: str) -> None:
    rng = random.Random(1)
    for _ in range(50):
        problem = make_problem(rng)
        trace = render_trace(problem, rng, style=style, early=False)  # type: ignore[arg-type]
        assert parse_answer(" ".join(trace.solution)) == problem.answer


def test_styles_cost_what_their_names_say() -> None:
    rng = random.Random(2)
    problem = make_problem(rng, 5)
    lengths = [
        len(render_trace(problem, rng, style=style, early=False).thinking)
        for style in ("overthinking", "verbose", "plain", "concise")
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 2 * lengths[2]


def test_early_stops_sometimes_finish_and_sometimes_guess() -> None:
    """The seed of what E1 reinforces is in the data, and only sometimes."""
    rng = random.Random(3)
    right = []
    for _ in range(400):
        problem = make_problem(rng, 5)
        trace = render_trace(problem, rng, early=True)
        assert trace.early
        right.append(parse_answer(" ".join(trace.solution)) == problem.answer)
    assert 0.35 < sum(right) / len(right) < 0.75
