"""One scrape of a vLLM server's `/metrics`: the counters that bound what a request was served."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_TOKENS, _STEPS = "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count"
_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_ENDED, _DRAFTS = "vllm:request_success_total", "vllm:spec_decode_num_drafts_total"
_NEEDED = frozenset({_TOKENS, _STEPS, _RUNNING, _WAITING, _ENDED})
_PROCESS = ("process_start_time_seconds", "vllm:generation_tokens_created")


@dataclass(frozen=True, slots=True)
class Scrape:
    """The counters at one moment.

    Attributes:
        asked_at, came_at: when the scrape was asked for and when it came, by `time.monotonic`.
        process: names the process that counts; "" where nothing does.
        engines: (tokens, steps) by engine, since the engine started.
        busy: requests that run or wait.
        ended: requests that ended by themselves, since the server started.
        one_a_step: a request gets at most one token a step (no speculative decoding).
    """

    asked_at: float
    came_at: float
    process: str
    engines: Mapping[str, tuple[int, int]]
    busy: int
    ended: int
    one_a_step: bool

    @property
    def tokens(self) -> int:
        """Tokens of all engines."""
        return sum(tokens for tokens, _ in self.engines.values())

    def since(self, before: Scrape) -> int | None:
        """The most tokens that one request can have got since `before`; None if the two can't be compared."""
        if self.process != before.process or set(self.engines) != set(before.engines):
            return None
        most = 0
        for engine, (tokens, steps) in self.engines.items():
            more_tokens, more_steps = (
                a - b for a, b in zip((tokens, steps), before.engines[engine], strict=True)
            )
            if min(more_tokens, more_steps) < 0:
                return None
            most = max(most, min(more_tokens, more_steps) if self.one_a_step else more_tokens)
        return most


def parse_metrics(text: str, asked_at: float = 0.0, came_at: float = 0.0) -> Scrape | None:
    """A scrape out of Prometheus' text; None where the text is not vLLM's, or lacks a counter."""
    engines: dict[str, dict[str, int]] = {}
    process, busy, ended, seen, one_a_step = "", 0, 0, set[str](), True
    for line in text.splitlines():
        name, _, labels = line.partition("{")
        name = name.partition(" ")[0]
        if name in _PROCESS:
            process += line
        if name == _DRAFTS:
            one_a_step = False
        if name not in _NEEDED:
            continue
        try:
            value = float(line.rpartition(" ")[2])
        except ValueError:
            return None
        if not math.isfinite(value):
            return None
        seen.add(name)
        if name in (_TOKENS, _STEPS):
            engine = labels.partition('engine="')[2].partition('"')[0]
            counts = engines.setdefault(engine, {})
            counts[name] = counts.get(name, 0) + int(value)
        elif name == _ENDED:
            ended += 0 if 'finished_reason="abort"' in labels else int(value)
        else:
            busy += int(value)
    if not seen >= _NEEDED or not process:
        return None
    counted = {engine: (of.get(_TOKENS, 0), of.get(_STEPS, 0)) for engine, of in engines.items()}
    return Scrape(asked_at, came_at, process, counted, busy, ended, one_a_step)
