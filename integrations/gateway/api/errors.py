"""Every error of the gateway in OpenAI's shape, with the numbers.

{"error": {"message": .., "type": .., "param": .., "code": .., "needed": {..}, "available": {..}}}

400  invalid_request_error     what can't be parsed or obeyed; `param` names the field
401  authentication_error      no key, a wrong one, or one that was revoked
402  insufficient_quota        a cap can't hold the call, and nothing that runs will give it room
403  permission_error          another key's task
404  not_found_error           no such model, task or route
409  invalid_request_error     the request with this Idempotency-Key has no answer to tell again
410  task_closed               the task has ended
413  request_too_large
415  invalid_request_error     not application/json
422  invalid_request_error     the Idempotency-Key of another request
429  rate_limit_error          refunds may make room, or the queue is full: `Retry-After` says when
502  upstream_error            the upstream answered with an error, or with something that can't be trusted
503  unavailable               the upstream or the ledger is away, or the gateway shuts down
504  timeout                   the call took longer than the gateway allows

An error of a request that is charged all the same says how much (`charged`), and `x-should-retry: false`.
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
UNREAD = ("broken_body", "slow_body", "request_too_large")
"""Errors that leave a part of the request unread: the connection ends with them."""
AGAIN = 1.0
"""Seconds after which a client may try again where nobody knows better."""


class GatewayError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what to do.
        code: for programs.
        param: the field that is wrong.
        retry_after: seconds until it may work.
        numbers: further fields, such as `needed` and `available`.
        retry: False tells clients that try again by themselves not to (`x-should-retry`).
        charged: what the request is charged all the same. Trying again would be charged again, so clients are
            told not to by themselves.
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

    def after(self, charged: Mapping[str, Any] | None) -> GatewayError:
        """The same error, of a request that is charged so much; None: of one that cost nothing."""
        if charged is not None:
            self.charged = charged
        return self

    def said(self, message: str, param: str | None) -> GatewayError:
        """The same error in other words."""
        return GatewayError(
            self.status, message, self.code, param=param, retry_after=self.retry_after,
            numbers=self.numbers, retry=self.retry, charged=self.charged,
        )  # fmt: skip

    def body(self) -> dict[str, Any]:
        """As JSON."""
        error = {
            "message": str(self),
            "type": TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        charged = {} if self.charged is None else {"charged": dict(self.charged)}
        return {"error": error | self.numbers | charged}

    def response(self) -> web.Response:
        """As an HTTP response."""
        headers = {}
        if self.retry is False or self.charged is not None:
            headers["x-should-retry"] = "false"
        elif self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        response = web.Response(
            status=self.status,
            text=json.dumps(self.body()),
            content_type="application/json",
            headers=headers,
        )
        if self.code in UNREAD:
            response.force_close()
        return response


def bad(param: str | None, message: str, code: str = "invalid_value") -> GatewayError:
    """A request that can't be obeyed."""
    return GatewayError(400, message, code, param=param)


def told(error: Exception, *, refunds: bool = False) -> GatewayError:
    """An error of the library as an answer; one that nobody foresaw is raised again.

    Args:
        refunds: what other calls hold may come back and make room.
    """
    if isinstance(error, GatewayError):
        return error
    message = str(error)
    if isinstance(error, CapExceededError):
        numbers: dict[str, Any] = {"needed": error.needed, "available": error.available}
        if error.binding is not None:
            numbers["binding"] = error.binding.to_dict()
        code = "deadline_exceeded" if isinstance(error, DeadlineError) else "cap_exceeded"
        if refunds:
            return GatewayError(429, message, code, retry_after=AGAIN, numbers=numbers)
        return GatewayError(402, message, code, numbers=numbers)
    if isinstance(error, EndpointBusyError):
        return GatewayError(429, message, "queue_full", retry_after=error.retry_after)
    for kind, status, code in _PLAIN:
        if isinstance(error, kind):
            return GatewayError(status, message, code, retry_after=AGAIN if status == 503 else None)
    raise error


def answer_to(error: Exception, id: str) -> GatewayError:
    """The same for every error: one that nobody foresaw is told to the log alone.

    Args:
        id: of the request.
    """
    try:
        return told(error)
    except Exception:
        # The traceback's lines and nothing that the request brought: a message may quote it
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
