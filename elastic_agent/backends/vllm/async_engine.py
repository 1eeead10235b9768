"""vLLM's `AsyncLLM` in a thread with an event loop of its own, which serves passes to any other event loop.

The engine belongs to one loop, and callers come from many (`asyncio.run` again and again). So the chunks of a
pass are put into a queue of the caller's loop.

The meter is vLLM's own count: a token counts when vLLM's output processor has taken it in, which is where
vLLM counts `generation_tokens`. `AsyncLLM.abort` ends a request there at once, and tokens that were taken in
before still arrive, so the receipt is exact. Tokens of the step that was running are dropped by vLLM and
counted nowhere. Only when the engine dies the count is unknown.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import uuid4

from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from ...errors import BackendError, BackendUnavailableError, UnknownModelError
from ..base import Finish, Meter, TokenChunk, TokenRequest
from .process import BUDGETS, CPU_ENVIRONMENT, ON_CPU
from .server_process import STOP_SECONDS

T = TypeVar("T")


@dataclass(eq=False)
class Pass:
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
        self._passes: set[Pass] = set()
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

    async def serve(self, one: Pass) -> None:
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

    async def _serve(self, one: Pass) -> None:
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
        first = True
        while True:
            output = outputs.get_nowait() or await outputs.get()
            chunk = _chunk(output, request, first=first)
            first = False
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

    async def check(self, params: SamplingParams, adapter: LoRARequest | None) -> None:
        """Have vLLM check a request's parameters; nothing is added.

        Raises:
            BackendError: what it has against them.
        """
        prompt = {"type": "token", "prompt_token_ids": [0]}
        tasks = await self.llm.get_supported_tasks()
        try:
            self.llm.input_processor.process_inputs(
                uuid4().hex, prompt, params, supported_tasks=tasks, lora_request=adapter
            )
        except (TypeError, ValueError, VLLMValidationError) as error:
            raise BackendError(str(error)) from error

    async def leave(self, one: Pass) -> None:
        """Abort a pass. Tokens that had come in are still handed on and counted in the receipt."""
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


def _chunk(output: Any, request: TokenRequest, *, first: bool) -> TokenChunk:
    """An output of vLLM's as a chunk; the first one of a pass has its cache hits."""
    brought = output.outputs[0]
    ids = tuple(brought.token_ids)
    logprobs: tuple[float | None, ...] | None = None
    if request.sampling.logprobs:
        logprobs = tuple(float(at[i].logprob) for i, at in zip(ids, brought.logprobs or (), strict=True))
    cached = output.num_cached_tokens or 0 if first else 0
    return TokenChunk(ids, logprobs, cast("Finish | None", brought.finish_reason), cached)
