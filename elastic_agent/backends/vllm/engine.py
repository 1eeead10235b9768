"""vLLM in this process: its `AsyncLLM` (`async_engine`), token ids in and out, no server between.

    backend = VllmEngineBackend.load("Salesforce/E1-Math-1.5B", tensor_parallel_size=2)

vLLM starts processes that import the main script anew, so one that loads an engine at module level needs
`if __name__ == "__main__":`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any
from zlib import crc32

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from ...errors import BackendError, BackendUnavailableError
from ...prompts.marker_profiles import MarkerText
from ...prompts.tokenizer import load_codec
from ..base import (
    NO_LIMITS,
    Codec,
    Finish,
    Meter,
    TokenChunk,
    TokenRequest,
    check_request,
)
from ..limits_probe import FIELD, PASSED, UNPROBED, probe_once
from .async_engine import Engine, Pass
from .guided_decoding import AcceptedFields

PROCESSOR = "elastic_agent.backends.vllm.plugin.elastic_vllm:Limits"


class VllmEngineBackend:
    """One model on a vLLM engine of this process.

    Args:
        engine: what runs it; `load` starts one.
        codec: default: what the engine's own tokenizer gives.
        markers: what begins and ends its thinking, where the tokenizer doesn't tell.
        name: the model's name, for prices, curves and logs (default: what the engine loaded).
        adapter: a LoRA adapter of the engine's (`adapted`).
        native: have `ready` probe whether the engine holds both limits of a call itself (`load` gives it what
            that takes); calls that nobody steers then take one pass.
        owner: `aclose` stops the engine.
    """

    def __init__(
        self,
        engine: Engine,
        codec: Codec | None = None,
        *,
        markers: MarkerText | None = None,
        name: str | None = None,
        adapter: LoRARequest | None = None,
        native: bool = False,
        owner: bool = False,
    ) -> None:
        config = engine.llm.model_config
        self.model: str = name or config.model
        self.codec = codec or load_codec(config.tokenizer, name=self.model, markers=markers)
        self.context_length: int = config.max_model_len
        self.meter = Meter()
        self.guided = True
        self.two_passes = UNPROBED if native else NO_LIMITS
        self.engine = engine
        self._adapter = adapter
        self._owner = owner
        self._closed = False
        self._passes: set[Pass] = set()
        self._accepted = AcceptedFields()

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        name: str | None = None,
        codec: Codec | None = None,
        markers: MarkerText | None = None,
        native: bool = False,
        **options: Any,
    ) -> VllmEngineBackend:
        """Start an engine; takes from seconds to minutes.

        Args:
            model: a folder or a hub id.
            name: what it is called (default: `model`).
            codec: default: what the engine's tokenizer gives.
            markers: what begins and ends its thinking, where the tokenizer doesn't tell.
            native: have the engine hold both limits of a call, in one pass, where nobody steers it.
            options: vLLM's `AsyncEngineArgs`, unchanged: `quantization`, `tensor_parallel_size`,
                `data_parallel_size`, `max_model_len`, `enable_lora`, ... They win over what budgets want
                (prefix caching, scheduling by priority) and over what vLLM needs on a CPU.

        Raises:
            UnknownModelError: vLLM can't load it, and says why.
            NoMarkersError: the model has no end-of-thinking marker.
        """
        if native:
            options["logits_processors"] = [*(options.get("logits_processors") or ()), PROCESSOR]
        engine = Engine(**{"model": str(model), **options})
        try:
            return cls(engine, codec, markers=markers, name=name or str(model), native=native, owner=True)
        except BaseException:
            engine.stop()
            raise

    def adapted(self, name: str, folder: str | Path) -> VllmEngineBackend:
        """The same engine under a LoRA adapter (it needs `enable_lora=True`), with a name and meter of its
        own. Closing it leaves the engine running."""
        adapter = LoRARequest(name, crc32(str(folder).encode()) // 2 + 1, str(folder))
        native = self.two_passes != NO_LIMITS
        return VllmEngineBackend(self.engine, self.codec, name=name, adapter=adapter, native=native)

    @property
    def closed(self) -> bool:
        """Closed, or its engine is stopped or dead."""
        return self._closed or self.engine.closed

    async def ready(self) -> None:
        """Probe the engine if `native`; a loaded engine is ready.

        Raises:
            BackendUnavailableError: it was closed, or its engine died.
        """
        self._check_open()
        await probe_once(self)

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Why vLLM's own check of a request refuses the fields; "" where it accepts them."""
        self._check_open()
        if fields in self._accepted:
            return ""
        request = TokenRequest((0,), 1, extra=fields)
        try:
            checked = self.engine.submit(self.engine.check(_params(request), self._adapter))
            await asyncio.wrap_future(checked)
        except BackendError as error:
            return " ".join(str(error).split())[:300]
        self._accepted.add(fields)
        return ""

    async def probe(self) -> None:
        """Raise if the backend can't answer now.

        Raises:
            BackendUnavailableError: it was closed, or its engine died.
        """
        self._check_open()

    def _check_open(self) -> None:
        if self.closed:
            raise BackendUnavailableError(f"{self.model} has been closed, or its engine died")

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        check_request(request, self.context_length)
        request.receipt.refused = True
        self._check_open()
        one = Pass(request, _params(request), self._adapter, self.meter, asyncio.get_running_loop())
        request.receipt.refused = False
        ended = self.engine.submit(self.engine.serve(one))
        self._passes.add(one)
        finish: Finish | None = None
        ids: list[int] = []
        try:
            while finish is None:
                item = await one.arrived.get()
                if self._closed:
                    raise BackendUnavailableError(f"{self.model} has been closed")
                if isinstance(item, BackendError):
                    raise item
                finish = item.finish
                ids += item.ids
                yield item
        finally:
            self._passes.discard(one)
            if request.limits is not None and not request.limits.kept(ids):
                self.two_passes = PASSED
            if not ended.done():
                self.engine.submit(self.engine.leave(one))
                await asyncio.shield(asyncio.wrap_future(ended))

    async def aclose(self) -> None:
        """End this backend's streams, and the engine where it is its own."""
        self._closed = True
        if self._owner:
            await asyncio.to_thread(self.engine.stop)
        elif not self.engine.closed:
            for one in list(self._passes):
                await asyncio.wrap_future(self.engine.submit(self.engine.leave(one)))


def _params(request: TokenRequest) -> SamplingParams:
    """vLLM's form of a request.

    Raises:
        BackendError: a field in `extra` that it does not know, or a value that it does not take.
    """
    sampling, extra = request.sampling, dict(request.extra)
    ours = {
        "n": 1,
        "max_tokens": request.max_tokens,
        "stop_token_ids": sorted(request.stop_ids),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "logprobs": 0 if sampling.logprobs else None,
        "output_kind": RequestOutputKind.DELTA,
        "detokenize": "stop" in extra,
    }
    try:
        if guide := extra.get("structured_outputs"):
            extra["structured_outputs"] = StructuredOutputsParams(**guide)
        if bias := extra.get("logit_bias"):
            extra["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
        if request.limits is not None:
            extra["extra_args"] = {**(extra.get("extra_args") or {}), FIELD: list(astuple(request.limits))}
        return SamplingParams(**{**extra, **ours})
    except (AttributeError, TypeError, ValueError, VLLMValidationError) as error:
        raise BackendError(f"vLLM does not take {', '.join(extra)}: {error}") from error
