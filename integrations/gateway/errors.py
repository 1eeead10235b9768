"""The gateway's errors, in OpenAI's shape; those of Anthropic's routes in Anthropic's.

{"error": {"message": .., "type": .., "param": .., "code": .., "needed": {..}, "available": {..}}}

400  invalid_request_error     the body or a header can't be parsed or obeyed; `param` names the field
401  authentication_error      no key, an unknown key, or a revoked key
402  insufficient_quota        a cap can't hold the call, and no running call can be refunded to make room
403  permission_error          another key's task
404  not_found_error           no such model, task or route
409  invalid_request_error     the request with this Idempotency-Key has no answer that can be sent again
410  task_closed               the task has ended
413  request_too_large
415  invalid_request_error     not application/json
422  invalid_request_error     the Idempotency-Key belongs to another request
429  rate_limit_error          refunds may make room, or the queue is full: `Retry-After` says when
502  upstream_error            the upstream answered with an error, or with something that can't be trusted
503  unavailable               the upstream or the ledger can't be reached, or the gateway shuts down
504  timeout                   the call took longer than the gateway allows

An error of a request that was charged all the same has the amount in `charged`, and the header
`x-should-retry: false`.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from elastic_agent.errors import (
    BackendError,
    BackendUnavailableError,
    CapExceededError,
    ContextLengthError,
    DeadlineError,
    ElasticError,
    EndpointBusyError,
    InvalidBudgetError,
    InvalidCapsError,
    StoreError,
    StoreUnavailableError,
    TaskClosedError,
    UnknownModelError,
    UnknownPriceError,
)

log = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    410: "task_closed",
    413: "request_too_large",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "unavailable",
    504: "timeout",
}
ANTHROPIC = "/v1/messages"
"""Routes that begin like this get errors in Anthropic's shape."""
ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
UNREAD = ("broken_body", "slow_body", "request_too_large")
"""Codes of errors that leave a part of the request unread: the connection is closed after them."""
RETRY_SECONDS = 1.0
"""`Retry-After` where nothing better is known."""


class GatewayError(Exception):
    """An error that a client gets as its answer.

    Args:
        status: of HTTP.
        message: what to do about it.
        code: for programs.
        param: the field that is wrong.
        retry_after: seconds after which a retry may succeed.
        numbers: further fields, such as `needed` and `available`.
        retry: False tells client libraries not to retry by themselves (`x-should-retry`).
        charged: what the request is charged all the same. A retry would be charged again, so it implies
            `retry=False`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        numbers: Mapping[str, Any] | None = None,
        retry: bool | None = None,
        charged: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after
        self.numbers = dict(numbers or {})
        self.retry, self.charged = retry, charged

    def with_charge(self, charged: Mapping[str, Any] | None) -> GatewayError:
        """This error, of a request that is charged this much; None: of a request that cost nothing."""
        if charged is not None:
            self.charged = charged
        return self

    def with_names(self, names: Mapping[str, str]) -> GatewayError:
        """The same error with the field names of another wire.

        Args:
            names: the beginning of a field's name in a chat request -> the name on that wire.
        """
        for chat, theirs in names.items():
            if self.param is not None and self.param.startswith(chat):
                return GatewayError(
                    self.status, str(self).replace(chat, theirs, 1), self.code,
                    param=self.param.replace(chat, theirs, 1), retry_after=self.retry_after,
                    numbers=self.numbers, retry=self.retry, charged=self.charged,
                )  # fmt: skip
        return self

    def body(self, route: str = "") -> dict[str, Any]:
        """As JSON, in the shape that the clients of a route know."""
        anthropic = route.startswith(ANTHROPIC)
        types = ANTHROPIC_TYPES if anthropic else TYPES
        error = {
            "message": str(self),
            "type": types.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        charged = {} if self.charged is None else {"charged": dict(self.charged)}
        outer = {"type": "error"} if anthropic else {}
        return {**outer, "error": error | self.numbers | charged}

    def response(self, route: str = "") -> web.Response:
        """As an HTTP response of a route."""
        headers = {}
        if self.retry is False or self.charged is not None:
            headers["x-should-retry"] = "false"
        elif self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        response = web.Response(
            status=self.status,
            text=json.dumps(self.body(route)),
            content_type="application/json",
            headers=headers,
        )
        if self.code in UNREAD:
            response.force_close()
        return response


def bad_request(param: str | None, message: str, code: str = "invalid_value") -> GatewayError:
    """400: a request that can't be obeyed."""
    return GatewayError(400, message, code, param=param)


def not_found(what: str, name: str, known: list[str]) -> GatewayError:
    """404: a name that stands for nothing."""
    return GatewayError(
        404, f"no {what} called {name[:64]!r}; there is {', '.join(known) or 'none'}", f"{what}_not_found"
    )


def to_gateway_error(error: Exception, *, refunds: float | None = None) -> GatewayError:
    """The answer to an error of this library; any other error is raised again.

    Args:
        refunds: seconds after which what other calls hold may be refunded and make room, so that a retry
            can succeed; None: nothing may be.
    """
    if isinstance(error, GatewayError):
        return error
    message = str(error)
    if isinstance(error, CapExceededError):
        numbers: dict[str, Any] = {"needed": error.needed, "available": error.available}
        if error.binding is not None:
            numbers["binding"] = error.binding.to_dict()
        code = "deadline_exceeded" if isinstance(error, DeadlineError) else "cap_exceeded"
        if refunds is not None:
            return GatewayError(429, message, code, retry_after=refunds, numbers=numbers)
        return GatewayError(402, message, code, numbers=numbers)
    if isinstance(error, EndpointBusyError):
        return GatewayError(429, message, "queue_full", retry_after=error.retry_after)
    for kind, status, code in _PLAIN:
        if isinstance(error, kind):
            return GatewayError(status, message, code, retry_after=RETRY_SECONDS if status == 503 else None)
    raise error


def to_gateway_error_or_500(error: Exception, id: str) -> GatewayError:
    """The answer to any error; one that is not of this library is logged, and its client gets a 500.

    Args:
        id: of the request.
    """
    try:
        return to_gateway_error(error)
    except Exception:
        # Only the lines of the traceback: the message may quote the request
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("request %s failed: %s\n%s", id, type(error).__name__, where)
        return GatewayError(500, f"the gateway failed; its log has request {id}", "internal_error")


_PLAIN: tuple[tuple[type[ElasticError], int, str], ...] = (
    (ContextLengthError, 400, "context_length_exceeded"),
    (InvalidBudgetError, 400, "invalid_budget"),
    (InvalidCapsError, 400, "invalid_caps"),
    (UnknownPriceError, 400, "price_unknown"),
    (TaskClosedError, 410, "task_closed"),
    (StoreUnavailableError, 503, "ledger_unavailable"),
    (StoreError, 503, "ledger_error"),
    (UnknownModelError, 503, "upstream_without_model"),
    (BackendUnavailableError, 503, "upstream_unavailable"),
    (BackendError, 502, "upstream_error"),
    (ElasticError, 400, "refused"),
)
