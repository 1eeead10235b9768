"""Where a call stands between its prompt and the end of its solution."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """The states of the two-phase machine (`two_phase` draws them)."""

    OPENING = "opening"
    """The prompt opens no thinking block: the model may open one itself."""
    THINKING = "thinking"
    AT_LIMIT = "at_limit"
    """Thinking has reached a limit that may be extended: `set_limit` or `cut` goes on from here."""
    AT_CHECKPOINT = "at_checkpoint"
    """Thinking pauses for a probe: `resume_thinking` or `cut` goes on from here."""
    CLOSING = "closing"
    """Thinking has ended without a close of the model's own: `close` writes it."""
    SOLUTION = "solution"
    DONE = "done"
