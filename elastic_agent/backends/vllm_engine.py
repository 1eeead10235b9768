"""vLLM in this process: its `AsyncLLM`, token ids in and out, no server between.

    backend = VllmEngineBackend.load("Salesforce/E1-Math-1.5B", tensor_parallel_size=2)

The engine lives in an event loop of its own, in a thread: it belongs to one loop, and callers come from many
(`asyncio.run` again and again). vLLM starts its worker processes anew, so a script that loads one at module
level needs `if __name__ == "__main__":`.

The meter is vLLM's own: a token counts when vLLM's output processor has taken it in, which is where its
`generation_tokens` are counted. A pass that is left is aborted there at once, and the receipt tells what had
come in until then; what the step that was running then brings, vLLM throws away and counts nowhere. Only when
the engine dies can nobody know.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4
from zlib import crc32

from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from elastic_agent.backends.base import (
    NO_LIMITS,
    Codec,
    Finish,
    Meter,
    TokenChunk,
    TokenRequest,
    check_request,
)
from elastic_agent.backends.native import FIELD, PASSED, UNPROBED, why_two_passes
from elastic_agent.backends.vllm_process import BUDGETS, CPU_ENVIRONMENT, ON_CPU, STOP_SECONDS
from elastic_agent.errors import BackendError, BackendUnavailableError, UnknownModelError
from elastic_agent.tokenizer import load_codec

PROCESSOR = "elastic_agent.backends.plugin.elastic_vllm:Limits"
T = TypeVar("T")


@dataclass(eq=False)
class _Pass:
    """One running request. Its fields are the engine's thread's, but for the queue's reader."""

    request: TokenRequest
    params: SamplingParams
    adapter: LoRARequest | None
    meter: Meter
    loop: asyncio.AbstractEventLoop
    id: str = field(default_factory=lambda: uuid4().hex)
    arrived: asyncio.Queue[TokenChunk | BackendError] = field(default_factory=asyncio.Queue)
    served: int = 0
    sent: bool = False
    left: threading.Event = field(default_factory=threading.Event)

    def put(self, item: TokenChunk | BackendError) -> None:
        """Hand something to the reader, in its own event loop."""
        try:
            self.loop.call_soon_threadsafe(self.arrived.put_nowait, item)
        except RuntimeError:  # its loop is closed: nobody reads any more
            self.left.set()


class Engine:
    """An `AsyncLLM` with the thread and the event loop that it runs in.

    Args:
        options: `AsyncEngineArgs`, by keyword.

    Raises:
        UnknownModelError: vLLM can't load this, and says why.
    """

    def __init__(self, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._passes: set[_Pass] = set()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-engine", daemon=True)
        self._thread.start()
        try:
            self.llm: AsyncLLM = self.submit(_start(options)).result()
        except Exception as error:
            self._end_loop()
            raise UnknownModelError(f"vLLM can't run {options.get('model')}: {error}") from error
        atexit.register(self.stop)

    @property
    def closed(self) -> bool:
        """Stopped, or dead."""
        return self._stopped or bool(self.llm.errored)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run something in the engine's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def serve(self, one: _Pass) -> None:
        """Run a pass to its end, however it ends, and hand on what it brings."""
        self._passes.add(one)
        try:
            await self._serve(one)
        except BackendError as error:
            one.put(error)
        except Exception as error:  # the engine's death, or anything else that vLLM may raise
            one.put(BackendUnavailableError(f"vLLM's engine failed after {one.served} tokens: {error!r}"))
        finally:
            self._passes.discard(one)

    async def _serve(self, one: _Pass) -> None:
        request, receipt = one.request, one.request.receipt
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt_ids)}
        priority = request.priority if self.llm.scheduler_config.policy == "priority" else 0
        receipt.refused = True
        if one.left.is_set() or self.closed:
            raise BackendUnavailableError("vLLM's engine does not run")
        try:
            outputs = await self.llm.add_request(
                one.id, prompt, one.params, lora_request=one.adapter, priority=priority
            )
        except (TypeError, ValueError, VLLMValidationError) as error:
            raise BackendError(f"vLLM refuses the request: {error}") from error
        receipt.refused, one.sent = False, True
        one.meter.requests += 1
        one.meter.input += len(request.prompt_ids)
        if one.left.is_set():
            await self.llm.abort(one.id)
        told = False
        while True:
            output = outputs.get_nowait() or await outputs.get()
            chunk = _chunk(output, request, told)
            told = True
            one.served += len(chunk.ids)
            one.meter.output += len(chunk.ids)
            if not output.finished:
                one.put(chunk)
                if one.left.is_set():  # the reader's event loop has gone
                    await self.llm.abort(one.id)
                continue
            receipt.output = one.served
            if chunk.finish not in ("stop", "length"):
                raise BackendUnavailableError(f"vLLM ended the request: {chunk.finish}")
            one.put(chunk)
            return

    async def leave(self, one: _Pass) -> None:
        """Abort a pass. What had come in from it is still handed on, and is its receipt."""
        one.left.set()
        if one.sent:
            await self.llm.abort(one.id)

    async def _leave_all(self) -> None:
        for one in list(self._passes):
            await self.leave(one)
        while self._passes:  # noqa: ASYNC110 (each ends in the next turns of this loop)
            await asyncio.sleep(0)

    def stop(self) -> None:
        """Abort what runs, end the engine's processes and the thread. Blocks for some seconds."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self.submit(self._leave_all()).result()
        self.submit(_cancel_the_rest()).result()
        self.llm.shutdown(timeout=STOP_SECONDS)
        del self.llm  # at the end of the interpreter its `__del__` fails
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class VllmEngineBackend:
    """One model on a vLLM engine of this process.

    Args:
        engine: what runs it; `load` starts one.
        codec: default: what the engine's own tokenizer gives.
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
        name: str | None = None,
        adapter: LoRARequest | None = None,
        native: bool = False,
        owner: bool = False,
    ) -> None:
        config = engine.llm.model_config
        self.model: str = name or config.model
        self.codec = codec or load_codec(config.tokenizer, name=self.model)
        self.context_length: int = config.max_model_len
        self.meter = Meter()
        self.guided = True
        self.two_passes = UNPROBED if native else NO_LIMITS
        self.engine = engine
        self._adapter = adapter
        self._owner = owner
        self._closed = False
        self._passes: set[_Pass] = set()

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        name: str | None = None,
        codec: Codec | None = None,
        native: bool = False,
        **options: Any,
    ) -> VllmEngineBackend:
        """Start an engine; takes from seconds to minutes.

        Args:
            model: a folder or a hub id.
            name: what it is called (default: `model`).
            codec: default: what the engine's tokenizer gives.
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
            return cls(engine, codec, name=name or str(model), native=native, owner=True)
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
        """It is, once it is loaded and, if `native`, probed.

        Raises:
            BackendUnavailableError: it was closed, or its engine died.
        """
        self._check_open()
        if self.two_passes == UNPROBED:
            self.two_passes = await why_two_passes(self)

    def _check_open(self) -> None:
        if self.closed:
            raise BackendUnavailableError(f"{self.model} has been closed, or its engine died")

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        check_request(request, self.context_length)
        request.receipt.refused = True
        self._check_open()
        one = _Pass(request, _params(request), self._adapter, self.meter, asyncio.get_running_loop())
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


async def _start(options: Mapping[str, Any]) -> AsyncLLM:
    """In the event loop that the engine will belong to."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    defaults = dict(BUDGETS)
    if current_platform.is_cpu():
        defaults |= ON_CPU
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**{**defaults, **options}))


async def _cancel_the_rest() -> None:
    """Whatever else runs in this loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


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


def _chunk(output: Any, request: TokenRequest, told: bool) -> TokenChunk:
    """An output of vLLM's; `told`: how much was cached has been said."""
    brought = output.outputs[0]
    ids = tuple(brought.token_ids)
    logprobs: tuple[float | None, ...] | None = None
    if request.sampling.logprobs:
        logprobs = tuple(float(at[i].logprob) for i, at in zip(ids, brought.logprobs or (), strict=True))
    cached = 0 if told else output.num_cached_tokens or 0
    return TokenChunk(ids, logprobs, cast("Finish | None", brought.finish_reason), cached)
