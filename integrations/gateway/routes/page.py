"""`/ui`: the live page of the gateway. A key sees its own tasks alone, of this process."""

from __future__ import annotations

from aiohttp import web

from ...page.feed import Feed
from ..api.request_context import CONTEXT


def page_feed(*, with_keys: bool) -> Feed:
    """The page's feed, which is a log of the gateway's scheduler."""
    return Feed(_owner, "gateway-with-keys" if with_keys else "gateway", account_of)


def account_of(key: str) -> str:
    """The account that a task's `key` belongs to: its owner's id, without the name of the task.

    The account of a key is key/NAME/ID, and a task of the key's is below that.
    """
    parts = key.split("/")
    return "/".join(parts[:3] if parts[0] == "key" else parts[:1])


def _owner(request: web.Request) -> str:
    return request[CONTEXT].owner.id
