"""What decodes many requests together, token by token, without asyncio: the seam below a `Backend`.

`decoder_backend.DecoderBackend` makes streams of one; training also drives one directly
(`elastic_agent.generation.machine_runner.run_batch`). This module imports no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .base import Finish, TokenRequest


@dataclass(frozen=True, slots=True)
class Sampled:
    """One token of one request. `cached`, with its first token: prompt ids that had been read already."""

    key: int
    token: int
    logprob: float | None
    finish: Finish | None
    cached: int = 0


class Decoder(Protocol):
    """Decodes many requests together, as `elastic_agent.backends.transformers.decode.BatchDecoder` does."""

    def add(self, request: TokenRequest) -> int:
        """Queue a request; returns its key."""
        ...

    def step(self) -> list[Sampled]:
        """Sample one token for every request that runs."""
        ...

    def cancel(self, key: int) -> None:
        """Forget a request; unknown keys and finished ones are ignored."""
