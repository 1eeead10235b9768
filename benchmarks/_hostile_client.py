"""What `hostile.py` sends: one attacker, as a process of its own, with many kinds of requests.

    python benchmarks/_hostile_client.py PORT KEY REQUESTS PER_SECOND SEED

It goes to 127.0.0.1 alone. Its last line is JSON: requests, and first answers by status (0: none came).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

PIPELINED = 20
HELD = 1500
"""Connections that are held open at most, idle, dripping or unread."""
PATIENCE = 15.0
SECRET = "KEY"
"""Stands for the key in the requests below."""
JSON = ("Content-Type: application/json", f"Authorization: Bearer {SECRET}")
HELLO = [{"role": "user", "content": "hello"}]


def request(
    body: bytes | str | dict[str, Any] = b"",
    *headers: str,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    length: int | None = None,
) -> bytes:
    """A request as bytes; JSON with the key unless headers are given."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(headers or JSON)]
    return (
        "\r\n".join([*lines, f"Content-Length: {len(raw) if length is None else length}", "", ""]).encode()
        + raw
    )


def chat(**fields: Any) -> bytes:
    return request({"messages": HELLO, "max_tokens": 40, **fields})


def nested(depth: int, before: str = '{"type":"object","properties":{"a":', after: str = "}}") -> Any:
    return json.loads(before * depth + '{"type":"string"}' + after * depth)


def bodies(size: int) -> list[bytes]:
    """Bodies of up to so many bytes that cost more than they should, or are none."""

    texts = [
        json.dumps({"messages": [{"role": "user", "content": ""}] * (size // 40)}),
        json.dumps({"messages": [{"role": "user", "content": [1] * (size // 4)}]}),
        json.dumps({"messages": HELLO, **{f"x{n}": 1 for n in range(size // 12)}}),
        json.dumps({"messages": HELLO, **{f"thinking_budge{n}": 1 for n in range(size // 24)}}),
        json.dumps({"messages": HELLO, "tools": [{}] * (size // 4)}),
        json.dumps({"messages": HELLO, "stop": [1] * (size // 4)}),
        json.dumps({"messages": [{"role": "user", "content": "a b " * (size // 4)}]}),
        json.dumps({"messages": [{"role": "user", "content": "</think><|im_end|>" * (size // 20)}]}),
        json.dumps({"messages": [{"role": "user", "content": "<" * size}]}),
        '{"messages": [{"role": "user", "content": "' + "\\ud83d" * (size // 6) + '"}]}',
        '{"x": ' + "[" * (size // 2) + "]" * (size // 2) + "}",
        '{"seed": ' + "9" * size + "}",
        '{"temperature": 0.' + "1" * size + "}",
        '{"seed": [' + ",".join(["9" * 4200] * (size // 4201)) + "]}",
        "{" * size,
        '"' * size,
        "\\" * size,
        " " * size,
    ]
    return [request(text) for text in texts] + repeated(size)


def repeated(size: int) -> list[bytes]:
    """Bodies of so many bytes with one thing in them, again and again."""
    items = ("1", "{}", "[]", '""', "null", "1.5", "1e308")
    return [request('{"messages": [' + (item + ",") * (size // (len(item) + 1)) + "1]}") for item in items]


def numbers() -> list[bytes]:
    """Numbers that nobody should reckon with."""
    odd = ("1e-999999999", "1e999999999", "9" * 150, "-1", "NaN", "0x10", "1_000", "0." + "0" * 150 + "1")
    found = []
    for text in odd:
        for name in ("usd", "tokens", "seconds"):
            found.append(
                request({"messages": HELLO}, *JSON, "X-Elastic-Task: t", f"X-Elastic-Caps: {name}={text}")
            )
        found.append(request({"messages": HELLO}, *JSON, f"X-Elastic-Thinking: {text}"))
        for field in (
            "max_tokens",
            "thinking_budget",
            "solution_budget",
            "n",
            "seed",
            "temperature",
            "top_p",
        ):
            found.append(request(f'{{"messages": [{{"role": "user", "content": "a"}}], "{field}": {text}}}'))
        found.append(request(f'{{"usd": {text}, "tokens": {text}}}', path="/v1/tasks"))
    return found


def schemas() -> list[bytes]:
    """Schemas that would keep an engine busy, or kill it."""
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(5000)}}
    odd: list[Any] = [
        *(nested(depth) for depth in (20, 60, 120, 220, 260, 450)),
        nested(300, '{"anyOf":[', "]}"),
        nested(300, '{"type":"array","items":', "}"),
        wide,
        {"enum": list(range(20_000))},
        {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"},
        {"type": "string", "pattern": "("},
        {"$ref": "#/$defs/none"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"type": "nonsense"},
        {"type": "integer", "minimum": 10**30},
    ]
    found = []
    for schema in odd:
        found.append(
            chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        )
        tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
        found.append(chat(tools=[tool]))
        found.append(chat(tools=[tool], tool_choice="required"))
    return found


def headers() -> list[bytes]:
    """Headers, keys and hosts that are none."""
    content = "Content-Type: application/json"
    odd = [
        (content,),
        (content, "Authorization: Bearer ea-wrong"),
        (content, "Authorization: Bearer ea-" + "a" * 15_000),
        (content, "Authorization: Basic a2V5"),
        (content, f"Authorization: Bearer {SECRET}\x01"),
        (content, f"Authorization: Bearer {SECRET}\r"),
        (*JSON, "Content-Encoding: gzip"),
        (*JSON, "Transfer-Encoding: chunked"),
        (*JSON, "Expect: 100-continue"),
        (*JSON, "Expect: a miracle"),
        (*JSON, "Upgrade: websocket", "Connection: Upgrade"),
        (*JSON, "X-Elastic-Thinking: 5", "X-Elastic-Thinking: 6"),
        (*JSON, "X-Elastic-Nonsense: 5"),
        (*JSON, "X-Elastic-Task: " + "a" * 15_000),
        (*JSON, "X-Elastic-Kind: " + "\u00e9" * 10),
        (*JSON, *(f"X-{n}: a" for n in range(500))),
        (*JSON, "X-Long: " + "a" * 60_000),
        (*JSON, "Host: evil.example", "Origin: https://evil.example"),
        ("Content-Type: text/plain", JSON[1]),
        ("Content-Type: " + "a" * 10_000, JSON[1]),
    ]
    return [request({"messages": HELLO}, *some) for some in odd]


def no_http() -> list[bytes]:
    """What is no request at all, and paths that lead nowhere."""
    paths = ("/", "/v1/tasks/" + "a" * 9000, "/v1/models/" + "%2e" * 3000, "/v1/tasks/..%2f", "//", "*")
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x12\x04" * 20,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 5000,
        b"\x00" * 20_000,
        b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        request(b"{}", length=-5),
        request(b"{}", length=10**18),
        chunked + b"ffffffffffffffff\r\n",
        chunked + b"1\r\na\r\n" * 5000,
        *(
            request(path=path, method=method)
            for path in paths
            for method in ("GET", "POST", "DELETE", "TRACE")
        ),
    ]


class Attacker:
    """Sends, and counts what comes back."""

    def __init__(self, port: int, key: str, seed: int) -> None:
        self.port, self.key, self.dice = port, key.encode(), random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.requests = 0  # more than connections, since some come in one piece
        self.held: list[asyncio.StreamWriter] = []
        some = {
            "small": (20, bodies(60_000)),
            "large": (2, bodies(500_000) + repeated(4_000_000)),
            "numbers": (16, numbers()),
            "schemas": (10, schemas()),
            "headers": (14, headers()),
            "no HTTP": (12, no_http()),
        }
        self.kinds: list[tuple[int, Callable[[], Any]]] = [
            *((weight, partial(self.one_of, pool)) for weight, pool in some.values()),
            (4, self.half_closed),
            (4, self.leaves),
            (4, self.pipelined),
            (8, self.idle),
            (3, self.drips),
            (3, self.never_reads),
        ]

    async def run(self, requests: int, per_second: float) -> None:
        """Send so many requests, at this pace whatever becomes of them."""
        loop, began, running = asyncio.get_running_loop(), asyncio.get_running_loop().time(), set()
        weights = [weight for weight, _ in self.kinds]
        while self.requests < requests:
            await asyncio.sleep(max(0.0, began + self.requests / per_second - loop.time()))
            _, kind = self.dice.choices(self.kinds, weights)[0]
            self.requests += 1
            task = asyncio.ensure_future(self._count(kind))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        for writer in self.held:
            writer.close()

    async def _count(self, kind: Callable[[], Any]) -> None:
        status = 0
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE):
                status = await kind()
        self.statuses[status] += 1

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def _answer(self, reader: asyncio.StreamReader) -> int:
        words = (await reader.readline()).split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    async def one_of(self, pool: list[bytes]) -> int:
        """One of them, by chance."""
        return await self.once(self.dice.choice(pool))

    async def once(self, sent: bytes) -> int:
        """Send, read the answer's first line, go."""
        reader, writer = await self._open()
        try:
            writer.write(sent.replace(SECRET.encode(), self.key))
            return await self._answer(reader)
        finally:
            writer.close()

    async def half_closed(self) -> int:
        """A request, or a half of one, and then the end of what it sends."""
        reader, writer = await self._open()
        try:
            whole = chat().replace(SECRET.encode(), self.key)
            writer.write(whole[: self.dice.choice((len(whole), len(whole) // 2, 30))])
            writer.write_eof()
            return await self._answer(reader)
        finally:
            writer.close()

    async def leaves(self) -> int:
        """A call that is left while it runs."""
        _, writer = await self._open()
        writer.write(chat(stream=self.dice.random() < 0.5).replace(SECRET.encode(), self.key))
        await asyncio.sleep(self.dice.random() * 0.3)
        writer.transport.abort()
        return 0

    async def pipelined(self) -> int:
        """Many requests in one piece."""
        sent = request(path=self.dice.choice(("/health", "/v1/models", "/nonsense")), method="GET")
        self.requests += PIPELINED - 1
        return await self.once(sent * PIPELINED)

    async def idle(self) -> int:
        """Says nothing, and stays."""
        await self._hold((await self._open())[1])
        return 0

    async def drips(self) -> int:
        """Its headers, or its body, come byte by byte."""
        _, writer = await self._open()
        await self._hold(writer)
        sent = chat().replace(SECRET.encode(), self.key)
        start = self.dice.choice((0, len(sent) - 20))
        writer.write(sent[:start])
        for byte in sent[start : start + 15]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.5)
        return 0

    async def never_reads(self) -> int:
        """Asks for much, and reads nothing of it."""
        self.requests += PIPELINED - 1
        _, writer = await self._open()
        await self._hold(writer)
        writer.write(request(path=self.dice.choice(("/openapi.json", "/metrics")), method="GET") * PIPELINED)
        return 0

    async def _hold(self, writer: asyncio.StreamWriter) -> None:
        self.held.append(writer)
        if len(self.held) > HELD:
            self.held.pop(0).close()


def main() -> None:
    port, key, requests, per_second, seed = sys.argv[1:]
    attacker = Attacker(int(port), key, int(seed))
    asyncio.run(attacker.run(int(requests), float(per_second)))
    print(json.dumps({"requests": attacker.requests, "statuses": dict(sorted(attacker.statuses.items()))}))


if __name__ == "__main__":
    main()
