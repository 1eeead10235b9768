"""Samples drawn in this process, many together in one batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from elastic_agent.backends.base import Codec
from elastic_agent.generation.phases.deltas import Segment
from elastic_agent.prompts.marker_profiles import MarkerText

from ..strategies.passes import Chunk, Pass
from .engines import Done, RunningSample, SampleJob, check_same_tokens


class InProcess:
    """A Hugging Face model in this process, decoded in batches.

    Args:
        name: what to call it in results.
        model: a causal language model in evaluation mode.
        codec: its tokenizer.
        rows: most samples drawn together.
    """

    native = False

    def __init__(self, name: str, model: Any, codec: Codec, *, rows: int = 256) -> None:
        self.name = name
        self.codec = codec
        self.context_length = int(model.config.max_position_embeddings)
        self._model = model
        self._rows = rows
        self._solver: Any = model

    @classmethod
    def load(
        cls, model: str, *, name: str | None = None, rows: int = 256, markers: MarkerText | None = None
    ) -> InProcess:
        """An embedded model, a folder or a hub id; float32 on a CPU, the stored precision on a GPU.

        Args:
            model: what to load.
            name: what to call the model in results; None: as `model` says.
            rows: most samples drawn together.
            markers: of its thinking, where its tokenizer doesn't tell.

        Raises:
            UnknownModelError: nothing that can be loaded is there.
            NoMarkersError: the model has no end-of-thinking marker.
        """
        from elastic_agent.backends.load import load_backend

        backend: Any = load_backend(model, markers=markers)
        return cls(name or model, backend.module, backend.codec, rows=rows)

    def ready(self) -> None:
        """It is, once it is loaded."""

    def swapped(self, solver: InProcess) -> InProcess:
        check_same_tokens(self, solver)
        pair = InProcess(f"{self.name}>{solver.name}", self._model, self.codec, rows=self._rows)
        pair.context_length = min(self.context_length, solver.context_length)
        pair._solver = solver._model
        return pair

    def run(self, samples: Iterable[SampleJob], done: Done) -> None:
        from elastic_agent.backends.transformers.decode import BatchDecoder

        apart = self._solver is not self._model
        decoders = {Segment.THINKING: BatchDecoder(self._model, max_rows=self._rows)}
        if apart:
            decoders[Segment.SOLUTION] = BatchDecoder(self._solver, max_rows=self._rows)
        live: dict[tuple[Segment, int], RunningSample] = {}
        waiting = iter(samples)

        def begin(one: RunningSample, ask: Pass) -> None:
            one.started(ask)
            where = ask.segment if apart else Segment.THINKING
            live[where, decoders[where].add(ask.request)] = one

        def more() -> None:
            # As many as can run: a longer queue would cost the second passes their place in the cache
            while len(live) < self._rows and (sample := next(waiting, None)) is not None:
                one = RunningSample(sample, sample.start())
                begin(one, cast("Pass", next(one.passes)))

        more()
        while live:
            for where in {segment for segment, _ in live}:
                for sampled in decoders[where].step():
                    one = live.get((where, sampled.key))
                    if one is None:
                        continue
                    one.counts["cached"] += sampled.cached
                    try:
                        ask = one.passes.send(Chunk((sampled.token,), sampled.finish))
                    except StopIteration as end:
                        one.finish(end.value, done)
                        ask = None
                    else:
                        if ask is None and sampled.finish is None:
                            continue
                    decoders[where].cancel(sampled.key)
                    del live[where, sampled.key]
                    if ask is not None:
                        begin(one, ask)
            more()
