"""The two-phase machine against an independent reading of its rules, and over random streams.

The model here is a tape: the token at output position p is `tape[p]`, whatever came before it; past its end
it says end-of-text. A simulated upstream serves passes from it and counts, like a real meter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_agent.backends.base import TokenRequest
from elastic_agent.budget import Budget
from elastic_agent.generation.phases.deltas import Delta, Segment
from elastic_agent.generation.phases.phase import Phase
from elastic_agent.generation.phases.stop_reasons import SolutionEnd, ThinkingEnd
from elastic_agent.generation.phases.two_phase import TwoPhase
from elastic_agent.prompts.markers import Markers, Opening, WrapUpIds
from elastic_agent.usage import Probes, worst_case

EOS = 0
PROMPT = (50, 51, 52)
SINGLE = Markers((1,), (2,), frozenset({EOS}))
SPELLED = Markers((3, 4), (5, 6, 5), frozenset({EOS}))  # several tokens, the close overlapping with itself
NO_OPEN = Markers((), (2,), frozenset({EOS}))
WRAPPED = replace(SINGLE, wrap_up=WrapUpIds((80, 81), (82,), (83,)))  # what is written around a forced close
MARKERS = {"single": SINGLE, "spelled": SPELLED, "no_open": NO_OPEN, "wrapped": WRAPPED}


def reference(
    tape: Sequence[int], budget: Budget, markers: Markers, opening: Opening
) -> tuple[list[int], list[int], list[int], ThinkingEnd]:
    """(thinking, close, solution, why thinking ended), by DESIGN.md's words and nothing of `phases.py`."""

    def read(at: int) -> int:
        return tape[at] if at < len(tape) else EOS

    def solve(at: int) -> list[int]:
        solution: list[int] = []
        while len(solution) < budget.solution and solution[-1:] != [EOS]:
            solution.append(read(at + len(solution)))
        return solution

    limit, close = budget.thinking or 0, list(markers.close_ids)
    opens = list(markers.open_ids) if opening is Opening.SELF else []
    if opening is Opening.CLOSED:
        return [], [], solve(0), ThinkingEnd.OFF
    seen: list[int] = []
    end = ThinkingEnd.BUDGET
    while len(seen) < limit:
        token = read(len(seen))
        if token == EOS and not seen:
            end = ThinkingEnd.EMPTY
            break
        if len(seen) < len(opens) and token != opens[len(seen)]:
            return [], [], solve(0), ThinkingEnd.NEVER_OPENED
        if token == EOS:
            end = ThinkingEnd.END_OF_TEXT
            break
        seen.append(token)
        if len(seen) >= len(opens) and seen[-len(close) :] == close:
            return seen[: -len(close)], close, solve(len(seen)), ThinkingEnd.NATURAL
    if end is ThinkingEnd.BUDGET and markers.wrap_up is not None:
        said = markers.wrap_up
        before = said.before if limit or said.unthought is None else said.unthought
        close = [*before, *close, *said.after]
    forced = [*opens[len(seen) :], *close]
    return seen, forced, solve(len(seen) + len(forced)), end


def answer_of(solution: Sequence[int], markers: Markers) -> tuple[list[int], bool]:
    """The answer in a solution, without what was opened again; and whether it ends in such thinking."""
    opens, close = list(markers.open_ids), list(markers.close_ids)
    answer, inside, at = list[int](), False, 0
    while at < len(solution):
        if opens and not inside and solution[at : at + len(opens)] == opens:
            inside, at = True, at + len(opens)
        elif solution[at : at + len(close)] == close:
            inside, at = False, at + len(close)
        else:
            answer += [] if inside else [solution[at]]
            at += 1
    return answer, inside


@dataclass
class Upstream:
    """Serves passes from a tape, of `most` tokens each; `output` and `input` are its meter."""

    tape: Sequence[int]
    output: int = 0
    input: int = 0
    most: int = 10**9

    def serve(self, request: TokenRequest) -> list[int]:
        """All tokens of a pass that nobody cuts off."""
        ids: list[int] = []
        at = len(request.prompt_ids) - len(PROMPT)
        while len(ids) < min(request.max_tokens, self.most) and not (ids and ids[-1] in request.stop_ids):
            ids.append(self.tape[at + len(ids)] if at + len(ids) < len(self.tape) else EOS)
        self.input += len(request.prompt_ids)
        return ids


def drive(
    machine: TwoPhase,
    upstream: Upstream,
    chunks: Sequence[int] = (1,),
    steer: Callable[[TwoPhase, int], list[Delta]] | None = None,
    lag: int = 0,
    raises: Iterator[int] | None = None,
) -> list[Delta]:
    """Run a machine as the drivers do. `chunks` are the sizes of what arrives, over and over; `lag` tokens
    more than were read have been served when a pass is cut off; `raises` are granted at the limit."""
    deltas: list[Delta] = []
    turn = 0
    while not machine.done:
        if machine.phase is Phase.CLOSING:
            deltas.append(machine.close())
            continue
        if machine.phase is Phase.AT_LIMIT:
            more = next(raises or iter(()), 0)
            deltas += machine.set_limit(machine.limit + more) if more else machine.cut(ThinkingEnd.BUDGET)
            continue
        if machine.phase is Phase.AT_CHECKPOINT:
            request = machine.start_probe((7, 7), 3)
            request.receipt.output = read = len(upstream.serve(request))
            upstream.output += read
            machine.end_probe(read, 0, request)
            machine.resume_thinking()
            continue
        request = machine.next_pass()
        ids, read = upstream.serve(request), 0
        while read < len(ids) and not machine.pass_over:
            size = chunks[turn % len(chunks)]
            turn += 1
            deltas += machine.feed(ids[read : read + size], [-0.5] * len(ids[read : read + size]))
            read = min(len(ids), read + size)
            if steer is not None:
                deltas += steer(machine, turn)
        if not machine.pass_over:
            deltas += machine.pass_ended("stop" if ids and ids[-1] in request.stop_ids else "length")
        served = min(len(ids), read + lag)
        upstream.output += served
        request.receipt.output = served
        machine.settle_pass(read, request)
    return deltas


def check(machine: TwoPhase, upstream: Upstream, deltas: Sequence[Delta]) -> None:
    """What holds for every finished call."""
    usage = machine.usage
    assert machine.thinking_end is not None
    assert machine.solution_end is not None
    assert len(machine.output_ids) == len(machine.sampled) == len(machine.logprobs) == usage.output
    assert [p is None for p in machine.logprobs] == [not s for s in machine.sampled]
    assert machine.sampled.count(False) == usage.forced
    assert [i for d in deltas for i in d.ids] == machine.output_ids
    assert [d.forced for d in deltas for _ in d.ids] == [not s for s in machine.sampled]
    for segment, ids in (
        (Segment.THINKING, machine.thinking_ids),
        (Segment.CLOSE, machine.close_ids),
    ):
        assert tuple(i for d in deltas if d.segment is segment for i in d.ids) == ids
    said = [d for d in deltas if d.segment in (Segment.SOLUTION, Segment.REOPENED)]
    assert tuple(i for d in said for i in d.ids) == machine.solution_ids
    assert sum(len(d.ids) for d in said if d.segment is Segment.REOPENED) == usage.reopened
    shown = [d.shown_ids for d in said if d.segment is Segment.SOLUTION]
    assert tuple(i for ids in shown for i in ids) == machine.solution_text_ids
    assert len(machine.solution_ids) == usage.solution <= machine.budget.solution
    assert EOS not in machine.thinking_ids
    assert EOS not in machine.solution_ids[:-1]
    assert usage.metered_output == upstream.output
    assert usage.metered_input == upstream.input


tokens = st.sampled_from([EOS, *[1, 2, 3, 4, 5, 6] * 2, *range(10, 16)])
tapes = st.lists(tokens, max_size=40)
budgets = st.builds(Budget, thinking=st.integers(0, 20), solution=st.integers(1, 8))
chunkings = st.lists(st.integers(1, 7), min_size=1, max_size=4)
all_markers = st.sampled_from(list(MARKERS.values()))
openings = st.sampled_from(list(Opening))


@given(tapes, budgets, all_markers, openings, chunkings, st.integers(0, 5))
def test_it_does_what_the_rules_say(
    tape: list[int], budget: Budget, markers: Markers, opening: Opening, chunks: list[int], lag: int
) -> None:
    """Law 3 (exactness) against the reference, for any stream; law 6 (forced is not sampled); the books equal
    the meter; chunking never changes the result; a hold of `worst_case` covers it."""
    machine, upstream = TwoPhase(PROMPT, budget, markers, opening), Upstream(tape)
    deltas = drive(machine, upstream, chunks, lag=lag)
    check(machine, upstream, deltas)
    thinking, close, solution, end = reference(tape, budget, markers, opening)
    assert list(machine.thinking_ids) == thinking
    assert list(machine.close_ids) == close
    assert list(machine.solution_ids) == solution
    assert machine.thinking_end is end
    answer, inside = answer_of(solution, markers)
    ended = SolutionEnd.REOPENED if inside else SolutionEnd.EOS
    assert machine.solution_end is (ended if solution[-1] == EOS else SolutionEnd.LENGTH)
    assert list(machine.solution_text_ids) == answer
    assert machine.usage.forced == (len(close) if end in FORCING else 0)
    cut = end is ThinkingEnd.BUDGET and markers.wrap_up is not None
    assert machine.usage.wrap_up == (len([i for i in close if i >= 80]) if cut else 0)
    assert len(machine.thinking_ids) <= (budget.thinking or 0)
    covered(machine)


@given(tapes, budgets, all_markers, openings, chunkings, st.integers(1, 9))
def test_pauses_at_borders_change_nothing(
    tape: list[int],
    budget: Budget,
    markers: Markers,
    opening: Opening,
    chunks: list[int],
    checkpoint_every: int,
) -> None:
    """The same tokens as without probes in between; both meters agree, and what `Probes` says covers them."""
    plain, probed = (
        TwoPhase(PROMPT, budget, markers, opening, checkpoint_every=n) for n in (0, checkpoint_every)
    )
    upstream = Upstream(tape)
    drive(plain, Upstream(tape), chunks)
    deltas = drive(probed, upstream, chunks)
    check(probed, upstream, deltas)
    assert probed.output_ids == plain.output_ids
    assert probed.thinking_end is plain.thinking_end
    thinking, close = budget.thinking or 0, markers.close_length(Opening.SELF)
    worst = worst_case(len(PROMPT), thinking, close, budget.solution)
    probes = Probes(checkpoint_every, 3, 2)
    assert probed.usage.generated <= worst.generated + probes.generated(thinking)
    assert probed.usage.input <= worst.input + probes.read(len(PROMPT), thinking, close)


FORCING = {ThinkingEnd.BUDGET, ThinkingEnd.EMPTY, ThinkingEnd.END_OF_TEXT}


def covered(machine: TwoPhase) -> None:
    """Law 2: the hold of a call is at least what it used, in all that is billed or capped."""
    markers, budget, usage = machine.markers, machine.budget, machine.usage
    close = markers.close_length(Opening.SELF)
    worst = worst_case(len(PROMPT), budget.thinking or 0, close, budget.solution)
    for bucket in (
        *("prompt", "thinking", "close", "forced", "solution", "input", "passes"),
        *("generated", "output", "metered_input", "metered_output"),
    ):
        assert getattr(usage, bucket) <= getattr(worst, bucket), bucket


@given(tapes, budgets, all_markers, openings, chunkings, st.integers(0, 6), st.integers(0, 20), st.booleans())
def test_steered_in_mid_flight(
    tape: list[int],
    budget: Budget,
    markers: Markers,
    opening: Opening,
    chunks: list[int],
    when: int,
    limit: int,
    cut: bool,
) -> None:
    """Law 3 while somebody lowers, raises or cuts: thinking is at most the limit, or what it had been when
    the limit came; a lowered one stays within the hold."""
    machine, upstream = TwoPhase(PROMPT, budget, markers, opening), Upstream(tape)
    had: list[int] = []

    def steer(machine: TwoPhase, turn: int) -> list[Delta]:
        if turn != when:
            return []
        had.append(machine.usage.thinking)
        return machine.cut(ThinkingEnd.DEADLINE) if cut else machine.set_limit(limit)

    deltas = drive(machine, upstream, chunks, steer)
    check(machine, upstream, deltas)
    most = max(had[0], 0 if cut else limit) if had else budget.thinking or 0
    assert machine.usage.thinking <= max(most, had[0] if had else 0)
    if cut or limit <= (budget.thinking or 0):
        covered(machine)


@given(tapes, budgets, all_markers, openings, st.integers(0, 12))
def test_broken_off_anywhere(
    tape: list[int], budget: Budget, markers: Markers, opening: Opening, after: int
) -> None:
    """Law 8 (unknown fails closed): when a pass breaks off and nobody knows what was served, all that may
    have been is charged, and a hold of `worst_case` covers it."""
    machine, upstream = TwoPhase(PROMPT, budget, markers, opening), Upstream(tape)
    read_in_all = 0
    while not machine.done:
        if machine.phase is Phase.CLOSING:
            machine.close()
            continue
        request = machine.next_pass()
        ids, read = upstream.serve(request), 0
        while read < len(ids) and not machine.pass_over and read_in_all < after:
            machine.feed(ids[read : read + 1])
            read, read_in_all = read + 1, read_in_all + 1
        if read < len(ids) and not machine.pass_over:  # here it breaks
            machine.settle_pass(read, request)
            machine.abort()
            assert machine.solution_end is SolutionEnd.ABORTED
            assert machine.usage.unknown == request.max_tokens - read
            assert machine.usage.metered_output >= upstream.output + len(ids)
        else:
            if not machine.pass_over:
                machine.pass_ended("stop" if ids[-1] in request.stop_ids else "length")
            request.receipt.output = read
            machine.settle_pass(read, request)
            upstream.output += read
    covered(machine)


# Every ending, once by hand. (markers, opening, tape, budget) -> (thinking, close, solution)

CASES = {
    ThinkingEnd.NATURAL: (SINGLE, Opening.PREFILLED, [10, 2, 11, EOS], Budget(5, 5), ([10], [2], [11, EOS])),
    ThinkingEnd.BUDGET: (SINGLE, Opening.PREFILLED, [10, 11, 9, 12], Budget(2, 1), ([10, 11], [2], [12])),
    ThinkingEnd.END_OF_TEXT: (SINGLE, Opening.PREFILLED, [10, EOS, 12], Budget(5, 1), ([10], [2], [12])),
    ThinkingEnd.EMPTY: (SINGLE, Opening.PREFILLED, [EOS, 11], Budget(5, 1), ([], [2], [11])),
    ThinkingEnd.NEVER_OPENED: (SINGLE, Opening.SELF, [10, 11, 12], Budget(5, 2), ([], [], [10, 11])),
    ThinkingEnd.OFF: (SINGLE, Opening.CLOSED, [10, EOS], Budget(5, 5), ([], [], [10, EOS])),
}


@pytest.mark.parametrize("end", CASES)
def test_each_end_of_thinking(end: ThinkingEnd) -> None:
    """Law 3, by hand: the endings that the stream alone brings about."""
    markers, opening, tape, budget, expected = CASES[end]
    machine = TwoPhase(PROMPT, budget, markers, opening)
    drive(machine, Upstream(tape))
    assert machine.thinking_end is end
    found = (list(machine.thinking_ids), list(machine.close_ids), list(machine.solution_ids))
    assert found == expected


@pytest.mark.parametrize("reason", [ThinkingEnd.DEADLINE, ThinkingEnd.PREEMPTED])
def test_thinking_cut_from_outside(reason: ThinkingEnd) -> None:
    """A cut ends thinking at once, the solution follows, and what had been kept back is given out."""
    machine = TwoPhase(PROMPT, Budget(9, 3), SPELLED, Opening.PREFILLED)
    machine.next_pass()
    assert machine.feed([10, 5, 6]) == [Delta(Segment.THINKING, (10,))]  # 5 6 may begin the close
    assert machine.cut(reason) == [Delta(Segment.THINKING, (5, 6))]
    assert machine.pass_over
    assert machine.close() == Delta(Segment.CLOSE, (5, 6, 5), forced=True)
    assert machine.thinking_end is reason
    assert machine.cut(ThinkingEnd.BUDGET) == []
    assert machine.thinking_end is reason


def test_aborted_while_thinking_and_while_solving() -> None:
    """An aborted call says so for both segments that had not ended."""
    machine = TwoPhase(PROMPT, Budget(9, 3), SINGLE, Opening.PREFILLED)
    machine.next_pass()
    machine.abort()
    assert (machine.thinking_end, machine.solution_end) == (ThinkingEnd.ABORTED, SolutionEnd.ABORTED)
    machine = TwoPhase(PROMPT, Budget(0, 3), SINGLE, Opening.PREFILLED)
    machine.close()
    machine.next_pass()
    machine.abort()
    machine.abort()
    assert (machine.thinking_end, machine.solution_end) == (ThinkingEnd.BUDGET, SolutionEnd.ABORTED)


@pytest.mark.parametrize("reason", [SolutionEnd.STOP, SolutionEnd.DEADLINE])
def test_solution_ended_from_outside(reason: SolutionEnd) -> None:
    """A stop string or the deadline ends the solution; what comes afterwards is counted, not kept."""
    machine = TwoPhase(PROMPT, Budget(0, 5), SINGLE, Opening.PREFILLED)
    machine.close()
    machine.next_pass()
    machine.feed([10])
    machine.end_solution(reason)
    assert machine.solution_end is reason
    machine.feed([11, 12])
    assert machine.solution_ids == (10,)
    assert machine.usage.discarded == 2


@pytest.mark.parametrize(("tape", "end"), [([10, EOS], SolutionEnd.EOS), ([10] * 9, SolutionEnd.LENGTH)])
def test_solution_ended_by_the_stream(tape: list[int], end: SolutionEnd) -> None:
    """Law 3: end of text, or the limit to the token."""
    machine = TwoPhase(PROMPT, Budget(0, 3), SINGLE, Opening.CLOSED)
    drive(machine, Upstream(tape))
    assert machine.solution_end is end


def test_a_stop_string_in_the_last_token_is_a_stop() -> None:
    """Chunking never changes the result: only a stop turns a reached limit into something else."""
    machine = TwoPhase(PROMPT, Budget(0, 1), SINGLE, Opening.CLOSED)
    machine.next_pass()
    machine.feed([10])
    machine.end_solution(SolutionEnd.DEADLINE)
    assert machine.solution_end is SolutionEnd.LENGTH
    machine.end_solution(SolutionEnd.STOP)
    assert machine.solution_end is SolutionEnd.STOP


def test_half_a_start_marker_is_no_way_around_the_solution_limit() -> None:
    """Law 3: a start marker of several tokens that turns out to be none is cut to s like any solution."""
    markers = Markers((3, 4, 5), (2,), frozenset({EOS}))
    machine, upstream = TwoPhase(PROMPT, Budget(9, 1), markers, Opening.SELF), Upstream([3, 4, 9, 9])
    deltas = drive(machine, upstream)
    assert machine.solution_ids == (3,)
    assert machine.usage.discarded == 2
    assert machine.solution_end is SolutionEnd.LENGTH
    check(machine, upstream, deltas)


def test_an_answer_that_never_opened_goes_on_in_a_second_pass() -> None:
    """Rule 5: the first pass asked for thinking's room only; the answer may be longer, and hold a close."""
    machine, upstream = TwoPhase(PROMPT, Budget(2, 6), SINGLE, Opening.SELF), Upstream([10, 2, 11, 12, EOS])
    drive(machine, upstream)
    assert machine.solution_ids == (10, 2, 11, 12, EOS)
    assert machine.usage.passes == 2
    assert machine.close_ids == ()


def test_an_unnamed_end_of_text_ends_a_never_opened_answer() -> None:
    """An engine may know an end that our markers don't: "stop" without the close ends it."""
    machine = TwoPhase(PROMPT, Budget(9, 6), SINGLE, Opening.SELF)
    machine.next_pass()
    machine.feed([10, 99])
    machine.pass_ended("stop")
    assert machine.solution_end is SolutionEnd.EOS


def test_an_upstream_that_ends_passes_early_is_not_asked_again() -> None:
    """Law 2: each pass reads the prompt again, and no more than two are held for."""
    tape = [10] * 60
    machine, upstream = TwoPhase(PROMPT, Budget(40, 9), SINGLE, Opening.PREFILLED), Upstream(tape, most=5)
    drive(machine, upstream)
    assert (machine.usage.thinking, machine.thinking_end) == (5, ThinkingEnd.BUDGET)
    assert (machine.usage.solution, machine.solution_end) == (5, SolutionEnd.LENGTH)
    assert machine.usage.passes == 2


def test_a_pass_that_never_left_is_none() -> None:
    """A receipt that says "refused": neither its prompt nor its tokens are on the bill."""
    machine = TwoPhase(PROMPT, Budget(9, 4), SINGLE, Opening.PREFILLED)
    request = machine.next_pass()
    request.receipt.refused = True
    machine.settle_pass(0, request)
    machine.abort()
    assert (machine.usage.passes, machine.usage.input, machine.usage.unknown) == (0, 0, 0)


def test_zero_thinking_asks_once() -> None:
    """t=0 closes at once: one pass, whose prompt ends in the close, opened first if need be."""
    machine = TwoPhase(PROMPT, Budget(0, 4), SINGLE, Opening.SELF)
    assert machine.close().ids == (1, 2)
    assert machine.next_pass().prompt_ids == (*PROMPT, 1, 2)
    assert machine.usage.passes == 1


def test_a_limit_that_moves() -> None:
    """Raised in mid-flight, thinking goes on in another pass; after thinking has ended, nothing moves."""
    machine, upstream = TwoPhase(PROMPT, Budget(3, 2), SINGLE, Opening.PREFILLED), Upstream([10] * 30)
    drive(machine, upstream, [2], lambda m, turn: m.set_limit(7) if turn == 1 else [])
    assert machine.usage.thinking == 7
    assert machine.thinking_end is ThinkingEnd.BUDGET
    assert machine.usage.passes == 3
    assert machine.set_limit(1) == []
    assert machine.limit == 7


@given(
    tapes,
    budgets,
    all_markers,
    openings,
    chunkings,
    st.lists(st.integers(1, 6), max_size=4),
    st.sampled_from((0, 0, 1, 3, 5)),
)
def test_raised_at_its_limit_it_is_as_if_it_had_had_it_all(
    tape: list[int],
    budget: Budget,
    markers: Markers,
    opening: Opening,
    chunks: list[int],
    raises: list[int],
    checkpoint_every: int,
) -> None:
    """A limit of 3 that becomes 8 brings the tokens of a limit of 8, at one more pass for each raise; with
    probes in between, too."""
    machine, upstream = (
        TwoPhase(PROMPT, budget, markers, opening, extendable=True, checkpoint_every=checkpoint_every),
        Upstream(tape),
    )
    deltas = drive(machine, upstream, chunks, raises=iter(raises))
    check(machine, upstream, deltas)
    whole = TwoPhase(PROMPT, Budget(machine.limit, budget.solution), markers, opening)
    drive(whole, Upstream(tape), chunks)
    assert machine.output_ids == whole.output_ids
    assert machine.sampled == whole.sampled
    assert machine.thinking_end is whole.thinking_end
    probes = Probes(checkpoint_every, 3).most(machine.limit) if checkpoint_every else 0
    assert machine.usage.passes <= 2 + len(raises) + 2 * probes


def test_a_limit_below_what_was_used_preempts() -> None:
    """Lowered below what it had used, thinking ends as preempted, at once."""
    machine, upstream = TwoPhase(PROMPT, Budget(9, 2), SINGLE, Opening.PREFILLED), Upstream([10] * 30)
    drive(machine, upstream, [4], lambda m, turn: m.set_limit(1) if turn == 1 else [])
    assert machine.usage.thinking == 4
    assert machine.thinking_end is ThinkingEnd.PREEMPTED


@given(st.lists(st.sampled_from([5, 6, 10]), max_size=12), st.integers(1, 15))
def test_a_possible_close_is_kept_back(tape: list[int], limit: int) -> None:
    """A delta, once given out, is never taken back: nothing that becomes part of the close is shown as
    thinking."""
    machine = TwoPhase(PROMPT, Budget(limit, 1), SPELLED, Opening.PREFILLED)
    machine.next_pass()
    shown: list[int] = []
    for token in tape:
        if machine.pass_over:
            break
        shown += [i for d in machine.feed([token]) if d.segment is Segment.THINKING for i in d.ids]
    assert tuple(shown) == machine.thinking_ids[: len(shown)]


def test_misuse_is_told() -> None:
    """Unbounded thinking, a pass while closing, a close while thinking: errors, not wrong numbers."""
    with pytest.raises(ValueError, match="bounded"):
        TwoPhase(PROMPT, Budget(None, 1), SINGLE, Opening.PREFILLED)
    with pytest.raises(RuntimeError, match="closing"):
        TwoPhase(PROMPT, Budget(0, 1), SINGLE, Opening.PREFILLED).next_pass()
    with pytest.raises(RuntimeError, match="thinking"):
        TwoPhase(PROMPT, Budget(1, 1), SINGLE, Opening.PREFILLED).close()


def test_a_pass_that_is_bounded() -> None:
    """A receipt that says "at most": what may have been served beyond what was read is unknown, no more."""
    for most, unknown in ((None, 9), (5, 5), (0, 0), (99, 9)):
        machine = TwoPhase(PROMPT, Budget(9, 4), SINGLE, Opening.PREFILLED)
        request = machine.next_pass()
        request.receipt.output_bound = most
        machine.settle_pass(0, request)
        assert machine.usage.unknown == unknown


def test_cache_hits_of_the_prompt_are_the_first_passes() -> None:
    """What a second pass finds in the cache is what the first one left there: no hit of the prompt."""
    machine = TwoPhase(PROMPT, Budget(2, 4), SINGLE, Opening.PREFILLED)
    machine.next_pass()
    machine.feed([7, 7], cached=len(PROMPT) + 3)
    assert machine.usage.prompt_cached == len(PROMPT)
    machine.close()
    machine.next_pass()
    machine.feed([7], cached=len(PROMPT) + 2)
    assert machine.usage.prompt_cached == len(PROMPT)
    assert machine.usage.cached == 2 * len(PROMPT) + 5
