"""How a server is reached: what is sent with every request, and through which proxy.

Without a `proxy` of its own a connection takes that of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY),
as other clients do, but none to this machine itself. Nothing else of the environment is read: no credentials
of a .netrc go to a server.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ...errors import InvalidValueError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HERE = ("localhost", "127.0.0.1", "::1")
_FRAMING = {"content-length", "transfer-encoding", "connection"}
OURS = (
    *("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "priority", "stop_token_ids"),
    *("stream", "stream_options", "return_token_ids", "skip_special_tokens", "logprobs"),
)
"""Fields of a request that the call itself says."""
_UNMETERED = (
    "n",
    "best_of",
    "use_beam_search",
    "echo",
    "suffix",
    "stop",
    "prompt_embeds",
    "truncate_prompt_tokens",
)
"""Fields with which a server serves, reads or hides more than the one answer that is held and counted."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Of one server.

    Attributes:
        headers: sent with every request, the key among them.
        proxy: a URL; None for none.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = field(default=None, repr=False)

    @classmethod
    def to(
        cls, base_url: str, api_key: str | None, headers: Mapping[str, str] | None, proxy: str | None
    ) -> Connection:
        """The connection of a server.

        Args:
            api_key: sent as a bearer token, unless `headers` say Authorization themselves.
            proxy: None takes the environment's, "" takes none.

        Raises:
            InvalidValueError: a header that can't be sent, or a proxy that is no URL.
        """
        sent = _checked(headers or {})
        if api_key and "authorization" not in map(str.lower, sent):
            sent = {"Authorization": f"Bearer {api_key}", **sent}
        if proxy is None:
            url = urlsplit(base_url)
            host = url.hostname or ""
            direct = host in _HERE or urllib.request.proxy_bypass(host)
            proxy = None if direct else urllib.request.getproxies().get(url.scheme)
        elif proxy and not re.match(r"https?://[^/\s]+", proxy):
            raise InvalidValueError('proxy= is a URL, like http://proxy:3128, or "" for none')
        return cls(sent, proxy or None)


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that can be sent. An error doesn't show a value, which may be a secret."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or name.lower() in _FRAMING:
            raise InvalidValueError(f"headers: {name!r} can't be sent as a header's name")
        if not value.isprintable() or not value.isascii():
            raise InvalidValueError(f"headers: the value of {name!r} is one line of ASCII text")
    return dict(headers)


def extra_fields(fields: Mapping[str, object] | None) -> dict[str, object]:
    """Further fields of every request, below those of the call.

    Raises:
        InvalidValueError: a field that the call says itself, or with which budgets could not be kept.
    """
    for name in fields or {}:
        if name in OURS:
            raise InvalidValueError(f"extra_body: {name!r} is said by the call itself, not here")
        if name in _UNMETERED:
            raise InvalidValueError(f"extra_body: with {name!r} a server would do more than what is held for")
    return dict(fields or {})
