"""What became of a request that did not end well, for every way to a model.

    Delivery.NOT_SENT   nothing left this machine: nothing is charged
    Delivery.REFUSED    the server says that it did not run the request: nothing is charged
    Delivery.UNKNOWN    perhaps served, in part or whole: what was held is charged
    Delivery.SERVED     served: what was counted is charged

Money is given back only where it is certain that no model ran: a hold that is charged for nothing is a loss,
but a refund of what was served breaks a cap. So whatever is not in the tables of `known_outcomes` is UNKNOWN.

- Statuses in `REFUSING` mean that the request was not run, whoever sent them, a router in between included.
  503 is sent by servers, and also by routers that had passed the request on. So 503 counts only in the form
  in which vLLM refuses a request before running it.
- After more than one try by the client or a router, an answer of any status tells of the last try alone.
- An error of a client library counts as not sent where its class says that no connection was made. Other
  errors of these libraries, and errors of code that reads answers, prove nothing.
- Content that arrived was served, whatever came after it.

`delivery_of_error` follows causes and contexts, since libraries wrap each other's errors. Classes are
recognised by name, so that no client library has to be installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from .known_outcomes import CLIENTS, ONCE, REFUSING, UNCONNECTED, WRAPPERS


class Delivery(Enum):
    """What became of a request; the value is for people."""

    NOT_SENT = "not sent"
    REFUSED = "refused"
    UNKNOWN = "perhaps served"
    SERVED = "served"

    @property
    def free(self) -> bool:
        """Whether nothing is charged."""
        return self in (Delivery.NOT_SENT, Delivery.REFUSED)


_ARGUMENTS = re.compile(
    r"(unexpected keyword argument|missing \d+ required|takes .*positional argument|multiple values for)"
)
"""How Python says that a function was not entered."""


def delivery_of_status(
    status: int,
    body: object = "",
    headers: Mapping[str, str] | None = None,
    hops: Iterable[int] = (),
) -> Delivery:
    """What became of a request that was answered with this status.

    Args:
        status: of HTTP.
        body: its text, or what was parsed of it.
        headers: of the answer.
        hops: statuses of the redirections that the client followed before. 302 and 303 may come after the
            request has been run; the answer that follows is then the answer to another request.
    """
    if _tried_again(headers) or not {302, 303}.isdisjoint(hops):
        return Delivery.UNKNOWN
    if status in REFUSING or (status == 503 and _vllm_refuses(body)):
        return Delivery.REFUSED
    return Delivery.UNKNOWN


def delivery_of_error(
    error: BaseException,
    *,
    sent: bool | None = None,
    arrived: bool = False,
    before: BaseException | None = None,
) -> Delivery:
    """What became of the request in which this error was raised.

    Args:
        sent: whether the request was sent; None: nobody watched.
        arrived: a part of the answer had arrived.
        before: the error that was being handled when the request was made; it belongs to another request.
    """
    if arrived:
        return Delivery.UNKNOWN
    if sent is False:
        return Delivery.NOT_SENT
    for one in _chain(error, before):
        if isinstance(one, BaseExceptionGroup):
            found_inside = {delivery_of_error(inner, before=before) for inner in one.exceptions}
            return found_inside.pop() if len(found_inside) == 1 else Delivery.UNKNOWN
        try:
            found = _of_one(one)
        except Exception:  # attributes of another library's error may be anything
            return Delivery.UNKNOWN
        if found is not None:
            return found
    if sent is None and isinstance(error, TypeError) and _ARGUMENTS.search(str(error)):
        return Delivery.NOT_SENT
    return Delivery.UNKNOWN


def _of_one(error: BaseException) -> Delivery | None:
    """What one error of a chain proves; None: the errors that it was raised from have to be looked at."""
    names = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    if _tried_again(_headers(_get(error, "request"))) or _attempts(error) > 1:
        return Delivery.UNKNOWN
    if any(name in _UNCONNECTED for name in names) or _unwritten(error, names):
        return Delivery.NOT_SENT
    status = _status(error)
    if status is not None:
        response = _get(error, "response")
        hops = [_status_of(one) or 0 for one in _get(response, "history") or ()]
        return delivery_of_status(status, _body(error, response), _headers(response), hops)
    telling = any(package in CLIENTS for package, _ in names)
    return Delivery.UNKNOWN if telling and names[0] not in WRAPPERS else None


_UNCONNECTED = frozenset(
    (package, name)
    for packages, names in UNCONNECTED.items()
    for package in packages.split()
    for name in names
)


def _unwritten(error: BaseException, names: list[tuple[str, str]]) -> bool:
    """Whether a header could not be written (a key with a line break), so that nothing was sent."""
    return ("httpx", "LocalProtocolError") in [(p.rstrip("2"), n) for p, n in names] and (
        "Illegal header" in str(error)
    )


def _chain(error: BaseException, before: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, outermost first."""
    seen: list[BaseException] = []
    here: object = error
    while isinstance(here, BaseException) and here is not before and not any(here is one for one in seen):
        seen.append(here)
        yield here
        inner = [here.__cause__, _get(here, "reason"), *here.args[:1], here.__context__]
        here = next((one for one in inner if isinstance(one, BaseException)), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, wherever its library keeps it."""
    if not isinstance(error, Exception):
        return None
    response = _get(error, "response")
    if isinstance(response, Mapping):  # botocore
        response = (response.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    return _status_of(error) or _status_of(response)


def _status_of(there: Any) -> int | None:
    names = ("status_code", "status", "http_status", "code")
    found = [there, *(_get(there, name) for name in names)]
    numbers = (int(n) for n in found if isinstance(n, int) and not isinstance(n, bool))
    return next((n for n in numbers if 100 <= n < 1000), None)


def _attempts(error: BaseException) -> int:
    """How often a client tried, by its error; 1 where the error doesn't say."""
    response = _get(error, "response")
    if isinstance(response, Mapping):  # botocore
        return 1 + int((response.get("ResponseMetadata") or {}).get("RetryAttempts") or 0)
    return int(_get(_get(error, "last_attempt"), "attempt_number") or 1)  # tenacity


def _get(there: object, name: str) -> Any:
    """An attribute; None where there is none, or where reading the attribute raises (as httpx does)."""
    try:
        return getattr(there, name, None)
    except Exception:
        return None


def _headers(message: object) -> Mapping[str, str] | None:
    headers = _get(message, "headers")
    return headers if isinstance(headers, Mapping) else None


def _tried_again(headers: Mapping[str, str] | None) -> bool:
    """Whether a router, or a client of OpenAI's kind, says that it tried more than once."""
    values = {str(name).lower(): str(value) for name, value in (headers or {}).items()}
    return any(values.get(name, "").isdigit() and int(values[name]) > tries for name, tries in ONCE.items())


def _body(error: BaseException, response: object) -> object:
    body = _get(error, "body")
    return _get(response, "text") if body is None else body


def _vllm_refuses(body: object) -> bool:
    """Whether a 503 is vLLM's own, which it sends only before running a request: its queue is full, or the
    model is being scaled (0.31: `GracefulHTTPError`, `ScalingMiddleware`). A failed engine answers 500."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return False
    error: object = body.get("error", body) if isinstance(body, Mapping) else None
    if isinstance(error, str):
        return error.startswith("The model is currently scaling")
    # The status is a number there; LiteLLM, say, writes a string, and OpenAI a word
    return isinstance(error, Mapping) and {"message", "type"} <= error.keys() and error.get("code") == 503
