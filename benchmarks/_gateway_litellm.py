"""LiteLLM's proxy with a budget on, for `gateway.py`: its configuration, and the key that it accepts.

It has no database here (docs/lab-notes.md says why), so the key comes from `custom_auth`; its budget is
checked, reserved and accounted by LiteLLM's own code. Imported by LiteLLM's proxy, in its own environment.
"""

from __future__ import annotations

from typing import Any

from litellm.proxy._types import UserAPIKeyAuth  # type: ignore[import-not-found,unused-ignore]
from litellm.proxy.hooks.proxy_track_cost_callback import (  # type: ignore[import-not-found,unused-ignore]
    ProxyDBLogger,
)

tracker = ProxyDBLogger()


async def auth(request: Any, api_key: str) -> UserAPIKeyAuth:
    """One key, with a budget that the benchmark doesn't use up."""
    return UserAPIKeyAuth(api_key=api_key, token="benchmark-key", max_budget=1000.0)
