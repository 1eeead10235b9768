"""`elastic-agent report --html FILE`: a recorded run as one page that loads nothing.

The run is JSON in the page, and a script shows it. Names and reasons are other people's: they are put on the
page as text alone, and the policy of the page allows no script but its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

from .run_json import as_dict
from .run_model import Run

STATIC = Path(__file__).with_name("static")
THEME = Path(__file__).parents[1] / "page" / "static" / "theme.css"
"""Colours, type and frame, which the live page has, too."""


def run_page(title: str, run: Run, check: dict[str, Any] | None = None) -> str:
    """The page.

    Args:
        title: of the page.
        check: whether the run replays, and its regret (`replay_table.as_dict`); None: nobody looked.
    """
    files = (THEME, *(STATIC / name for name in ("run.css", "run.js", "run.html")))
    theme, own, script, page = (file.read_text(encoding="utf-8") for file in files)
    style = theme + own
    data = json.dumps({"title": title, "run": as_dict(run), "check": check}).replace("<", "\\u003c")
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
    parts = {"policy": policy, "title": escape(title), "style": style, "data": data, "script": script}
    # In one go: a name in the data may look like one of these places
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], page)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
