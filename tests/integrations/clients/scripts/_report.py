"""What the scripts of all clients share: what they are given, and how they say what came.

A script is one client as a user would write it, unchanged but for base URL and key. It gives `run` three
functions, each of a key: a text, a tool call (name and arguments), a stream (its parts). `run` tries the
first two more times: with a key whose cap is spent (402), and with one whose room another call holds (429).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

URL = os.environ["ELASTIC_URL"]
ROOT = URL.removesuffix("/v1")
MODEL, CALLER = "e1-tiny", "caller"
"""The model of texts, and one that always calls the tool `add`."""
MOST = 100
QUESTION = "A shop has 9 hats . #1 It gets 14 . #2 It sells 3 . How many hats are left ?"
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}
MESSAGES = [{"role": "user", "content": QUESTION}]


def run(
    text: Callable[[str], str],
    tool: Callable[[str], tuple[str, Any]] | None,
    stream: Callable[[str], list[str]] | None,
) -> None:
    """Try a client, and print what came as JSON."""
    key = os.environ["ELASTIC_KEY"]
    found: dict[str, Any] = {"text": text(key)}
    if tool is not None:
        found["tool"] = tool(key)
    if stream is not None:
        found["stream"] = stream(key)
    for name in ("spent", "busy"):
        began = time.monotonic()
        try:
            text(os.environ[f"ELASTIC_{name.upper()}"])
        except Exception as error:
            kind = type(error)
            found[name] = {"error": f"{kind.__module__}.{kind.__name__}", "seconds": time.monotonic() - began}
    print(json.dumps(found))
