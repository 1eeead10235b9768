"""What a call's passes cost beside the tokens of its answer: input, cache hits, tokens that nobody uses."""

from __future__ import annotations

from dataclasses import dataclass

from ...backends.base import TokenRequest


@dataclass(slots=True)
class PassCounts:
    """The buckets of `Usage` that follow from passes and not from the answer's ids; same names."""

    passes: int = 0
    input: int = 0
    cached: int = 0
    prompt_cached: int = 0
    discarded: int = 0
    unknown: int = 0
    written: int = 0

    def start(self, prompt_tokens: int) -> None:
        """Count a pass that is about to be sent with so many input tokens."""
        self.passes += 1
        self.input += prompt_tokens

    def add_cached(self, cached: int, prompt: int) -> None:
        """Count cache hits; those of the first pass are hits of the caller's prompt."""
        self.cached += cached
        if self.passes == 1:
            self.prompt_cached = min(prompt, self.prompt_cached + cached)

    def settle(self, read: int, request: TokenRequest) -> None:
        """Count what a finished pass served beyond the `read` tokens, by its request's receipt.

        Tokens that were served and not read are discarded. Where the backend can't know, every token that it
        may have served is unknown. A pass that never reached the engine is not counted at all.
        """
        receipt = request.receipt
        if receipt.delivery.free and not read:
            self.passes -= 1
            self.input -= len(request.prompt_ids)
        else:
            self.unknown += receipt.unknown(request.max_tokens, read)
            self.discarded += max(0, (receipt.output or 0) - read)
