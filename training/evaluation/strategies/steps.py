"""The steps that strategies are put together from: open, think, close, probe, solve, or one pass for all."""

from __future__ import annotations

from collections.abc import Generator

from elastic_agent.generation.phases.answer import read_answer
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.prompts.markers import Opening

from .passes import Case, Chunk, Ended, Pass, Passes, Transcript, read


def one_pass(case: Case, most: int) -> Passes:
    """Everything in one request of at most so many tokens."""
    ends = case.codec.markers.eos_ids
    got = yield from read(case.ask(Segment.SOLUTION, (), most, ends), ends)
    return trimmed(case, split(case, [*got.ids, *got.end]))


def split(case: Case, ids: list[int]) -> Transcript:
    """One pass's tokens as thinking, close and solution."""
    markers, said = case.codec.markers, Transcript()
    if case.opening is Opening.CLOSED:
        thinks = False
    else:
        thinks = (
            case.opening is Opening.PREFILLED or not markers.open_ids or markers.start_of(ids) is not None
        )
    if not thinks:
        said.add(Segment.SOLUTION, ids)
        return said
    for end in range(1, len(ids) + 1):
        found = markers.close_at(ids, end)
        if found is not None:
            begin, last, after = found
            said.add(Segment.THINKING, ids[:begin])
            said.add(Segment.CLOSE, ids[begin:end])
            said.add(Segment.SOLUTION, ids[end:])
            return said.spelling(last, after)
    said.add(Segment.THINKING, ids)
    return said


def trimmed(case: Case, said: Transcript, solution: int | None = None) -> Transcript:
    """End-of-text tokens out of the thinking, the solution down to its limit if it has one of its own, and
    whether it ended by itself."""
    ends = case.codec.markers.eos_ids
    done = Transcript(last=said.last, after=said.after)
    for segment, ids, sampled in said.parts:
        thinking = segment is Segment.THINKING
        kept = tuple(i for i in ids if i not in ends) if thinking else ids
        kept = kept[:solution] if segment is Segment.SOLUTION else kept
        done.discarded += len(ids) - len(kept)
        done.add(segment, kept, sampled=sampled)
    done.finished = done.of(Segment.SOLUTION)[-1:] != () and done.of(Segment.SOLUTION)[-1] in ends
    return done


def opened(case: Case, said: Transcript) -> bool:
    """See to an open thinking block; False if the prompt has closed it already."""
    if case.opening is Opening.SELF:
        said.add(Segment.THINKING, case.codec.markers.open_ids, sampled=False)
    return case.opening is not Opening.CLOSED


def think(case: Case, said: Transcript, most: int) -> Generator[Pass | None, Chunk, Ended]:
    """Think on, up to so many tokens, the close, or an end of text. A close of several tokens may have begun
    in the pass before."""
    markers, before = case.codec.markers, tuple[int, ...]()
    stops = markers.eos_ids | (set(markers.close_ids) if len(markers.close_ids) == 1 else set())
    ask = case.ask(Segment.THINKING, said.ids, most, stops)
    if (len(markers.close_ids) > 1 or markers.close_in_text) and said.parts and said.parts[-1][2]:
        before = said.parts.pop()[1]
    got = yield from read(ask, markers.eos_ids, markers, before)
    said.add(Segment.THINKING, got.ids)
    said.discarded += got.late
    return got


def end_thinking(said: Transcript, got: Ended) -> bool:
    """Keep a sampled close; an end of text is stripped. Says whether thinking is closed."""
    if got.closed:
        said.add(Segment.CLOSE, got.end)
        said.spelling(got.last, got.after)
    else:
        said.discarded += len(got.end)
    return got.closed


def probe(case: Case, said: Transcript) -> Generator[Pass | None, Chunk, str | None]:
    """The answer as it stands, asked for aside."""
    cues, codec = case.cues, case.codec
    close = codec.markers.close_ids if cues.probe_closes else ()
    written = (*said.ids, *close, *codec.encode(cues.probe))
    got = yield from read(
        case.ask(Segment.THINKING, written, cues.probe_tokens, codec.markers.eos_ids), codec.markers.eos_ids
    )
    said.probes += len(got.ids) + len(got.end)
    said.discarded += len(got.ids) + len(got.end)
    return cues.read(codec.decode(read_answer(codec.markers, got.ids).text_ids if close else got.ids))


def solve(case: Case, said: Transcript, closed: bool) -> Passes:
    """The solution, up to s tokens, behind a close that is forced unless there is one."""
    markers = case.codec.markers
    if not closed:
        said.add(Segment.CLOSE, markers.close_ids, sampled=False)
    got = yield from read(
        case.ask(Segment.SOLUTION, said.ids, case.solution, markers.eos_ids), markers.eos_ids
    )
    said.add(Segment.SOLUTION, (*got.ids, *got.end))
    said.finished = bool(got.end)
    return said
