"""A Hugging Face model in this process: the embedded default, on CPU or GPU.

One worker thread steps a `BatchDecoder` while there is work; streams are fed through their own event
loop, so several loops (an async app, LangChain's synchronous calls) can share the model. Closing a stream
takes the row out before the next token. A token counts on the meter when it is handed to its stream.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...errors import BackendError, BackendUnavailableError, UnknownModelError
from ...prompts.tokenizer import load_codec
from ...validation import integer
from ..base import NO_LIMITS, Codec, Meter, TokenChunk, TokenRequest, check_request
from .decode import BatchDecoder, Sampled

_SMALL = 100_000_000  # parameters under which one thread, and float32, are fast enough on a CPU
DTYPES = ("float32", "bfloat16")


@dataclass(slots=True)
class _Stream:
    """A running pass, between the worker (`_give`) and its reader."""

    request: TokenRequest
    loop: asyncio.AbstractEventLoop
    ready: asyncio.Event
    chunks: deque[TokenChunk | BackendError] = field(default_factory=deque)
    served: int = 0
    closed: bool = False


class TransformersBackend:
    """Runs a `transformers` causal language model in process.

    Args:
        model: a loaded model, in evaluation mode.
        codec: its tokenizer.
        name: what to call it in prices, curves and logs.
        max_rows: most sequences decoded together; others wait in order.
        threads: CPU threads of the decoder; by default one for a small model, torch's own number otherwise.
    """

    def __init__(
        self, model: Any, codec: Codec, *, name: str, max_rows: int = 64, threads: int | None = None
    ) -> None:
        max_rows = integer("max_rows", max_rows, least=1, of="rows")
        if threads is not None:
            threads = integer("threads", threads, least=1, of="threads")
        elif sum(p.numel() for p in model.parameters()) < _SMALL:
            threads = 1
        self.model = name
        self.codec = codec
        self.context_length = int(model.config.max_position_embeddings)
        self.meter = Meter()
        self.two_passes = NO_LIMITS
        self.guided = False
        self._decoder = BatchDecoder(model, max_rows=max_rows)
        self._threads = threads
        self._vocabulary = int(model.config.vocab_size)
        self._lock = threading.Condition()  # guards everything below, `meter`, and every _Stream
        self._new: deque[_Stream] = deque()
        self._cancelled: deque[_Stream] = deque()
        self._worker: threading.Thread | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        max_rows: int = 64,
        threads: int | None = None,
        dtype: str | None = None,
        **codec_options: Any,
    ) -> TransformersBackend:
        """Load a model folder or a hub id.

        Args:
            dtype: "float32" or "bfloat16". None: the stored precision, and on a CPU float32 instead for small
                models, for float16, and where the CPU has no instructions for bfloat16.

        Raises:
            UnknownModelError: nothing that can be loaded is there.
            ValueError: there is no such dtype.
            NoMarkersError: the model has no end-of-thinking marker.
        """
        from transformers import AutoModelForCausalLM

        from .attention import GROUPED

        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype= is one of {', '.join(DTYPES)}, not {dtype!r}")
        name = name or str(path)
        codec = load_codec(path, name=name, **codec_options)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(path), dtype=dtype or "auto", attn_implementation=GROUPED
            )
        except (OSError, ValueError) as error:
            raise UnknownModelError(f"can't load {name}: {str(error).splitlines()[0]}") from error
        if dtype is None and device == "cpu" and not _fast_in(model.dtype, model.num_parameters()):
            model.float()
        return cls(model.to(device).eval(), codec, name=name, max_rows=max_rows, threads=threads)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def module(self) -> Any:
        """The loaded `transformers` model, for work in batches beside the streams."""
        return self._decoder.model

    async def ready(self) -> None:
        """Return at once: a loaded model is ready."""

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Return "": calls never pass fields to this backend (`guided` is False)."""
        return ""

    async def probe(self) -> None:
        """Raise if the backend was closed."""
        if self._closed:
            raise BackendUnavailableError(f"{self.model} has been closed")

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        self._check(request)
        stream = _Stream(request, asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._closed:
                request.receipt.refused = True
                raise BackendUnavailableError(f"{self.model} has been closed")
            self.meter.requests += 1
            self.meter.input += len(request.prompt_ids)
            self._new.append(stream)
            self._start()
            self._lock.notify()
        try:
            finished = False
            while not finished:
                await stream.ready.wait()
                with self._lock:
                    stream.ready.clear()
                    got = list(stream.chunks)
                    stream.chunks.clear()
                for chunk in got:
                    if isinstance(chunk, BackendError):
                        raise chunk
                    if self._closed:
                        raise BackendUnavailableError(f"{self.model} has been closed")
                    finished = chunk.finish is not None
                    yield chunk
        finally:
            with self._lock:
                stream.closed = True
                request.receipt.output = stream.served
                self._cancelled.append(stream)

    async def aclose(self) -> None:
        """Stop the worker; running streams end with `BackendUnavailableError`."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.join)

    def _check(self, request: TokenRequest) -> None:
        check_request(request, self.context_length)
        request.receipt.refused = True
        if not all(0 <= i < self._vocabulary for i in request.prompt_ids):
            raise BackendError(f"a prompt id lies outside the vocabulary of {self._vocabulary}")
        if request.extra:
            raise BackendError(f"the in-process backend does not support {sorted(request.extra)}")
        request.receipt.refused = False

    # The worker's side

    def _start(self) -> None:
        if self._worker is None or not self._worker.is_alive():
            # The thread must not keep the backend alive: it would never be collected
            self._worker = threading.Thread(
                target=_work, args=(weakref.ref(self),), name=self.model, daemon=True
            )
            self._worker.start()

    def _turn(self, running: dict[int, _Stream]) -> bool:
        """One round of the worker: take in, step, give out. False when it is time to stop."""
        with self._lock:
            if not (self._new or running or self._closed):
                self._lock.wait(timeout=1.0)
            if self._closed:
                for stream in (*running.values(), *self._new):
                    self._give(stream, BackendUnavailableError(f"{self.model} has been closed"))
                self._new.clear()
                return False
            for stream in self._cancelled:
                for key in [k for k, s in running.items() if s is stream]:
                    self._decoder.cancel(key)
                    del running[key]
            self._cancelled.clear()
            while self._new:
                stream = self._new.popleft()
                if not stream.closed:
                    running[self._decoder.add(stream.request)] = stream
        if running:
            sampled = self._decoder.step()
            with self._lock:
                for one in sampled:
                    self._hand_out(one, running)
        return True

    def _failed(self, error: Exception, running: dict[int, _Stream]) -> None:
        """The decoder failed: its streams end, a fresh one serves those to come."""
        with self._lock:
            for stream in running.values():
                self._give(stream, BackendError(f"{self.model} failed while decoding: {error!r}"))
            running.clear()
            self._decoder = BatchDecoder(self._decoder.model, max_rows=self._decoder.max_rows)

    def _hand_out(self, one: Sampled, running: dict[int, _Stream]) -> None:
        stream = running[one.key] if one.finish is None else running.pop(one.key)
        if stream.closed:
            return
        stream.served += 1
        self.meter.output += 1
        logprobs = None if one.logprob is None else (one.logprob,)
        self._give(stream, TokenChunk((one.token,), logprobs, one.finish, one.cached))

    def _give(self, stream: _Stream, chunk: TokenChunk | BackendError) -> None:
        stream.chunks.append(chunk)
        try:
            stream.loop.call_soon_threadsafe(stream.ready.set)
        except RuntimeError:  # its event loop has been closed: nobody will read on
            stream.closed = True
            self._cancelled.append(stream)


def _fast_in(dtype: torch.dtype, parameters: int) -> bool:
    """Whether a CPU should compute a model of so many parameters in the precision in which it is stored."""
    return dtype == torch.bfloat16 and parameters >= _SMALL and has_bfloat16()


def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16: elsewhere float32 is faster."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _work(ref: weakref.ref[TransformersBackend]) -> None:
    running: dict[int, _Stream] = {}
    backend = ref()
    if backend is not None and backend._threads is not None:
        torch.set_num_threads(backend._threads)
    while backend is not None:
        try:
            if not backend._turn(running):
                return
        except Exception as error:
            backend._failed(error, running)
        backend = None
        backend = ref()
