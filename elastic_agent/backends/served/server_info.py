"""Before the first call: a server's address, the models that it serves, and their tokenizers.

An address is accepted as people paste it: with or without `/v1`, with a slash too many, with an endpoint at
its end. Errors name the URL that was asked, and what to change.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from ...charging.delivery import Delivery, delivery_of_status
from ...errors import (
    BackendError,
    BackendProtocolError,
    BackendUnavailableError,
    UnknownModelError,
)
from ...model_location import hub_or_disk, model_path
from ..base import Codec
from .connection import Connection

EXAMPLE = "http://localhost:8000/v1"
_ENDPOINTS = re.compile(
    r"/(chat/completions|completions|models|responses|embeddings|tokenize|detokenize|health|metrics|messages)$"
)
_HOSTED = re.compile(
    r"(^|\.)(openai\.com|openai\.azure\.com|anthropic\.com|googleapis\.com|openrouter\.ai|mistral\.ai|"
    r"deepseek\.com|groq\.com|x\.ai|together\.(ai|xyz)|fireworks\.ai|cohere\.(ai|com)|amazonaws\.com)$"
)
"""Hosts of providers that take no token ids."""
_SECONDS = 10.0


def address(base_url: str) -> str:
    """The base URL up to and with `/v1`, from an address as people paste it.

    Raises:
        UnknownModelError: `base_url` is no URL.
    """
    given = base_url.strip()
    try:
        url = urlsplit(given)
        _ = url.port
    except ValueError as error:
        raise UnknownModelError(f"base_url is no URL ({error}), like {EXAMPLE}; got {base_url!r}") from error
    if url.scheme not in ("http", "https") or not url.hostname:
        named = f"http://{given}" if re.fullmatch(r"[\w.\-]+(:\d+)?(/\S*)?", given) else EXAMPLE
        raise UnknownModelError(f"base_url must begin with http(s)://, like {named}; got {base_url!r}")
    if url.query or url.fragment:
        raise UnknownModelError(
            f"base_url takes no ?query and no #fragment, like {EXAMPLE}; got {base_url!r}"
        )
    path = re.sub(r"/{2,}", "/", url.path).rstrip("/")
    while (shorter := _ENDPOINTS.sub("", path)) != path:
        path = shorter.rstrip("/")
    return urlunsplit((url.scheme, url.netloc, path or "/v1", "", ""))


@dataclass(frozen=True, slots=True)
class Listed:
    """A model on a server's list.

    Attributes:
        context_length: None when the server doesn't tell.
        root: what it was loaded from.
        owner: who says to serve it; "vllm" on vLLM.
    """

    context_length: int | None
    root: str | None
    owner: str | None


def models_in(text: str, url: str) -> dict[str, Listed]:
    """The models on a server's list, by name.

    Raises:
        BackendProtocolError: it is no such list.
    """
    try:
        return {
            str(entry["id"]): Listed(
                None if (length := entry.get("max_model_len")) is None else int(length),
                entry.get("root") or None,
                entry.get("owned_by") or None,
            )
            for entry in json.loads(text)["data"]
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        what = "with a web page" if _is_page(text) else f"with {text[:100]!r}"
        raise BackendProtocolError(
            f"{url} did not answer like an OpenAI server, but {what}: is base_url the address of vLLM's "
            f"API, like {EXAMPLE}?"
        ) from error


def not_served(base_url: str, model: str, served: Mapping[str, Listed]) -> UnknownModelError:
    """The error for a server that does not have the model."""
    names = ", ".join(sorted(served)) or "nothing"
    return UnknownModelError(f"{base_url} does not serve {model!r}; it serves {names}{_not_vllm(served)}")


def error_answer(status: int, text: str, url: str, model: str) -> BackendError:
    """The error for an answer with an error status, with what to do about it."""
    said = "a web page" if _is_page(text) else text.strip()[:500]
    hint = ""
    if "HTTPS port" in text or "HTTP request was sent to" in text:
        hint = ": the port speaks https, so base_url begins with https://"
    elif status in (401, 403):
        hint = ": api_key=, or ELASTIC_AGENT_API_KEY, is the server's key"
    elif status in (404, 405) and not re.search(r"model|lora", said, re.IGNORECASE):
        hint = f": base_url is up to and with /v1, like {EXAMPLE}"
    elif status == 400 and re.search(r"unmarshal|must be (a )?string|type string|encoding_format", said):
        hint = f": a server that takes no token ids. {GUARD}"
    message = f"{model}: the server answered {status} at {url}{hint}" + (f" ({said})" if said else "")
    return BackendUnavailableError(message) if status == 429 or status >= 500 else BackendError(message)


async def read_error(response: aiohttp.ClientResponse, url: str, model: str) -> tuple[BackendError, Delivery]:
    """The error of an answer with an error status, and what became of its request.

    Args:
        url: where the request was sent.
    """
    text = await response.text(errors="replace")
    hops = [hop.status for hop in response.history]
    delivery = delivery_of_status(response.status, text, response.headers, hops)
    return error_answer(response.status, text, url, model), delivery


def unreachable(error: BaseException, base_url: str) -> BackendUnavailableError:
    """The error for a server that could not be reached: why, and what to do."""
    said = str(error) or type(error).__name__
    if re.search(r"WRONG_VERSION_NUMBER|RECORD_LAYER|UNKNOWN_PROTOCOL|wrong version number", said):
        hint = "the port speaks http, so base_url begins with http://"
    elif "CERTIFICATE_VERIFY_FAILED" in said:
        hint = "its certificate is not trusted here (SSL_CERT_FILE names further ones)"
    elif re.search(r"BadStatusLine|Expected HTTP|Bad status line|Invalid status line", said + repr(error)):
        hint = "what listens there speaks no HTTP; https, or another port?"
    elif re.search(r"[Nn]ame or service|nodename|getaddrinfo|resolution", said):
        hint = "nobody knows this host: is its name right?"
    else:
        hint = "is the vLLM server running, on this host and port?"
    return BackendUnavailableError(f"{base_url} can't be reached ({said}): {hint}")


def ask_models(base_url: str, connection: Connection) -> dict[str, Listed]:
    """The models of a server.

    Raises:
        BackendUnavailableError: it can't be reached.
        BackendError: it answers with an error, or is no such server.
    """
    url = f"{base_url}/models"
    proxies = {} if connection.proxy is None else {urlsplit(url).scheme: connection.proxy}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        request = urllib.request.Request(url, headers=dict(connection.headers))
        with opener.open(request, timeout=_SECONDS) as response:
            return models_in(response.read().decode(errors="replace"), url)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        raise error_answer(error.code, text, url, "models") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise unreachable(reason if isinstance(reason, BaseException) else error, base_url) from error


def find_codec(
    model: str,
    tokenizer: str | None,
    base_url: str,
    connection: Connection,
    load: Callable[[str, str], Codec],
) -> Codec:
    """The codec of a served model: of the tokenizer that is named, or that goes by the model's name, or of
    what the server has loaded. The hub is asked only for what can be an id of it, and if it answers at all.

    Args:
        load: a codec from where its tokenizer is, and its model's name.

    Raises:
        UnknownModelError: there is no tokenizer, or the server does not serve the model.
        BackendError: the server had to be asked, and failed.
    """
    named = tokenizer or model
    path = Path(model_path(named)).expanduser()
    if path.is_dir():
        return load(str(path), named)
    if tokenizer:
        return load(hub_or_disk(tokenizer), tokenizer)
    if _HOSTED.search(urlsplit(base_url).hostname or ""):
        raise UnknownModelError(f"no tokenizer for {model!r} of {base_url}. {GUARD}")
    served = ask_models(base_url, connection)
    if model not in served:
        raise not_served(base_url, model, served)
    root = served[model].root
    if root and Path(root).is_dir():
        return load(root, model)
    ids = dict.fromkeys(name for name in (model, root) if name and re.fullmatch(r"[\w.\-]+/[\w.\-]+", name))
    reasons = []
    for name in ids:
        try:
            return load(hub_or_disk(name), model)
        except UnknownModelError as error:
            reasons.append(str(error))
    loaded = f", loaded from {root!r}" if root and root != model else ""
    raise UnknownModelError(
        f"no tokenizer for {model!r}, which {base_url} serves{loaded}: name a folder or a Hugging Face id "
        f"that has it, with tokenizer=...{_not_vllm(served)}" + "".join(f" ({reason})" for reason in reasons)
    )


GUARD = (
    "Thinking and solution are budgeted apart on vLLM, by token ids; put another provider's model under "
    "guard, like guard(ChatOpenAI(model=...), price=...) of elastic_agent.integrations.langchain"
)


def _not_vllm(served: Mapping[str, Listed]) -> str:
    """A hint where the list of models is not vLLM's; else ""."""
    like_vllm = any(one.owner == "vllm" or one.context_length is not None for one in served.values())
    return f". {GUARD}" if served and not like_vllm else ""


def _is_page(text: str) -> bool:
    return text.lstrip()[:15].lower().startswith(("<!doctype", "<html"))
