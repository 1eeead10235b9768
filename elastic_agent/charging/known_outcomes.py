"""Statuses and errors that say whether a model ran: add what a provider or a client library says here."""

from __future__ import annotations

from collections.abc import Mapping

REFUSING: Mapping[int, str] = {
    400: "bad request",
    401: "no valid key",
    402: "nothing left to pay with",
    403: "not allowed",
    404: "no such model or path",
    405: "not for this method",
    407: "the proxy wants a login",
    410: "no longer there",
    411: "no length given",
    413: "request too large",
    414: "address too long",
    415: "not this type of content",
    421: "wrong server",
    422: "fields that can't be obeyed",
    426: "another protocol wanted",
    428: "a condition is missing",
    429: "too many requests",
    431: "headers too large",
    501: "not implemented",
    505: "not this version of HTTP",
    511: "the network wants a login",
}
"""Statuses that mean that the request was not run, and what they say."""


TELLING_NOTHING: Mapping[int, str] = {
    200: "an answer that can't be read",
    302: "sent elsewhere",
    408: "timed out, in the server or in a router",
    409: "in conflict, perhaps with the same request that runs already",
    424: "the model failed (Bedrock)",
    425: "too early, by some for what is still being worked on",
    460: "the client left (AWS load balancers)",
    499: "the client left (nginx; Google's CANCELLED)",
    500: "the server failed",
    502: "a router got no whole answer",
    503: "unavailable, perhaps only after the request was passed on (Envoy)",
    504: "a router waited too long",
    520: "an answer that Cloudflare can't read",
    522: "a connection that timed out (Cloudflare)",
    524: "Cloudflare waited too long",
    529: "overloaded (Anthropic), before or while it ran",
}
"""Statuses of requests that may have been run. Statuses that are in neither table count like these."""


UNCONNECTED: Mapping[str, tuple[str, ...]] = {
    "httpx httpx2 httpcore httpcore2": (
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "InvalidURL"),
    ),
    "aiohttp": (
        *("ClientConnectorError", "ConnectionTimeoutError", "ServerFingerprintMismatch"),
        *("ClientHttpProxyError", "InvalidURL", "NonHttpUrlClientError"),
    ),
    "requests": (
        *("ConnectTimeout", "ProxyError", "InvalidURL", "MissingSchema", "InvalidSchema", "InvalidHeader"),
        "InvalidProxyURL",
    ),
    "urllib3": (
        *("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError"),
        *("LocationValueError", "URLSchemeUnknown"),
    ),
    "botocore": (
        *("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "ParamValidationError"),
        *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoRegionError"),
        *("TokenRetrievalError", "UnauthorizedSSOTokenError", "NoAuthTokenError", "UnknownEndpointError"),
    ),
    "google": ("GoogleAuthError",),
    "builtins socket ssl http": (
        *("ConnectionRefusedError", "gaierror", "SSLCertVerificationError", "InvalidURL"),
    ),
}
"""Errors whose class says that no connection or no request was made; by the packages that raise them."""


CLIENTS = frozenset(
    {"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "urllib3", "botocore", "grpc", "h11", "h2"}
)
"""Packages whose other errors prove nothing; the errors that these were raised from are not looked at."""


WRAPPERS = frozenset({("urllib3", "MaxRetryError")})


ONCE = {
    "x-envoy-attempt-count": 1,
    "x-litellm-attempted-retries": 0,
    "x-litellm-attempted-fallbacks": 0,
    "x-portkey-retry-attempt-count": 0,
    "x-stainless-retry-count": 0,
}
"""Headers of routers and clients that say how often they tried, and the number that says: once."""
