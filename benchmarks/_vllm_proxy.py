"""A proxy between a client and an HTTP server that spoils answers: bytes in, fewer or other bytes out.

    async with FaultyProxy(port, random.Random(0)) as proxy:
        VllmServerBackend("e1-tiny", proxy.base_url)

Each connection to it is one connection to the server. What the client sends goes on as it is. An answer that
streams is spoiled with probability `share`, in one of the ways of `FAULTS`, at a random place.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Self

FAULTS = ("cut", "stall", "delay", "corrupt", "duplicate")


class FaultyProxy:
    """The proxy; `base_url` ends in `/v1`.

    Args:
        port: the server's, on 127.0.0.1.
        rng: draws the faults.
        share: how many answers are spoiled.
    """

    def __init__(self, port: int, rng: random.Random, share: float = 0.0) -> None:
        self.share = share
        self.done: Counter[str] = Counter()
        """How often each fault happened."""
        self._port, self._rng = port, rng
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:  # nobody there: the client sees a closed connection
            writer.transport.abort()
            return
        else:
            sending = asyncio.create_task(self._requests(reader, up_writer))
            answering = asyncio.create_task(self._answers(up_reader, writer))
            try:
                await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for half in (sending, answering):
                    half.cancel()
                await asyncio.gather(sending, answering, return_exceptions=True)
                for end in (writer, up_writer):
                    end.close()
        finally:
            self._tasks.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault, at, seen = "", 0, 0
        with suppress(OSError):
            while data := await reader.read(65536):
                if data.startswith(b"HTTP/1.1"):
                    fault, at, seen = "", self._rng.randint(300, 8000), 0
                    if b"text/event-stream" in data and self._rng.random() < self.share:
                        fault = self._rng.choice(FAULTS)
                seen += len(data)
                if fault and seen >= at:
                    self.done[fault] += 1
                    if fault == "cut":
                        return
                    if fault == "stall":
                        await asyncio.Event().wait()
                    if fault == "delay":
                        await asyncio.sleep(self._rng.uniform(0.1, 2.0))
                    if fault == "corrupt":
                        at = self._rng.randrange(len(data))
                        data = data[:at] + bytes(b ^ 0x5A for b in data[at : at + 40]) + data[at + 40 :]
                    if fault == "duplicate":
                        data += data
                    fault = ""
                writer.write(data)
                await writer.drain()
