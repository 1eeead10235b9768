"""What became of a request: law 2 where nobody knows, and nothing charged where it is certain."""

from __future__ import annotations

import asyncio
import builtins
import http.client
import re
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import openai
import pytest
import requests
import urllib3
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from yarl import URL

from elastic_agent.charging.delivery import Delivery, delivery_of_error, delivery_of_status
from elastic_agent.charging.known_outcomes import REFUSING, TELLING_NOTHING, UNCONNECTED

DOCS = Path(__file__).parents[3] / "docs" / "charges.md"
ABSENT = ("botocore", "google")
NOT_SENT, REFUSED, UNKNOWN = Delivery.NOT_SENT, Delivery.REFUSED, Delivery.UNKNOWN
ASKED = httpx.Request("POST", "http://localhost/v1")
ASKED2 = httpx2.Request("POST", "http://localhost/v1")
KEY = ConnectionKey("localhost", 1, False, True, None, None, None)


def caused(error: BaseException, *causes: BaseException) -> BaseException:
    """An error that was raised from others."""
    here = error
    for cause in causes:
        here.__cause__ = cause
        here = cause
    return error


def seen(error: BaseException, context: BaseException) -> BaseException:
    """An error that was raised while another was handled."""
    error.__context__ = context
    return error


def foreign(package: str, name: str, **attributes: Any) -> Exception:
    """An error of a library that is not installed here."""
    kind = type(name, (Exception,), {"__module__": f"{package}.exceptions"})
    error: Exception = kind("told")
    for attribute, value in attributes.items():
        setattr(error, attribute, value)
    return error


def status(code: int, body: Any = None, **headers: str) -> openai.APIStatusError:
    """An answer as OpenAI's client raises it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(code, request=ASKED2, headers=named)
    return openai.APIStatusError("told", response=response, body=body)


def aws(code: int, tries: int = 0) -> Exception:
    metadata = {"HTTPStatusCode": code, "RetryAttempts": tries}
    return foreign("botocore", "ClientError", response={"Error": {}, "ResponseMetadata": metadata})


def retried(count: str) -> openai.APIConnectionError:
    """A connection that failed at a later try of OpenAI's client."""
    request = httpx2.Request("POST", "http://localhost/v1", headers={"x-stainless-retry-count": count})
    return openai.APIConnectionError(request=request)


REFUSES = {"error": {"message": "full", "type": "Service Unavailable", "param": None, "code": 503}}

ERRORS: list[tuple[BaseException, Delivery]] = [
    # No connection came about
    (httpx.ConnectError("refused"), NOT_SENT),
    (httpx2.ConnectTimeout("late"), NOT_SENT),
    (httpx.PoolTimeout("full"), NOT_SENT),
    (httpx.ProxyError("407"), NOT_SENT),
    (httpx.UnsupportedProtocol("ftp"), NOT_SENT),
    (httpx2.LocalProtocolError("Illegal header value b'Bearer k\\n'"), NOT_SENT),
    (caused(openai.APIConnectionError(request=ASKED2), httpx2.ConnectError("refused")), NOT_SENT),
    (caused(openai.APITimeoutError(request=ASKED2), httpx2.ConnectTimeout("late")), NOT_SENT),
    (caused(RuntimeError("a wrapper"), ValueError("another"), httpx.ConnectError("x")), NOT_SENT),
    (seen(RuntimeError("a wrapper that says not whose"), httpx.ConnectError("x")), NOT_SENT),
    (aiohttp.ClientConnectorError(KEY, OSError("refused")), NOT_SENT),
    (aiohttp.ClientConnectorDNSError(KEY, OSError("no name")), NOT_SENT),
    (aiohttp.ConnectionTimeoutError("late"), NOT_SENT),
    (requests.ConnectTimeout("late"), NOT_SENT),
    (requests.exceptions.InvalidHeader("a line break"), NOT_SENT),
    (requests.exceptions.MissingSchema("no http"), NOT_SENT),
    (
        requests.ConnectionError(
            urllib3.exceptions.MaxRetryError(
                urllib3.HTTPConnectionPool("x"),
                "/",
                urllib3.exceptions.NewConnectionError(None, "x"),  # type: ignore[arg-type]
            )
        ),
        NOT_SENT,
    ),
    (foreign("botocore", "EndpointConnectionError"), NOT_SENT),
    (foreign("botocore", "ParamValidationError"), NOT_SENT),
    (foreign("botocore", "NoCredentialsError"), NOT_SENT),
    (caused(ValueError("langchain"), foreign("google", "GoogleAuthError")), NOT_SENT),
    (caused(foreign("anthropic", "APIConnectionError"), httpx.ConnectError("x")), NOT_SENT),
    (ConnectionRefusedError(111, "refused"), NOT_SENT),
    (socket.gaierror(-2, "no name"), NOT_SENT),
    (ssl.SSLCertVerificationError("self-signed"), NOT_SENT),
    (TypeError("create() got an unexpected keyword argument 'reasoning_effort'"), NOT_SENT),
    (ExceptionGroup("both", [httpx.ConnectError("a"), ConnectionRefusedError("b")]), NOT_SENT),
    # Said by who would have served it
    (status(400), REFUSED),
    (status(401), REFUSED),
    (status(429), REFUSED),
    (status(503, REFUSES), REFUSED),
    (status(503, REFUSES["error"]), REFUSED),
    (caused(RuntimeError("langchain"), status(404)), REFUSED),
    (foreign("anthropic", "RateLimitError", status_code=429), REFUSED),
    (foreign("google", "ClientError", code=400, status="INVALID_ARGUMENT"), REFUSED),
    (aiohttp.ClientResponseError(RequestInfo(URL("http://x"), "POST", {}), (), status=403), REFUSED),  # type: ignore[arg-type]
    (httpx.HTTPStatusError("x", request=ASKED, response=httpx.Response(422)), REFUSED),
    (aws(400), REFUSED),
    (aws(429), REFUSED),
    # Nobody knows
    (status(408), UNKNOWN),
    (status(409), UNKNOWN),
    (status(499), UNKNOWN),
    (status(500), UNKNOWN),
    (status(503), UNKNOWN),
    (status(503, {"error": {"message": "x", "type": "y", "code": "503"}}), UNKNOWN),
    (status(503, "<html>no healthy upstream</html>"), UNKNOWN),
    (status(529, {"type": "error", "error": {"type": "overloaded_error"}}), UNKNOWN),
    (status(200), UNKNOWN),
    (status(429, x_litellm_attempted_retries="1"), UNKNOWN),
    (status(401, x_envoy_attempt_count="3"), UNKNOWN),
    (aws(424), UNKNOWN),
    (aws(429, tries=2), UNKNOWN),
    (foreign("tenacity", "RetryError", last_attempt=foreign("x", "Attempt", attempt_number=3)), UNKNOWN),
    (foreign("google", "ServerError", code=503, status="UNAVAILABLE"), UNKNOWN),
    (foreign("google", "Cancelled", code=499), UNKNOWN),
    (caused(retried("1"), httpx2.ConnectError("refused, the second time")), UNKNOWN),
    (caused(retried("0"), httpx2.ConnectError("refused")), NOT_SENT),
    (httpx.ReadTimeout("late"), UNKNOWN),
    (httpx.WriteError("broken"), UNKNOWN),
    (httpx2.RemoteProtocolError("cut"), UNKNOWN),
    (caused(openai.APITimeoutError(request=ASKED2), httpx2.ReadTimeout("late")), UNKNOWN),
    (openai.APIConnectionError(request=ASKED2), UNKNOWN),
    (seen(httpx.ReadTimeout("late"), httpx.ConnectError("an address that was tried before")), UNKNOWN),
    (aiohttp.ServerDisconnectedError(), UNKNOWN),
    (aiohttp.ClientPayloadError("cut"), UNKNOWN),
    (requests.ReadTimeout("late"), UNKNOWN),
    (requests.ConnectionError(urllib3.exceptions.ProtocolError("reset", ConnectionResetError())), UNKNOWN),
    (foreign("botocore", "ReadTimeoutError"), UNKNOWN),
    (foreign("botocore", "EventStreamError"), UNKNOWN),
    (ConnectionResetError("reset"), UNKNOWN),
    (BrokenPipeError("broken"), UNKNOWN),
    (TimeoutError("late"), UNKNOWN),
    (asyncio.CancelledError(), UNKNOWN),
    (KeyboardInterrupt(), UNKNOWN),
    (GeneratorExit(), UNKNOWN),
    (SystemExit(404), UNKNOWN),
    (TypeError("Received response with null value for `choices`."), UNKNOWN),
    (ValueError("{'code': 429, 'message': 'in an answer of 200'}"), UNKNOWN),
    (ExceptionGroup("both", [httpx.ConnectError("a"), httpx.ReadTimeout("b")]), UNKNOWN),
]


@pytest.mark.parametrize(("error", "delivery"), ERRORS, ids=lambda value: repr(value)[:80])
def test_what_an_error_says(error: BaseException, delivery: Delivery) -> None:
    """Each kind of error, of each library, as it comes; content that had arrived was served."""
    assert delivery_of_error(error) is delivery
    assert delivery_of_error(error, arrived=True) is UNKNOWN
    assert delivery_of_error(error, sent=False) is NOT_SENT


def test_every_status() -> None:
    """A status is a refusal by the table, or tells nothing."""
    for code in range(100, 600):
        assert delivery_of_status(code) is (REFUSED if code in REFUSING else UNKNOWN)
        assert delivery_of_status(code, hops=[303]) is UNKNOWN
        assert code not in REFUSING or code not in TELLING_NOTHING


def while_handling(before: BaseException) -> BaseException:
    """An error that comes of itself while another is handled."""
    try:
        try:
            raise before
        except Exception:
            raise RuntimeError("the second one broke off")  # noqa: B904 (as code does that nobody asked)
    except RuntimeError as error:
        return error


def test_an_error_of_another_request() -> None:
    """A request made while an error is handled: that error is not its own, though Python links the two."""
    before = httpx.ConnectError("the first one")
    error = while_handling(before)
    assert delivery_of_error(error) is NOT_SENT
    assert delivery_of_error(error, before=before) is UNKNOWN


def test_a_circle_of_causes_ends() -> None:
    """Libraries have made them."""
    one, other = RuntimeError("a"), RuntimeError("b")
    one.__cause__, other.__cause__ = other, one
    assert delivery_of_error(one) is UNKNOWN


def test_each_class_is_one_of_its_packages() -> None:
    """A name that is misspelt in the table is found, as far as its package is installed here."""
    here = [
        httpx,
        httpx2,
        aiohttp,
        requests.exceptions,
        urllib3.exceptions,
        builtins,
        socket,
        ssl,
        http.client,
    ]
    known = {name for packages, names in UNCONNECTED.items() for name in names if packages not in ABSENT}
    assert {name for name in known if not any(hasattr(module, name) for module in here)} == set()


ODD: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1.5,
    "429",
    b"",
    [],
    {},
    {"ResponseMetadata": 7},
    object(),
    ValueError,
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize(
    "name",
    ["status_code", "status", "code", "response", "request", "body", "reason", "last_attempt", "headers"],
)
def test_attributes_that_are_anything(name: str, value: Any) -> None:
    """Whatever stands in an error of another library: nobody knows, and nothing is raised."""
    assert delivery_of_error(foreign("other", "Error", **{name: value})) is UNKNOWN
    response = type("Response", (), {name: value, "history": value, "text": value})()
    assert delivery_of_error(foreign("other", "Error", response=response)) is UNKNOWN
    assert delivery_of_error(foreign("other", "Error", status_code=503, body=value)) is UNKNOWN


def test_the_page_says_what_the_tables_say() -> None:
    """docs/charges.md: its statuses are those of the module, with the same words."""
    rows = dict(re.findall(r"^\| (\d{3}) \| (.+?) \|", DOCS.read_text(), re.M))
    nothing = dict(re.findall(r"^\| (\d{3}) \| [^|]+ \| (\w[^|]*) \|", DOCS.read_text(), re.M))
    assert {int(code): words for code, words in rows.items()} == {**REFUSING, **TELLING_NOTHING}
    assert {int(code) for code, charge in nothing.items() if charge.strip() == "nothing"} == set(REFUSING)
    for packages, names in UNCONNECTED.items():
        row = " | ".join(", ".join(f"`{one}`" for one in part) for part in (packages.split(), names))
        assert f"| {row} |" in DOCS.read_text()
