"""The steps that strategies are put together from: open, think, close, probe, solve, or one pass for all."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from elastic_agent.generation.phases.answer import read_answer
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.prompts.markers import Opening

from .passes import Chunk, Pass, Passes, PassResult, StrategyInputs, Transcript, read


def one_pass(inputs: StrategyInputs, most: int) -> Passes:
    """Everything in one request of at most so many tokens."""
    ends = inputs.codec.markers.eos_ids
    got = yield from read(inputs.ask(Segment.SOLUTION, (), most, ends), ends)
    return trimmed(inputs, split(inputs, [*got.ids, *got.end]))


def split(inputs: StrategyInputs, ids: list[int]) -> Transcript:
    """One pass's tokens as thinking, close and solution."""
    markers, opening, transcript = inputs.codec.markers, inputs.opening, Transcript()
    thinks = opening is not Opening.CLOSED and (
        opening is Opening.PREFILLED or not markers.open_ids or markers.start_of(ids) is not None
    )
    if not thinks:
        transcript.add(Segment.SOLUTION, ids)
        return transcript
    for end in range(1, len(ids) + 1):
        found = markers.close_at(ids, end)
        if found is not None:
            begin, last, after = found
            transcript.add(Segment.THINKING, ids[:begin])
            transcript.add(Segment.CLOSE, ids[begin:end])
            transcript.add(Segment.SOLUTION, ids[end:])
            transcript.thinking_in_close, transcript.solution_in_close = last, after
            return transcript
    transcript.add(Segment.THINKING, ids)
    return transcript


def trimmed(inputs: StrategyInputs, transcript: Transcript, solution: int | None = None) -> Transcript:
    """End-of-text tokens out of the thinking, the solution down to its limit if it has one of its own, and
    whether it ended by itself."""
    ends = inputs.codec.markers.eos_ids
    done = replace(transcript, parts=[], discarded=0, probes=0)
    for segment, ids, sampled in transcript.parts:
        thinking = segment is Segment.THINKING
        kept = tuple(i for i in ids if i not in ends) if thinking else ids
        kept = kept[:solution] if segment is Segment.SOLUTION else kept
        done.discarded += len(ids) - len(kept)
        done.add(segment, kept, sampled=sampled)
    last = done.of(Segment.SOLUTION)[-1:]
    done.finished = bool(last) and last[0] in ends
    return done


def opened(inputs: StrategyInputs, transcript: Transcript) -> bool:
    """See to an open thinking block; False if the prompt has closed it already."""
    if inputs.opening is Opening.SELF:
        transcript.add(Segment.THINKING, inputs.codec.markers.open_ids, sampled=False)
    return inputs.opening is not Opening.CLOSED


def think(
    inputs: StrategyInputs, transcript: Transcript, most: int
) -> Generator[Pass | None, Chunk, PassResult]:
    """Think on, up to so many tokens, the close, or an end of text. A close of several tokens may have begun
    in the pass before."""
    markers, before = inputs.codec.markers, tuple[int, ...]()
    stops = markers.eos_ids | (set(markers.close_ids) if len(markers.close_ids) == 1 else set())
    ask = inputs.ask(Segment.THINKING, transcript.ids, most, stops)
    if (len(markers.close_ids) > 1 or markers.close_in_text) and transcript.parts and transcript.parts[-1][2]:
        before = transcript.parts.pop()[1]
    got = yield from read(ask, markers.eos_ids, markers, before)
    transcript.add(Segment.THINKING, got.ids)
    transcript.discarded += got.late
    return got


def end_thinking(transcript: Transcript, got: PassResult) -> bool:
    """Keep a sampled close; an end of text is stripped. Says whether thinking is closed."""
    if got.closed:
        transcript.add(Segment.CLOSE, got.end)
        transcript.thinking_in_close = got.thinking_in_close
        transcript.solution_in_close = got.solution_in_close
    else:
        transcript.discarded += len(got.end)
    return got.closed


def probe(inputs: StrategyInputs, transcript: Transcript) -> Generator[Pass | None, Chunk, str | None]:
    """The answer as it stands, asked for aside."""
    cues, codec = inputs.cues, inputs.codec
    close = codec.markers.close_ids if cues.probe_closes else ()
    written = (*transcript.ids, *close, *codec.encode(cues.probe))
    got = yield from read(
        inputs.ask(Segment.THINKING, written, cues.probe_tokens, codec.markers.eos_ids), codec.markers.eos_ids
    )
    transcript.probes += len(got.ids) + len(got.end)
    transcript.discarded += len(got.ids) + len(got.end)
    return cues.read(codec.decode(read_answer(codec.markers, got.ids).text_ids if close else got.ids))


def solve(inputs: StrategyInputs, transcript: Transcript, closed: bool) -> Passes:
    """The solution, up to s tokens, behind a close that is forced unless there is one."""
    markers = inputs.codec.markers
    if not closed:
        transcript.add(Segment.CLOSE, markers.close_ids, sampled=False)
    got = yield from read(
        inputs.ask(Segment.SOLUTION, transcript.ids, inputs.solution, markers.eos_ids), markers.eos_ids
    )
    transcript.add(Segment.SOLUTION, (*got.ids, *got.end))
    transcript.finished = bool(got.end)
    return transcript
