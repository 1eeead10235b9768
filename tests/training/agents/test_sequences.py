"""Calls as sequences: every sampled token once, behind exactly what the model had read when it sampled it."""

from hypothesis import example, given
from hypothesis import strategies as st

from elastic_agent.training.agents.sequences import row_of, sequences_of
from elastic_agent.training.rollouts.trl_columns import EpisodeRow, episode_columns
from tests.training.episode_rows import Recorded, call


@st.composite
def episodes(draw: st.DrawFn) -> list[Recorded]:
    """Calls whose prompts begin anew, or with all or a part of what an earlier call has read and written."""
    ids = st.lists(st.integers(0, 2), max_size=3)
    calls: list[Recorded] = []
    for number in range(draw(st.integers(0, 7))):
        before: list[int] = []
        if calls and draw(st.booleans()):
            earlier = draw(st.sampled_from(calls))
            before = [*earlier.prompt_ids, *earlier.output_ids]
            before = before[: draw(st.sampled_from([len(before), max(1, len(before) - 1), 1]))]
        prompt = [*before, *draw(ids)] or [0]
        output = draw(ids)
        forced = [i for i in range(len(output)) if draw(st.integers(0, 3)) == 0]
        calls.append(call(prompt, output, forced, number))
    return calls


def contexts(row: EpisodeRow) -> dict[tuple[int, float], list[int]]:
    """(call, log-prob) of every token in the loss -> the ids before it, by the columns of the row alone."""
    found: dict[tuple[int, float], list[int]] = {}
    before, sequence = list(row.prompt_ids), 0
    columns = (row.completion_ids, row.env_mask, row.logprobs, row.sequence_ids, row.call_ids)
    assert len({len(column) for column in columns}) == 1
    for token, mask, logprob, kind, number in zip(*columns, strict=True):
        if kind // 2 != sequence:
            before, sequence = [], sequence + 1
            assert kind == 2 * sequence, "a sequence begins with its own prompt"
        if mask:
            assert logprob is not None
            assert number >= 0
            assert kind % 2
            assert (number, logprob) not in found
            found[number, logprob] = list(before)
        else:
            assert logprob is None
        before.append(token)
    return found


BRANCHES = [call([1], [2]), call([1, 2, 0], [1], number=1), call([1, 2, 0], [2], number=2)]
LONGEST = [
    call([1], [2]),
    call([1, 2], [1], number=1),
    call([1], [2], number=2),
    call([1, 2, 1], [0], number=3),
]


@given(episodes())
@example(BRANCHES)
@example(LONGEST)
def test_a_sampled_token_stands_once_behind_what_the_model_had_read(calls: list[Recorded]) -> None:
    expected = {
        (number, logprob): [*made.prompt_ids, *made.output_ids[:i]]
        for number, made in enumerate(calls)
        for i, logprob in enumerate(made.logprobs)
        if logprob is not None
    }
    row = row_of(calls)
    assert (row is None) == (not expected)
    if row is None:
        return
    assert contexts(row) == expected
    assert row.sequence_ids[0] == 1
    assert row.call_solutions == [1] * len(calls)
    for number, made in enumerate(calls):  # forced tokens of a call belong to it, too
        kept = [token for token, at in zip(row.completion_ids, row.call_ids, strict=True) if at == number]
        assert kept == (made.output_ids if any(made.sampled) else [])


def test_only_what_begins_with_a_whole_sequence_extends_it() -> None:
    assert len(sequences_of(BRANCHES)) == 2, "two calls go on from one place: the first one extends"
    assert [s.ids for s in sequences_of(LONGEST)] == [[1, 2, 1, 0], [1, 2]], "the longest is extended"
    long = list(range(50))
    many = [call([*long, n], [n], number=n) for n in range(4)]
    assert len(sequences_of(many)) == 4, "a prompt in common is no extension"
    thinking_dropped = [call([1, 2], [7, 8, 9]), call([1, 2, 9, 3], [4], number=1)]
    assert len(sequences_of(thinking_dropped)) == 2


def test_calls_that_sampled_nothing_are_left_out_but_counted() -> None:
    row = row_of([call([1], [5], forced=[0]), call([1, 5, 2], [3], number=1)])
    assert row is not None
    assert (row.prompt_ids, row.completion_ids, row.call_ids) == ([1, 5, 2], [3], [1])
    assert row_of([call([1], [5], forced=[0])]) is None
    assert row_of([]) is None


def test_columns_hold_placeholders_for_what_failed_or_sampled_nothing() -> None:
    one, two = row_of([call([1], [2, 3])]), row_of([call([1], [2]), call([4], [5], number=1)])
    found = episode_columns([one, None, two], [False, False, True], token=9, logprobs=True)
    assert found["prompt_ids"] == [[1], [9], [9]]
    assert found["completion_ids"] == [[2, 3], [9], [9]]
    assert found["env_mask"] == [[1, 1], [0], [0]]
    assert found["logprobs"][1:] == [[None], [None]]
    assert found["failed"] == [False, False, True]
    assert "sequence_ids" not in found, "every row is one sequence"
    found = episode_columns([one, two], [False, False], token=9, logprobs=False)
    assert found["sequence_ids"] == [[1, 1], [1, 2, 3]]
    assert found["completion_ids"][1] == [2, 4, 5]
    assert found["logprobs"] is None
    assert found["sequences"] == [1, 2]
    assert {len(column) for column in found.values() if column is not None} == {2}
