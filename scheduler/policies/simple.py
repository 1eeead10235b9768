"""Two simple policies: the same limit for every call, and even shares."""

from __future__ import annotations

from dataclasses import dataclass

from .protocol import Choice, State


@dataclass(frozen=True, slots=True)
class FixedCap:
    """The same limit for every call, whatever is left: what most agents do today."""

    thinking: int
    name: str = "fixed"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        return Choice(min(self.thinking, state.most), f"every call gets {self.thinking}")


@dataclass(frozen=True, slots=True)
class Uniform:
    """An even share of the room for this call and each one to come."""

    name: str = "uniform"

    def choose(self, state: State) -> Choice:
        """See `AllocationPolicy`."""
        calls, room = 1 + state.calls, max(0, int(state.room))
        share = max(0, int(state.room / calls))
        return Choice(min(share, state.most), f"an even share of {room:,} among {calls}")
