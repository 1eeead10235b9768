"""A decoder of this process as a backend: one worker thread steps it while there is work.

Streams are fed through their own event loop, so several loops (an async app, LangChain's synchronous calls)
can share the decoder. Closing a stream takes its request out before the next token. A token counts on the
meter when it is handed to its stream.

The worker alone touches the decoder. When `stop` or `aclose` has returned, the worker has ended and the
decoder is dropped, with the memory that it holds.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import BackendError, BackendUnavailableError
from .base import NO_LIMITS, Codec, Meter, TokenChunk, TokenRequest, check_request
from .decoder import Decoder, Sampled


@dataclass(slots=True, eq=False)
class _Stream:
    """A running pass, between the worker (`_hand_out`) and its reader."""

    request: TokenRequest
    loop: asyncio.AbstractEventLoop
    ready: asyncio.Event
    chunks: deque[TokenChunk | BackendError] = field(default_factory=deque)
    key: int | None = None
    """In the decoder; the worker's own."""
    served: int = 0
    closed: bool = False


class DecoderBackend:
    """Streams of one decoder.

    Args:
        make: makes the decoder, and another one after a failure: its streams end then, later ones go on.
        codec: the model's tokenizer.
        name: what to call it in prices, curves and logs.
        context_length: most tokens, prompt included, that one sequence may have.
        vocabulary: ids from 0 to below this are the model's.
        prepare: called in the worker's thread before it touches the decoder.
    """

    def __init__(
        self,
        make: Callable[[], Decoder],
        codec: Codec,
        *,
        name: str,
        context_length: int,
        vocabulary: int,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self.model = name
        self.codec = codec
        self.context_length = context_length
        self.meter = Meter()
        self.two_passes = NO_LIMITS
        self.guided = False
        self._make, self._prepare = make, prepare
        self._vocabulary = vocabulary
        self._decoder: Decoder | None = make()
        self._lock = threading.Condition()  # guards everything below, `meter`, and every _Stream
        self._new: deque[_Stream] = deque()
        self._cancelled: deque[_Stream] = deque()
        self._worker: threading.Thread | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    async def ready(self) -> None:
        """Return at once: a loaded model is ready."""

    async def refusal(self, fields: Mapping[str, Any]) -> str:
        """Return "": calls never pass fields to this backend (`guided` is False)."""
        return ""

    async def probe(self) -> None:
        """Raise if the backend was closed."""
        if self._closed:
            raise self._gone()

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenChunk]:
        """Sample one pass; see `Backend.stream`."""
        self._check(request)
        stream = _Stream(request, asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._closed:
                request.receipt.refused = True
                raise self._gone()
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
                        raise self._gone()
                    finished = chunk.finish is not None
                    yield chunk
        finally:
            with self._lock:
                stream.closed = True
                request.receipt.output = stream.served
                self._cancelled.append(stream)

    async def aclose(self) -> None:
        """Stop the worker; running streams end with `BackendUnavailableError`."""
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """The same for callers that must not be cancelled meanwhile: waits for the step that runs."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if self._worker is not None:
            self._worker.join()
        self._decoder = None

    def _check(self, request: TokenRequest) -> None:
        check_request(request, self.context_length)
        request.receipt.refused = True
        if not all(0 <= i < self._vocabulary for i in request.prompt_ids):
            raise BackendError(f"a prompt id lies outside the vocabulary of {self._vocabulary}")
        if request.extra:
            raise BackendError(f"the in-process backend does not support {sorted(request.extra)}")
        request.receipt.refused = False

    def _gone(self) -> BackendUnavailableError:
        return BackendUnavailableError(f"{self.model} has been closed")

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
            cancelled, self._cancelled = self._cancelled, deque()
            closed = self._closed
        if closed:
            self._end((*running.values(), *self._taken()), self._gone)
            return False
        decoder = self._decoder
        assert decoder is not None
        for stream in cancelled:
            if stream.key is not None and running.get(stream.key) is stream:
                decoder.cancel(stream.key)
                del running[stream.key]
        for stream in self._taken():  # after what can fail: the next decoder serves what waits
            if not stream.closed:
                self._add(decoder, stream, running)
        if running:
            sampled = decoder.step()
            with self._lock:
                given = [self._hand_out(one, running) for one in sampled]
                self._wake([stream for stream in given if stream is not None])
        return True

    def _taken(self) -> deque[_Stream]:
        """The streams that wait to begin, taken out."""
        with self._lock:
            new, self._new = self._new, deque()
        return new

    def _add(self, decoder: Decoder, stream: _Stream, running: dict[int, _Stream]) -> None:
        try:
            stream.key = decoder.add(stream.request)
            running[stream.key] = stream
        except Exception as error:  # of this request: the others go on
            why = f"{self.model} does not take this pass: {error!r}"
            self._end((stream,), lambda: BackendError(why))

    def _failed(self, error: Exception, running: dict[int, _Stream]) -> None:
        """The decoder failed: its streams end, a fresh one serves those to come."""
        why = f"{self.model} failed while decoding: {error!r}"
        self._end(running.values(), lambda: BackendError(why))
        for key in running:
            with suppress(Exception):  # it may fail at this, too
                self._decoder.cancel(key)  # type: ignore[union-attr]
        running.clear()
        try:
            self._decoder = self._make()
        except Exception:  # no decoder any more: the next turn ends what waits
            with self._lock:
                self._closed = True

    def _hand_out(self, one: Sampled, running: dict[int, _Stream]) -> _Stream | None:
        """Put a token into its stream; None: nobody reads on."""
        stream = running.get(one.key) if one.finish is None else running.pop(one.key, None)
        if stream is None or stream.closed:
            return None
        stream.served += 1
        self.meter.output += 1
        logprobs = None if one.logprob is None else (one.logprob,)
        stream.chunks.append(TokenChunk((one.token,), logprobs, one.finish, one.cached))
        return stream

    def _end(self, streams: Collection[_Stream], error: Callable[[], BackendError]) -> None:
        with self._lock:
            for stream in streams:
                stream.chunks.append(error())
            self._wake(streams)

    def _wake(self, streams: Iterable[_Stream]) -> None:
        """Have the readers read; each event loop is called once."""
        loops: dict[asyncio.AbstractEventLoop, list[_Stream]] = {}
        for stream in streams:
            loops.setdefault(stream.loop, []).append(stream)
        for loop, here in loops.items():
            try:
                loop.call_soon_threadsafe(_set_all, [stream.ready for stream in here])
            except RuntimeError:  # the loop has been closed: nobody will read on
                for stream in here:
                    stream.closed = True
                self._cancelled.extend(here)


def _set_all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        event.set()


def _work(ref: weakref.ref[DecoderBackend]) -> None:
    running: dict[int, _Stream] = {}
    backend = ref()
    if backend is not None and backend._prepare is not None:
        backend._prepare()
    while backend is not None:
        try:
            if not backend._turn(running):
                return
        except Exception as error:
            backend._failed(error, running)
        backend = None
        backend = ref()
