"""The speed of an endpoint as a dispatcher reads it: the same throughout a step, and written to the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..latency.model import Speed, Speeds

if TYPE_CHECKING:
    from .recorder import Recorder


class Readings:
    """The speed of an endpoint as a dispatcher reads it: the same throughout a step, and written down."""

    def __init__(self, recorder: Recorder, name: str, latency: Speeds) -> None:
        self._recorder, self.name, self._latency = recorder, name, latency
        self._read: dict[int | None, tuple[int, Speed | None]] = {}

    @property
    def load(self) -> int:
        """See `Speeds`."""
        return self._latency.load

    @load.setter
    def load(self, calls: int) -> None:
        self._latency.load = calls

    @property
    def most(self) -> int | None:
        """See `Speeds`."""
        return self._latency.most

    @most.setter
    def most(self, calls: int | None) -> None:
        self._latency.most = calls

    def speed(self) -> Speed | None:
        """See `Speeds`."""
        return self._now(None)

    def at(self, load: int) -> Speed | None:
        """See `Speeds`."""
        return self._now(load)

    def _now(self, load: int | None) -> Speed | None:
        step, last = self._read.get(load, (0, None))
        if step == self._recorder.step:
            return last
        speed = self._latency.speed() if load is None else self._latency.at(load)
        if speed != last:
            self._recorder.speed(self.name, load, speed)
        self._read[load] = (self._recorder.step, speed)
        return speed
